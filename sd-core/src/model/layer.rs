use std::fmt::Debug;

use burn::tensor::Tensor;

use super::known::Known;
use super::{Masked, Model};
use crate::{Level, Plan, Result, SavedState};

/// A layer to be put around a run's model, as settings: what one run changes is in the
/// [`StartedLayer`] that [`start`](Self::start) makes.
///
/// [`Mask`] is one; caching evaluations or cutting the latent into tiles are others.
pub trait Layer: Debug + Send + Sync {
    /// Begins a run.
    ///
    /// # Errors
    /// Settings that do not fit the run.
    fn start(&self, run: &RunStart<'_>) -> Result<Box<dyn StartedLayer>>;
}

/// One run of a [`Layer`]. What it remembers lives here and ends with it.
pub trait StartedLayer: Send {
    /// Puts it around `model`, for one step.
    ///
    /// # Errors
    /// Whatever keeps it from doing so.
    fn wrap<'a>(&'a mut self, model: Box<dyn Model + 'a>) -> Result<Box<dyn Model + 'a>>;

    /// The latent `x` at `level` with which a step ended, as the next step begins with it. The
    /// default leaves it as it is.
    ///
    /// # Errors
    /// Whatever keeps it from doing so.
    fn after_step(&mut self, x: Tensor<4>, level: Level) -> Result<Tensor<4>> {
        let _ = level;
        Ok(x)
    }

    /// All that a later [`restore`](Self::restore) needs to continue from here. The default is
    /// nothing, for a layer without memory.
    fn save(&self) -> SavedState {
        SavedState::default()
    }

    /// Puts a layer just started by the same settings where `state` was saved.
    ///
    /// # Errors
    /// [`Error::SavedState`](crate::Error::SavedState) when `state` is of another layer.
    fn restore(&mut self, state: &SavedState) -> Result<()> {
        let _ = state;
        Ok(())
    }
}

/// Facts of a run that is about to begin.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RunStart<'a> {
    /// The run's initial noise `[n, c, h, w]`, f32, of unit variance.
    pub noise: &'a Tensor<4>,
    /// The levels it will visit.
    pub plan: &'a Plan,
    /// The stage it begins with.
    pub first: usize,
}

impl<'a> RunStart<'a> {
    /// A run along `plan` from its stage `first`, begun with `noise`.
    pub fn new(noise: &'a Tensor<4>, plan: &'a Plan, first: usize) -> Self {
        Self { noise, plan, first }
    }
}

/// The layer [`Masked`]: keeps the known latent where the mask is 0.
#[derive(Debug, Clone)]
pub struct Mask {
    /// `[1 or n, 1 or c, h, w]`, f32, 1 where the picture is drawn anew.
    pub mask: Tensor<4>,
    /// The clean latent to keep, `[1 or n, c, h, w]`, f32.
    pub known: Tensor<4>,
}

impl Layer for Mask {
    fn start(&self, run: &RunStart<'_>) -> Result<Box<dyn StartedLayer>> {
        let known = Known::of_run(&self.mask, &self.known, run)?;
        Ok(Box::new(StartedMask { known }))
    }
}

struct StartedMask {
    known: Known,
}

impl StartedLayer for StartedMask {
    fn wrap<'a>(&'a mut self, model: Box<dyn Model + 'a>) -> Result<Box<dyn Model + 'a>> {
        Ok(Box::new(Masked::of(model, self.known.clone())))
    }

    /// A solver need not follow the model: one that begins in pure noise may do without x₀ there.
    fn after_step(&mut self, x: Tensor<4>, level: Level) -> Result<Tensor<4>> {
        let whole = self.known.mask.clone().equal_elem(0.0).expand(x.dims());
        Ok(x.mask_where(whole, self.known.noised(level)))
    }
}
