//! A soft mask of our own as a layer around the model: grey decides from which noise level on a
//! pixel is drawn anew (differential diffusion, Levin & Fried 2023, arXiv:2306.00950). The darker,
//! the later, and the more of the known picture is left.
//!
//! The layer answers for the known part as a model that knows it would, so no solver has to know of
//! it, whether it asks once a step, twice, as often as it likes or reads combinations of what it was
//! told before.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use outside::soft_mask::SoftMask;
//! # use sd_pipeline::{Request, burn::tensor::Tensor};
//! # fn order(mask: Tensor<4>, known: Tensor<4>) -> Request {
//! Request {
//!     layers: vec![Arc::new(SoftMask { mask, known })],
//!     ..Request::new("a lighthouse in a storm")
//! }
//! # }
//! ```

use sd_pipeline::burn::tensor::Tensor;
use sd_pipeline::core::{Error, Result};
use sd_pipeline::{Layer, Level, Model, Parameterization, Prediction, RunStart, StartedLayer};

/// A mask that opens while the noise falls.
#[derive(Debug, Clone)]
pub struct SoftMask {
    /// `[1, 1, h, w]`: a pixel is drawn anew while the latent's share of noise is at most this. 1
    /// is drawn all along, 0 never.
    pub mask: Tensor<4>,
    /// The clean latent to keep, `[1, c, h, w]`.
    pub known: Tensor<4>,
}

impl Layer for SoftMask {
    fn start(&self, run: &RunStart<'_>) -> Result<Box<dyn StartedLayer>> {
        let [_, c, h, w] = run.noise.dims();
        for (name, tensor, shape) in [
            ("soft mask", &self.mask, [1, 1, h, w]),
            ("known latent", &self.known, [1, c, h, w]),
        ] {
            if tensor.dims() != shape {
                return Err(Error::shape(name, &tensor.dims(), format!("{shape:?}")));
            }
        }
        Ok(Box::new(Started {
            settings: self.clone(),
            noise: run.noise.clone(),
        }))
    }
}

/// One run of a [`SoftMask`]. It changes nothing, so there is nothing to save.
struct Started {
    settings: SoftMask,
    noise: Tensor<4>,
}

impl StartedLayer for Started {
    fn wrap<'a>(&'a mut self, model: Box<dyn Model + 'a>) -> Result<Box<dyn Model + 'a>> {
        Ok(Box::new(Masked { run: self, model }))
    }

    fn after_step(&mut self, x: Tensor<4>, level: Level) -> Result<Tensor<4>> {
        // For solvers that do not follow the model to the letter.
        Ok(self.restored(&x, level))
    }
}

impl Started {
    /// `new` where the mask is open at `level`, `kept` elsewhere.
    fn mixed(&self, level: Level, new: Tensor<4>, kept: Tensor<4>) -> Tensor<4> {
        // The same in every scale; along a flow it is σ. Never 0, so that black is closed to the end.
        let share = (level.sigma / (level.alpha + level.sigma)).max(1e-6);
        let shape = new.dims();
        let closed = self.settings.mask.clone().lower_elem(share);
        new.mask_where(closed.expand(shape), kept.expand(shape))
    }

    /// The latent `x` with its known part as the run's initial noise would have made it.
    fn restored(&self, x: &Tensor<4>, level: Level) -> Tensor<4> {
        let known = self.settings.known.clone();
        let kept = known * level.alpha + self.noise.clone() * level.sigma;
        self.mixed(level, x.clone(), kept)
    }
}

struct Masked<'a> {
    run: &'a Started,
    model: Box<dyn Model + 'a>,
}

impl Masked<'_> {
    /// What the model said, with the known latent for x₀ where the mask is closed.
    fn answered(&self, x: &Tensor<4>, level: Level, said: Prediction) -> Prediction {
        let known = || self.run.settings.known.clone();
        let denoised = self.run.mixed(level, said.denoised, known());
        let noise = match level.sigma > 0.0 {
            // What is left of the solver's own latent without x₀.
            true => (x.clone() - denoised.clone() * level.alpha) / level.sigma,
            false => said.noise,
        };
        let uncond = said.uncond_denoised;
        Prediction {
            uncond_denoised: uncond.map(|uncond| self.run.mixed(level, uncond, known())),
            denoised,
            noise,
            ..said
        }
    }
}

impl Model for Masked<'_> {
    fn parameterization(&self) -> Parameterization {
        self.model.parameterization()
    }

    fn predict(&mut self, x: &Tensor<4>, level: Level) -> Result<Prediction> {
        let said = self.model.predict(&self.run.restored(x, level), level)?;
        Ok(self.answered(x, level, said))
    }

    fn read(&self, x: &Tensor<4>, level: Level, raw: Tensor<4>) -> Prediction {
        let said = self.model.read(&self.run.restored(x, level), level, raw);
        self.answered(x, level, said)
    }

    fn evaluations(&self) -> usize {
        self.model.evaluations()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sd_pipeline::burn::tensor::TensorData;
    use sd_pipeline::core::{Guided, noise_like};
    use sd_pipeline::schedulers::{self, Euler};
    use sd_pipeline::{
        Conditioning, Device, Guidance, Mask, NoiseSchedule, Request, Scheduler, SeededNoise,
        TextEmbedding, Unguided, each_branch,
    };
    use sd_tiny::micro::Family;

    use super::*;
    use crate::testing::{files, finished, open, request, values};

    /// A known latent, and a ramp from kept on the left to drawn on the right.
    fn ramp() -> SoftMask {
        let device = Device::flex();
        let row = [0.0f32, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0];
        let mask = TensorData::new(row.repeat(8), [1, 1, 8, 8]);
        let known = Tensor::zeros([1, 4, 8, 8], &device);
        SoftMask {
            mask: Tensor::from_data(mask, &device),
            known: noise_like(&known, &mut SeededNoise::new(7, 1)).unwrap(),
        }
    }

    /// The largest number in two columns of `x`, the first of which is `column`.
    fn largest(x: &Tensor<4>, column: usize) -> f32 {
        let columns = values(&x.clone().narrow(3, column, 2));
        columns.into_iter().fold(0.0, |a, b| a.max(b.abs()))
    }

    #[test]
    fn the_darker_a_pixel_the_less_noise_is_left_when_it_opens() {
        let soft = ramp();
        let train = Arc::new(NoiseSchedule::stable_diffusion());
        let plan = Euler::default().plan(&train, 8).unwrap();
        let noise = soft.known.zeros_like();
        let mut layer = soft.start(&RunStart::new(&noise, &plan, 0)).unwrap();
        // A network that takes everything for 9.
        let text = TextEmbedding::new(Tensor::zeros([1, 1, 1], &Device::flex()));
        let branches = vec![Conditioning::new(text)];
        let nine = each_branch("a test", branches, |x, _, _| Ok(x.full_like(9.0)));
        let nine = nine.unwrap();
        let mut guide = Unguided.start();
        let guided = Guided::new(&*nine, &mut *guide, Parameterization::Sample);
        let mut model = layer.wrap(Box::new(guided)).unwrap();
        for (share, first_open) in [(0.9, 6), (0.5, 4), (0.1, 2), (0.0, 2)] {
            let level = Level::linear(500.0, share);
            let clean = model.predict(&noise, level).unwrap().denoised;
            let row = values(&clean.narrow(1, 0, 1).narrow(2, 0, 1));
            let open = row.iter().position(|value| *value == 9.0);
            assert_eq!(open, Some(first_open), "{share}: {row:?}");
        }
    }

    #[test]
    fn every_solver_keeps_what_is_known_and_draws_the_rest() {
        // It predicts v, so that solvers that begin in pure noise can draw with it too.
        let mut pipeline = open(files(Family::Sd2));
        let soft = ramp();
        let mixing = Mask {
            mask: soft.mask.clone(),
            known: soft.known.clone(),
        };
        let layers: [Arc<dyn Layer>; 2] = [Arc::new(soft.clone()), Arc::new(mixing)];
        let mut wrong = Vec::new();
        for name in schedulers::names() {
            pipeline.set_scheduler(name).unwrap();
            for layer in &layers {
                let request = Request {
                    layers: vec![layer.clone()],
                    guidance_scale: 2.0,
                    ..request()
                };
                let mut run = pipeline.start(&request).unwrap();
                let noise = run.latents().clone() / run.plan().init_noise_sigma;
                let found = finished(&mut run);
                // Some solvers end just above σ = 0.
                let Level { alpha, sigma, .. } = run.level();
                let known = soft.known.clone() * alpha + noise * sigma;
                let [kept, new] =
                    [0, 6].map(|column| largest(&(found.clone() - known.clone()), column));
                println!("{name}: kept to {kept:.1e} at σ = {sigma:.3}, drawn {new:.1}");
                if kept > 1e-6 || new < 0.5 {
                    wrong.push(name);
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
