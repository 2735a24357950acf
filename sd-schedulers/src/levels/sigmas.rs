use std::sync::Arc;

use sd_core::{Level, NoiseSchedule, Plan, Stage};

use super::{Levels, PictureShare, SigmaTable, Spacing};

/// The σ of a run: `timesteps[i]` belongs to `values[i]`, and one σ more is where it ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sigmas {
    pub(crate) values: Vec<f64>,
    pub(crate) timesteps: Vec<f64>,
}

impl Sigmas {
    /// Makes the last step one of no length.
    pub(crate) fn end_at_last(&mut self) {
        let count = self.timesteps.len();
        self.values[count] = self.values[count - 1];
    }

    /// A plan in the scale in which `dx/dσ = (x − x₀)/σ`, k-diffusion's.
    pub(crate) fn exploding(&self, train: &Arc<NoiseSchedule>, levels: &Levels) -> Plan {
        // diffusers' continuous classes take the picture's share too.
        let shared = levels.spacing == Spacing::Leading || train.is_edm();
        Plan {
            schedule: train.clone(),
            init_noise_sigma: self.initial(train, levels, shared),
            stages: self.stages(train, levels, |t, sigma| train.level_exploding(t, sigma)),
        }
    }

    /// A plan in the scale that the model was trained in, for β the variance-preserving one.
    pub(crate) fn preserving(&self, train: &Arc<NoiseSchedule>, levels: &Levels) -> Plan {
        if train.alphas_cumprod().is_none() {
            // There is but one scale.
            return self.exploding(train, levels);
        }
        let stages = self.stages(train, levels, |t, sigma| train.level_preserving(t, sigma));
        Plan {
            schedule: train.clone(),
            init_noise_sigma: self.initial(train, levels, true) * stages[0].from.alpha,
            stages,
        }
    }

    /// Strength of the initial noise in the scale of [`exploding`](Self::exploding); `by_scale` is
    /// the answer of [`PictureShare::ByScale`].
    fn initial(&self, train: &NoiseSchedule, levels: &Levels, by_scale: bool) -> f64 {
        let first = self.values[0];
        if train.shift().is_some() {
            // A flow's noise is as strong as its picture, so that diffusers takes the same for all
            // levels; elsewhere it has the level's.
            return match levels.conventions.picture_share {
                PictureShare::ByScale => 1.0,
                _ => first,
            };
        }
        let shared = match levels.conventions.picture_share {
            PictureShare::Never => false,
            PictureShare::AtLargestSigma => first >= SigmaTable::new(train).max() * (1.0 - 1e-5),
            PictureShare::ByScale => by_scale,
        };
        if shared { first.hypot(1.0) } else { first }
    }

    fn stages(
        &self,
        train: &NoiseSchedule,
        levels: &Levels,
        level: impl Fn(f64, f64) -> Level,
    ) -> Vec<Stage> {
        let count = self.timesteps.len();
        // Some solvers ask the model at a run's end too, where that is not the picture itself.
        let end = match self.values[count] {
            0.0 => 0.0,
            sigma => levels.table(train).timestep(sigma),
        };
        let stage = |i: usize| Stage {
            from: level(self.timesteps[i], self.values[i]),
            to: level(
                self.timesteps.get(i + 1).copied().unwrap_or(end),
                self.values[i + 1],
            ),
        };
        (0..count).map(stage).collect()
    }
}
