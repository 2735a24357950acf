use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::{DType, Tensor, TensorData};

use crate::{
    Cancel, Conditioning, Denoiser, DenoiserSpec, Error, Network, NoiseSchedule, Result, SavedState,
};

/// A denoiser that sees a large latent through windows that overlap, and says the mean of what it
/// says of each (MultiDiffusion, Bar-Tal et al. 2023, arXiv:2302.08113): a panorama of any length at
/// the size the network was trained at.
///
/// Outputs are averaged before guidance, which then sees the whole picture; for a solver without
/// noise and guidance that is linear this is the paper's mean of latents. A network that remembers
/// (a cache of features) does so for each window apart. The last windows end at the picture's end,
/// whatever the stride.
pub struct TiledDenoiser {
    inner: Arc<dyn Denoiser>,
    tiles: Tiles,
}

/// Windows of a [`TiledDenoiser`], in latent pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Tiles {
    /// Height and width of a window; a latent that is smaller is one window.
    pub window: [usize; 2],
    /// Distance from a window to the next, down and across, 1 to the window's sides.
    pub stride: [usize; 2],
    /// `true` for a panorama of 360 degrees: windows go on beyond the right end at the left.
    pub circular: bool,
}

impl TiledDenoiser {
    /// `inner`, seen through `tiles`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a stride of 0 or beyond the window, which leaves gaps;
    /// [`Error::Unsupported`] for a denoiser that takes channels beside the latent, of which no
    /// window is cut.
    pub fn new(inner: Arc<dyn Denoiser>, tiles: Tiles) -> Result<Self> {
        tiles.check(inner.spec())?;
        Ok(Self { inner, tiles })
    }
}

impl Tiles {
    /// A check that a denoiser of that `spec` can be seen through these windows.
    ///
    /// # Errors
    /// Those of [`TiledDenoiser::new`].
    pub fn check(self, spec: &DenoiserSpec) -> Result<()> {
        for (window, stride) in self.window.into_iter().zip(self.stride) {
            if stride == 0 || stride > window {
                let expected = format!("expected 1 to the window's side, {window}");
                return Err(Error::invalid("the windows' stride", stride, expected));
            }
        }
        match spec.concat_channels {
            0 => Ok(()),
            _ => {
                let reason = "windows for a network that takes channels beside the latent";
                Err(Error::Unsupported(reason.into()))
            }
        }
    }

    /// The first rows or columns of all windows along a side, and a window's own side.
    fn along(self, axis: usize, side: usize) -> (Vec<usize>, usize) {
        let (window, stride) = (self.window[axis], self.stride[axis]);
        if side <= window {
            return (vec![0], side);
        }
        let around = self.circular && axis == 1;
        let end = if around { side } else { side - window };
        let mut starts: Vec<usize> = (0..end).step_by(stride).collect();
        if !around {
            starts.push(end);
        }
        (starts, window)
    }
}

impl Denoiser for TiledDenoiser {
    fn spec(&self) -> &DenoiserSpec {
        self.inner.spec()
    }

    fn schedule(&self, latent: [usize; 2]) -> Result<Arc<NoiseSchedule>> {
        self.inner.schedule(latent)
    }

    fn prepare(self: Arc<Self>, branches: Vec<Conditioning>) -> Result<Box<dyn Network>> {
        let mut placed = branches.iter().map(|branch| branch.extensions.of_places());
        if let Some(name) = placed.find_map(|name| name) {
            let reason = format!("windows of a picture of which places are told: {name}");
            return Err(Error::Unsupported(reason));
        }
        Ok(Box::new(TiledNetwork {
            inner: self.inner.clone().prepare(branches)?,
            tiles: self.tiles,
            memories: Mutex::default(),
        }))
    }
}

struct TiledNetwork {
    inner: Box<dyn Network>,
    tiles: Tiles,
    /// What the network remembers of each window.
    memories: Mutex<Vec<SavedState>>,
}

impl TiledNetwork {
    fn memories(&self) -> MutexGuard<'_, Vec<SavedState>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Columns `from..from + count` of `x`, beyond whose right end its left begins again.
fn columns(x: &Tensor<4>, from: usize, count: usize) -> Tensor<4> {
    let width = x.dims()[3];
    let first = count.min(width - from);
    let part = x.clone().narrow(3, from, first);
    match count - first {
        0 => part,
        rest => Tensor::cat(vec![part, x.clone().narrow(3, 0, rest)], 3),
    }
}

impl Network for TiledNetwork {
    fn predict(
        &self,
        x: &Tensor<4>,
        t: f64,
        branches: &[usize],
        cancel: &Cancel,
    ) -> Result<Vec<Tensor<4>>> {
        let [_, _, h, w] = x.dims();
        let (tops, height) = self.tiles.along(0, h);
        let (lefts, width) = self.tiles.along(1, w);
        if tops.len() * lefts.len() == 1 {
            return self.inner.predict(x, t, branches, cancel);
        }
        let mut sums: Vec<Option<Tensor<4>>> = vec![None; branches.len()];
        let mut counts = vec![0.0_f32; h * w];
        let corners = tops
            .iter()
            .flat_map(|top| lefts.iter().map(move |left| (*top, *left)));
        for (k, (top, left)) in corners.enumerate() {
            let memory = self.memories().get(k).cloned().unwrap_or_default();
            self.inner.restore(&memory)?;
            let window = columns(&x.clone().narrow(2, top, height), left, width);
            let outputs = self.inner.predict(&window, t, branches, cancel)?;
            let memory = self.inner.save();
            let mut memories = self.memories();
            let count = memories.len().max(k + 1);
            memories.resize(count, SavedState::default());
            memories[k] = memory;
            drop(memories);
            for row in top..top + height {
                for column in left..left + width {
                    counts[row * w + column % w] += 1.0;
                }
            }
            for (sum, output) in sums.iter_mut().zip(outputs) {
                let [n, c, ..] = output.dims();
                let mut whole = match sum.take() {
                    Some(sum) => sum,
                    None => Tensor::zeros([n, c, h, w], (&output.device(), output.dtype())),
                };
                // Beyond the right end the rest goes to the left.
                let first = width.min(w - left);
                for (column, from, count) in [(left, 0, first), (0, first, width - first)] {
                    if count > 0 {
                        let at = [0..n, 0..c, top..top + height, column..column + count];
                        let part = output.clone().narrow(3, from, count);
                        let part = whole.clone().slice(at.clone()) + part;
                        whole = whole.slice_assign(at, part);
                    }
                }
                *sum = Some(whole);
            }
        }
        let counts = TensorData::new(counts, [1, 1, h, w]);
        let counts = Tensor::<4>::from_data(counts, (&x.device(), DType::F32));
        let mean = |sum: Tensor<4>| {
            let counts = counts
                .clone()
                .cast(burn::tensor::FloatDType::from(sum.dtype()));
            sum / counts
        };
        Ok(sums.into_iter().flatten().map(mean).collect())
    }

    fn save(&self) -> SavedState {
        let mut state = SavedState::default();
        let memories = self.memories().clone();
        if memories.is_empty() {
            return self.inner.save();
        }
        for (k, memory) in memories.into_iter().enumerate() {
            let named = |name: String| format!("window {k} {name}");
            let numbers = memory.numbers.into_iter();
            state
                .numbers
                .extend(numbers.map(|(name, value)| (named(name), value)));
            let tensors = memory.tensors.into_iter();
            state
                .tensors
                .extend(tensors.map(|(name, value)| (named(name), value)));
        }
        state
    }

    fn restore(&self, state: &SavedState) -> Result<()> {
        let mut memories: Vec<SavedState> = Vec::new();
        let mut rest = SavedState::default();
        // No picture has more windows; a file that claims it must not fill memory.
        const MOST: usize = 1 << 16;
        let mut window = |name: &str| -> Option<(usize, String)> {
            let (k, name) = name.strip_prefix("window ")?.split_once(' ')?;
            let k = k.parse().ok().filter(|k| *k < MOST)?;
            memories.resize(memories.len().max(k + 1), SavedState::default());
            Some((k, name.into()))
        };
        let numbers: Vec<_> = state.numbers.iter().map(|(name, _)| window(name)).collect();
        let tensors: Vec<_> = state.tensors.iter().map(|(name, _)| window(name)).collect();
        for (place, (name, value)) in numbers.into_iter().zip(&state.numbers) {
            match place {
                Some((k, name)) => memories[k].numbers.push((name, *value)),
                None => rest.numbers.push((name.clone(), *value)),
            }
        }
        for (place, (name, value)) in tensors.into_iter().zip(&state.tensors) {
            match place {
                Some((k, name)) => memories[k].tensors.push((name, value.clone())),
                None => rest.tensors.push((name.clone(), value.clone())),
            }
        }
        *self.memories() = memories;
        self.inner.restore(&rest)
    }
}
