//! Components that are read from their files when they are needed.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use burn::tensor::Tensor;
use sd_core::{
    Autoencoder, AutoencoderSpec, Conditioning, Denoiser, DenoiserSpec, Held, Noise, Resident,
    Result, TextEmbedding, TextEncoder, WeightBytes,
};
use sd_models::ClipTextFiles;
use sd_models::unet::UNetFiles;
use sd_models::vae::VaeFiles;

/// When the components of a pipeline are in memory.
///
/// Whatever it is, all files are checked when the pipeline is opened: configurations, headers, the
/// names and shapes of all tensors. Only reading the values can fail later, when a file is gone or
/// cut short meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Residency {
    /// From opening on.
    #[default]
    Always,
    /// From when each is first needed.
    OnDemand,
    /// While a run needs it: the text encoder to encode, the denoiser from there to the last step,
    /// the autoencoder to decode. What several runs need at once is there once.
    PerPhase,
}

/// The files of a component.
pub(crate) trait Source: Send + Sync {
    type Component: Resident + 'static;

    fn load(&self) -> sd_models::Result<Self::Component>;
}

macro_rules! sources {
    ($($files:ty => $component:ty),*) => {$(
        impl Source for $files {
            type Component = $component;

            fn load(&self) -> sd_models::Result<$component> {
                self.load()
            }
        }
    )*};
}

sources!(
    ClipTextFiles => sd_models::ClipTextEncoder,
    UNetFiles => sd_models::unet::UNet,
    VaeFiles => sd_models::vae::Vae
);

/// A component that is loaded from `files` when it is needed.
pub(crate) struct OnDemand<S: Source> {
    files: S,
    residency: Residency,
    state: Mutex<State<S::Component>>,
    loaded: Condvar,
}

struct State<C> {
    /// What stays although nobody holds it.
    kept: Option<Arc<C>>,
    /// What is loaded, as long as somebody holds it.
    lent: Weak<C>,
    loading: Option<ThreadId>,
    /// Time that loading took so far.
    spent: Duration,
}

impl<S: Source> OnDemand<S> {
    /// The component of `files`; with [`Residency::Always`] it is loaded here.
    pub(crate) fn new(files: S, residency: Residency) -> sd_models::Result<Self> {
        let component = Self {
            files,
            residency,
            state: Mutex::new(State {
                kept: None,
                lent: Weak::new(),
                loading: None,
                spent: Duration::ZERO,
            }),
            loaded: Condvar::new(),
        };
        if residency == Residency::Always {
            component.get()?;
        }
        Ok(component)
    }

    fn state(&self) -> MutexGuard<'_, State<S::Component>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The component, loaded if it is not.
    fn get(&self) -> sd_models::Result<Arc<S::Component>> {
        let me = thread::current().id();
        let mut state = self.state();
        loop {
            if let Some(component) = state.lent.upgrade() {
                return Ok(component);
            }
            match state.loading {
                None => break,
                // While this thread waited for the others to do their share of the loading, rayon
                // gave it work that needs the component: waiting here would be forever.
                Some(thread) if thread == me => return Ok(Arc::new(self.files.load()?)),
                Some(_) => {
                    let woken = self.loaded.wait(state);
                    state = woken.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        state.loading = Some(me);
        drop(state);
        // Also when loading panics: those who wait must not wait for ever.
        let done = Done(self);
        let clock = Instant::now();
        let component = Arc::new(self.files.load()?);
        let mut state = self.state();
        state.spent += clock.elapsed();
        state.lent = Arc::downgrade(&component);
        state.kept = (self.residency != Residency::PerPhase).then(|| component.clone());
        drop(state);
        drop(done);
        Ok(component)
    }
}

/// Ends the loading.
struct Done<'a, S: Source>(&'a OnDemand<S>);

impl<S: Source> Drop for Done<'_, S> {
    fn drop(&mut self) {
        self.0.state().loading = None;
        self.0.loaded.notify_all();
    }
}

impl<S: Source> Resident for OnDemand<S> {
    fn weights(&self) -> WeightBytes {
        let component = self.state().lent.upgrade();
        component.map_or_else(WeightBytes::default, |component| component.weights())
    }

    fn load_time(&self) -> Duration {
        self.state().spent
    }

    fn hold(&self) -> Result<Held> {
        Ok(Held::new(self.get()?))
    }

    fn release(&self) {
        let kept = self.state().kept.take();
        // Freed without the lock.
        drop(kept);
    }
}

impl TextEncoder for OnDemand<ClipTextFiles> {
    fn encode(&self, prompts: &[&str]) -> Result<TextEmbedding> {
        self.get()?.encode(prompts)
    }

    fn resident(&self) -> Option<&dyn Resident> {
        Some(self)
    }
}

impl Denoiser for OnDemand<UNetFiles> {
    fn spec(&self) -> &DenoiserSpec {
        self.files.spec()
    }

    fn prepare(&self, conditioning: Conditioning) -> Result<Conditioning> {
        self.get()?.prepare(conditioning)
    }

    fn predict(&self, x: Tensor<4>, t: f64, conditioning: &Conditioning) -> Result<Tensor<4>> {
        self.get()?.predict(x, t, conditioning)
    }

    fn resident(&self) -> Option<&dyn Resident> {
        Some(self)
    }
}

impl Autoencoder for OnDemand<VaeFiles> {
    fn spec(&self) -> &AutoencoderSpec {
        self.files.spec()
    }

    fn encode(&self, image: Tensor<4>, noise: Option<&mut dyn Noise>) -> Result<Tensor<4>> {
        self.get()?.encode(image, noise)
    }

    fn decode(&self, latent: Tensor<4>) -> Result<Tensor<4>> {
        self.get()?.decode(latent)
    }

    fn resident(&self) -> Option<&dyn Resident> {
        Some(self)
    }
}
