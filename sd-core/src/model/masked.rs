use burn::tensor::Tensor;

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
    mask: Tensor<4>,
    known: Tensor<4>,
    noise: Tensor<4>,
}

impl<M> Masked<M> {
    /// Masks `model`: `known` is the clean latent `[n, c, h, w]`, `noise` the run's initial noise
    /// of unit variance and the same shape, `mask` `[1 or n, 1 or c, h, w]` within 0 and 1.
    ///
    /// # Errors
    /// [`Error::Shape`] when the three do not fit together.
    pub fn new(model: M, mask: Tensor<4>, known: Tensor<4>, noise: Tensor<4>) -> Result<Self> {
        Self::check(&mask, &known, &noise)?;
        Ok(Self {
            model,
            mask,
            known,
            noise,
        })
    }

    pub(super) fn check(mask: &Tensor<4>, known: &Tensor<4>, noise: &Tensor<4>) -> Result<()> {
        let [n, c, h, w] = known.dims();
        if noise.dims() != [n, c, h, w] {
            let expected = format!("[{n}, {c}, {h}, {w}], the known latent's");
            return Err(Error::shape("noise", &noise.dims(), expected));
        }
        let [m, k, ..] = mask.dims();
        if mask.dims()[2..] != [h, w] || (m != 1 && m != n) || (k != 1 && k != c) {
            let expected = format!("[1 or {n}, 1 or {c}, {h}, {w}]");
            return Err(Error::shape("mask", &mask.dims(), expected));
        }
        Ok(())
    }

    /// `new` where the mask is 1, `kept` where it is 0.
    fn mixed(&self, new: Tensor<4>, kept: Tensor<4>) -> Tensor<4> {
        kept.clone() + (new - kept) * self.mask.clone()
    }

    /// The latent `x` at `level` with its kept part in place.
    fn restored(&self, x: &Tensor<4>, level: Level) -> Tensor<4> {
        let kept = self.known.clone() * level.alpha + self.noise.clone() * level.sigma;
        self.mixed(x.clone(), kept)
    }

    /// The prediction for `x` whose x₀ are `inner`'s, mixed with the known latent.
    fn masked(&self, x: &Tensor<4>, level: Level, inner: Prediction) -> Prediction {
        let denoised = self.mixed(inner.denoised, self.known.clone());
        // The noise that is left when the mixed x₀ is taken out of the solver's own latent.
        let noise = if level.sigma > 0.0 {
            (x.clone() - denoised.clone() * level.alpha) / level.sigma
        } else {
            inner.noise
        };
        let uncond = inner.uncond_denoised;
        Prediction {
            uncond_denoised: uncond.map(|uncond| self.mixed(uncond, self.known.clone())),
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
        if x.dims() != self.known.dims() {
            let expected = format!("{:?}, the known latent's", self.known.dims());
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
