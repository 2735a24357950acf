use burn::tensor::Tensor;

use super::known::Known;
use super::{Model, Prediction};
use crate::{Error, Level, Parameterization, Result};

/// A layer that keeps part of a picture: where `mask` is 0 the model answers with the known clean
/// latent, where it is 1 with its own, between them with a mixture, so a soft mask is a soft edge.
///
/// Before an evaluation the latent's kept part is set to the known latent with the run's initial
/// noise at the level's strength (solvers that add noise of their own move it away), and after it
/// x₀ is mixed: the rule of ComfyUI's and A1111's samplers. Because the model is masked and not the
/// latent between steps, every solver takes it, whatever it remembers or however often it asks.
///
/// The raw output stays the network's own; it is mixed where it is [read](Model::read).
#[derive(Debug)]
pub struct Masked<M> {
    model: M,
    known: Known,
}

impl<M> Masked<M> {
    /// Masks `model`: `known` is the clean latent `[n, c, h, w]`, `noise` the run's initial noise
    /// of unit variance and the same shape, `mask` `[1 or n, 1 or c, h, w]` within 0 and 1.
    ///
    /// # Errors
    /// [`Error::Shape`] when the three do not fit together.
    pub fn new(model: M, mask: Tensor<4>, known: Tensor<4>, noise: Tensor<4>) -> Result<Self> {
        Ok(Self::of(model, Known::new(mask, known, noise)?))
    }

    pub(super) fn of(model: M, known: Known) -> Self {
        Self { model, known }
    }

    /// The latent `x` at `level` with its kept part in place.
    fn restored(&self, x: &Tensor<4>, level: Level) -> Tensor<4> {
        self.known.mixed(x.clone(), self.known.noised(level))
    }

    /// The prediction for `x` whose x₀ are `inner`'s, mixed with the known latent.
    fn masked(&self, x: &Tensor<4>, level: Level, inner: Prediction) -> Prediction {
        let clean = || self.known.clean.clone();
        let denoised = self.known.mixed(inner.denoised, clean());
        // The noise that is left when the mixed x₀ is taken out of the solver's own latent.
        let noise = if level.sigma > 0.0 {
            (x.clone() - denoised.clone() * level.alpha) / level.sigma
        } else {
            inner.noise
        };
        let uncond = inner.uncond_denoised;
        Prediction {
            uncond_denoised: uncond.map(|uncond| self.known.mixed(uncond, clean())),
            denoised,
            noise,
            ..inner
        }
    }
}

impl<M: Model> Model for Masked<M> {
    fn parameterization(&self) -> Parameterization {
        self.model.parameterization()
    }

    fn predict(&mut self, x: &Tensor<4>, level: Level) -> Result<Prediction> {
        let known = self.known.clean.dims();
        if x.dims() != known {
            let expected = format!("{known:?}, the known latent's");
            return Err(Error::shape("latent", &x.dims(), expected));
        }
        let inner = self.model.predict(&self.restored(x, level), level)?;
        Ok(self.masked(x, level, inner))
    }

    fn read(&self, x: &Tensor<4>, level: Level, raw: Tensor<4>) -> Prediction {
        let inner = self.model.read(&self.restored(x, level), level, raw);
        self.masked(x, level, inner)
    }

    fn evaluations(&self) -> usize {
        self.model.evaluations()
    }
}
