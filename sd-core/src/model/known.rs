use burn::tensor::Tensor;

use super::RunStart;
use crate::{Error, Level, Result, SavedState};

/// The part of a picture that a run keeps, and the mask that says which it is.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// `[1 or n, 1 or c, h, w]`, 1 where the picture is drawn anew.
    pub(super) mask: Tensor<4>,
    /// The clean latent, `[n, c, h, w]`.
    pub(super) clean: Tensor<4>,
    /// The run's initial noise of unit variance, of that shape.
    noise: Tensor<4>,
}

impl Known {
    /// # Errors
    /// [`Error::Shape`] when the three do not fit together.
    pub(super) fn new(mask: Tensor<4>, clean: Tensor<4>, noise: Tensor<4>) -> Result<Self> {
        let [n, c, h, w] = clean.dims();
        if noise.dims() != [n, c, h, w] {
            let expected = format!("[{n}, {c}, {h}, {w}], the known latent's");
            return Err(Error::shape("noise", &noise.dims(), expected));
        }
        let [m, k, ..] = mask.dims();
        if mask.dims()[2..] != [h, w] || (m != 1 && m != n) || (k != 1 && k != c) {
            let expected = format!("[1 or {n}, 1 or {c}, {h}, {w}]");
            return Err(Error::shape("mask", &mask.dims(), expected));
        }
        Ok(Self { mask, clean, noise })
    }

    /// The known part of a run, one clean latent for all of its images or one for each.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub(super) fn of_run(mask: &Tensor<4>, clean: &Tensor<4>, run: &RunStart<'_>) -> Result<Self> {
        let [n, ..] = run.noise.dims();
        let clean = match clean.dims()[0] {
            1 => clean.clone().repeat_dim(0, n),
            _ => clean.clone(),
        };
        Self::new(mask.clone(), clean, run.noise.clone())
    }

    /// The clean latent with the run's initial noise on it, at `level`.
    pub(super) fn noised(&self, level: Level) -> Tensor<4> {
        self.clean.clone() * level.alpha + self.noise.clone() * level.sigma
    }

    /// `new` where the mask is 1, `kept` where it is 0.
    pub(super) fn mixed(&self, new: Tensor<4>, kept: Tensor<4>) -> Tensor<4> {
        kept.clone() + (new - kept) * self.mask.clone()
    }
}

/// The step at which a layer was saved, of a run whose last is `steps`.
pub(super) fn restored(state: &SavedState, steps: usize) -> Result<usize> {
    match state.index() {
        index if index <= steps => Ok(index),
        index => Err(Error::SavedState(format!(
            "a mask goes on at step {index} of {steps}"
        ))),
    }
}
