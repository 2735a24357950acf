//! Components in their places, read from their files when they are needed.

use std::io;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use sd_core::{Autoencoder, AutoencoderSpec, Denoiser, DenoiserSpec, TextEncoder, WeightBytes};
use sd_models::lora::{LoraFile, LoraStrength, Matches};
use sd_models::unet::UNetFiles;
use sd_models::{LayerChanges, OutputReplay, TextualInversion};

use crate::work::{Footprint, Work};
use crate::{Error, Result};

/// Times at which the components of a pipeline are in memory.
///
/// Whatever it is, all files are checked when the pipeline is opened: configurations, headers, the
/// names and shapes of all tensors. Only reading the values can fail later, when a file is gone or
/// cut short meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Residency {
    /// From opening on.
    #[default]
    Always,
    /// From when each is first needed.
    OnDemand,
    /// While a run needs it: the text encoder to encode, the denoiser from there to the last step,
    /// the autoencoder to decode, the safety checker to check. What several runs need at once is there once.
    PerPhase,
}

/// A component's trait, with what is known of a component before it is loaded.
pub trait Component: Send + Sync {
    /// The facts: [`DenoiserSpec`], [`AutoencoderSpec`], or nothing.
    type Spec;

    /// Facts of a loaded component.
    fn facts(&self) -> &Self::Spec;
}

impl Component for dyn TextEncoder {
    type Spec = ();

    fn facts(&self) -> &() {
        &()
    }
}

impl Component for dyn Denoiser {
    type Spec = DenoiserSpec;

    fn facts(&self) -> &DenoiserSpec {
        self.spec()
    }
}

impl Component for dyn Autoencoder {
    type Spec = AutoencoderSpec;

    fn facts(&self) -> &AutoencoderSpec {
        self.spec()
    }
}

/// Files of a component, found sound.
pub trait Source<T: Component + ?Sized>: Send + Sync {
    /// Facts of the component they hold.
    fn spec(&self) -> &T::Spec;

    /// Reads the component, and says what memory its weights take.
    ///
    /// # Errors
    /// Those of reading the files.
    fn load(&self) -> Result<(Arc<T>, WeightBytes)>;

    /// The same files with the changes of `lora` to be merged into their weights, `strength` times
    /// each, what it found noted in `matches`. The default is `None`: a component of its kind is
    /// never changed.
    ///
    /// # Errors
    /// [`sd_models::Error::Adapter`] for changes that cannot be.
    fn with_lora(
        &self,
        lora: &LoraFile,
        strength: &LoraStrength,
        matches: &mut Matches,
    ) -> Result<Option<Box<dyn Source<T>>>> {
        let _ = (lora, strength, matches);
        Ok(None)
    }

    /// The changes of `lora` as what acts beside the layers of the component's networks, one entry for
    /// each of them; the component is told them as [`BesideLayers`](sd_models::BesideLayers). None,
    /// the default, of a component that reads no such.
    ///
    /// # Errors
    /// [`sd_models::Error::Adapter`] for changes that cannot act so.
    fn lora_beside(
        &self,
        lora: &LoraFile,
        strength: &LoraStrength,
        matches: &mut Matches,
    ) -> Result<Vec<LayerChanges>> {
        let _ = (lora, strength, matches);
        Ok(Vec::new())
    }

    /// The files of the U-Net that the component is, for networks that are changes of it; `None`, the
    /// default, where it is none.
    fn unet(&self) -> Option<&UNetFiles> {
        None
    }

    /// Memory that the component takes, as far as its files tell.
    fn footprint(&self) -> Option<&dyn Footprint> {
        None
    }

    /// The same files with a word more; `None`, the default, for a component that reads none.
    ///
    /// # Errors
    /// [`sd_models::Error::Adapter`] for a word that does not fit.
    fn with_word(&self, word: &TextualInversion) -> Result<Option<Box<dyn Source<T>>>> {
        let _ = word;
        Ok(None)
    }

    /// `true` where [`load`](Self::load) is, or may be, the work of rayon's threads: it then gets a
    /// pool of its own. `false` has it run in the thread that first needs the component, which suits
    /// a GPU.
    fn uses_threads(&self) -> bool {
        true
    }
}

/// Place of one component in a [`Pipeline`](crate::Pipeline): there from the beginning, or loaded
/// when it is needed and let go afterwards.
///
/// A component becomes a slot with `into()`; clones are the same slot. Nobody counts users: what
/// [`get`](Self::get) returns keeps the component loaded as long as it lives.
///
/// ```
/// # fn swap(pipeline: &mut sd_pipeline::Pipeline, denoiser: impl sd_pipeline::Denoiser + 'static) {
/// pipeline.denoiser = denoiser.into();
/// # }
/// ```
pub struct Slot<T: Component + ?Sized>(Arc<Content<T>>);

enum Content<T: Component + ?Sized> {
    Ready(Arc<T>, WeightBytes),
    OnDemand(OnDemand<T>),
}

struct OnDemand<T: Component + ?Sized> {
    source: Box<dyn Source<T>>,
    residency: Residency,
    state: Mutex<State<T>>,
    loaded: Condvar,
}

struct State<T: Component + ?Sized> {
    /// The component, if it stays although nobody holds it.
    kept: Option<Arc<T>>,
    /// The component, as long as somebody holds it.
    lent: Option<Weak<T>>,
    weights: WeightBytes,
    loading: bool,
    /// Time that loading took so far.
    spent: Duration,
}

impl<T: Component + ?Sized> State<T> {
    fn lent(&self) -> Option<Arc<T>> {
        self.lent.as_ref().and_then(Weak::upgrade)
    }
}

impl<T: Component + ?Sized> Slot<T> {
    /// A slot with a component that is there for good.
    pub fn new(component: Arc<T>) -> Self {
        Self::with_weights(component, WeightBytes::default())
    }

    /// A slot with a component that is there for good, and the memory its weights take, for
    /// [`Pipeline::memory`](crate::Pipeline::memory).
    pub fn with_weights(component: Arc<T>, weights: WeightBytes) -> Self {
        Self(Arc::new(Content::Ready(component, weights)))
    }

    /// A slot with the component of `source`; with [`Residency::Always`] it is loaded here.
    ///
    /// # Errors
    /// Those of loading.
    pub fn on_demand(source: impl Source<T> + 'static, residency: Residency) -> Result<Self> {
        let slot = Self::boxed(Box::new(source), residency);
        slot.load()?;
        Ok(slot)
    }

    /// The same with nothing loaded yet, whatever the residency.
    pub(crate) fn boxed(source: Box<dyn Source<T>>, residency: Residency) -> Self {
        let slot = OnDemand {
            source,
            residency,
            state: Mutex::new(State {
                kept: None,
                lent: None,
                weights: WeightBytes::default(),
                loading: false,
                spent: Duration::ZERO,
            }),
            loaded: Condvar::new(),
        };
        Self(Arc::new(Content::OnDemand(slot)))
    }

    /// Loads a component that is to be there always.
    ///
    /// # Errors
    /// Those of loading.
    pub(crate) fn load(&self) -> Result<()> {
        match self.residency() {
            Residency::Always => self.get().map(drop),
            Residency::OnDemand | Residency::PerPhase => Ok(()),
        }
    }

    /// The files it is read from, where it is.
    pub(crate) fn source(&self) -> Option<&dyn Source<T>> {
        match &*self.0 {
            Content::Ready(..) => None,
            Content::OnDemand(slot) => Some(&*slot.source),
        }
    }

    /// Facts of the component, loaded or not.
    pub fn spec(&self) -> &T::Spec {
        match &*self.0 {
            Content::Ready(component, _) => component.facts(),
            Content::OnDemand(slot) => slot.source.spec(),
        }
    }

    /// The component, loaded if it is not.
    ///
    /// # Errors
    /// Those of loading.
    pub fn get(&self) -> Result<Arc<T>> {
        match &*self.0 {
            Content::Ready(component, _) => Ok(component.clone()),
            Content::OnDemand(slot) => slot.get(),
        }
    }

    /// The weights in memory now.
    pub fn weights(&self) -> WeightBytes {
        match &*self.0 {
            Content::Ready(_, weights) => *weights,
            Content::OnDemand(slot) => {
                let state = slot.state();
                let loaded = state.lent().is_some();
                if loaded {
                    state.weights
                } else {
                    WeightBytes::default()
                }
            }
        }
    }

    /// Memory that the component takes; `None` of one that the program made.
    pub(crate) fn footprint(&self) -> Option<&dyn Footprint> {
        match &*self.0 {
            Content::Ready(..) => None,
            Content::OnDemand(slot) => slot.source.footprint(),
        }
    }

    /// Bytes that `work` will take, where that is known.
    pub(crate) fn work_bytes(&self, work: Work, outputs: &mut OutputReplay) -> Option<u64> {
        self.footprint()?.work_bytes(work, outputs)
    }

    /// The times at which the component is in memory.
    pub(crate) fn residency(&self) -> Residency {
        match &*self.0 {
            Content::Ready(..) => Residency::Always,
            Content::OnDemand(slot) => slot.residency,
        }
    }

    /// The time that loading took, each time it was loaded.
    pub fn load_time(&self) -> Duration {
        match &*self.0 {
            Content::Ready(..) => Duration::ZERO,
            Content::OnDemand(slot) => slot.state().spent,
        }
    }

    /// Lets go of a component that can be loaded again; its memory is free once nobody holds it
    /// any more.
    pub fn release(&self) {
        if let Content::OnDemand(slot) = &*self.0 {
            let kept = slot.state().kept.take();
            // Freed without the lock.
            drop(kept);
        }
    }
}

impl<T: Component + ?Sized> OnDemand<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self) -> Result<Arc<T>> {
        let mut state = self.state();
        loop {
            if let Some(component) = state.lent() {
                return Ok(component);
            }
            if !state.loading {
                break;
            }
            let woken = self.loaded.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        state.loading = true;
        drop(state);
        // Also when loading panics: those who wait must not wait for ever.
        let done = Done(self);
        let clock = Instant::now();
        let (component, weights) = match self.source.uses_threads() {
            true => apart(|| self.source.load())?,
            false => self.source.load()?,
        };
        let mut state = self.state();
        state.spent += clock.elapsed();
        state.weights = weights;
        state.lent = Some(Arc::downgrade(&component));
        state.kept = (self.residency != Residency::PerPhase).then(|| component.clone());
        drop(state);
        drop(done);
        Ok(component)
    }
}

/// Runs `load` in a pool of its own, of as many threads as the caller's, while the caller sleeps.
///
/// A rayon thread that waits for a part of its work takes on whatever else its pool has to do. If a
/// component were loaded by the threads of a program's pool, one that waits for the rest of its piece
/// could begin another generation, which needs this component or another that is being loaded: it
/// would sleep above the very piece for which the loading waits, and for ever. Going on to work
/// instead of sleeping would not help, for what lies below on its stack still could not end. In this
/// pool there is nothing but the one load, so it ends whoever waits for it, and with it their waiting.
/// The thread between the two is there because a rayon thread that hands work to another pool does
/// not sleep either.
fn apart<R: Send>(load: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    let lost = |e: io::Error| Error::io(Path::new("threads to load with"))(e);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(rayon::current_num_threads())
        .thread_name(|index| format!("load-{index}"))
        .build()
        .map_err(|e| lost(io::Error::other(e)))?;
    let span = tracing::Span::current();
    let load = || pool.install(|| span.in_scope(load));
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("load".into());
        let thread = thread.spawn_scoped(scope, load).map_err(lost)?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Ends the loading.
struct Done<'a, T: Component + ?Sized>(&'a OnDemand<T>);

impl<T: Component + ?Sized> Drop for Done<'_, T> {
    fn drop(&mut self) {
        self.0.state().loading = false;
        self.0.loaded.notify_all();
    }
}

impl<T: Component + ?Sized> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Component + ?Sized> std::fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &*self.0 {
            Content::Ready(..) => "ready",
            Content::OnDemand(slot) if slot.state().lent().is_some() => "loaded",
            Content::OnDemand(_) => "on demand",
        };
        f.debug_tuple("Slot").field(&state).finish()
    }
}

impl<C: TextEncoder + 'static> From<C> for Slot<dyn TextEncoder> {
    fn from(component: C) -> Self {
        Self::new(Arc::new(component))
    }
}

impl<C: Denoiser + 'static> From<C> for Slot<dyn Denoiser> {
    fn from(component: C) -> Self {
        Self::new(Arc::new(component))
    }
}

impl<C: Autoencoder + 'static> From<C> for Slot<dyn Autoencoder> {
    fn from(component: C) -> Self {
        Self::new(Arc::new(component))
    }
}
