use std::sync::Arc;

use sd_core::{Error, Level, NoiseSchedule, Plan, Result, Stage};
use serde::{Deserialize, Serialize};

use crate::convention::Convention;
use crate::sigmas::{FinalSigma, SigmaSchedule};
use crate::spacing::{Spacing, check_steps};
use crate::table::SigmaTable;

/// Which noise levels a run visits: shared by all solvers that work on a list of σ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Levels {
    /// How timesteps are spread; with another [`SigmaSchedule`] it still gives the ends.
    pub spacing: Spacing,
    /// Added to every timestep of [`Spacing::Leading`]; 1 for Stable Diffusion.
    pub steps_offset: usize,
    /// How σ are spread.
    pub sigmas: SigmaSchedule,
    /// The smallest σ before the last step, in place of the model's own.
    pub sigma_min: Option<f64>,
    /// The largest σ, in place of the model's own.
    pub sigma_max: Option<f64>,
    /// Where the last step ends.
    pub final_sigma: FinalSigma,
    /// Whether a run of n steps takes the levels of n + 1 and leaves out the last before the end, as
    /// A1111's and ComfyUI's DPM2 and UniPC do.
    pub discard_penultimate: bool,
    /// Whose habits settle the rest.
    pub convention: Convention,
}

impl Default for Levels {
    fn default() -> Self {
        Self::spaced(Spacing::Linspace)
    }
}

impl Levels {
    /// The σ of the timesteps that `spacing` chooses, down to 0.
    pub fn spaced(spacing: Spacing) -> Self {
        Self {
            spacing,
            steps_offset: 0,
            sigmas: SigmaSchedule::Spaced,
            sigma_min: None,
            sigma_max: None,
            final_sigma: FinalSigma::Zero,
            discard_penultimate: false,
            convention: Convention::Diffusers,
        }
    }

    /// Karras' σ between the model's largest and smallest.
    pub fn karras() -> Self {
        Self {
            sigmas: SigmaSchedule::KARRAS,
            ..Self::default()
        }
    }

    /// The training schedule in which timesteps are looked up.
    pub(crate) fn table(&self, train: &NoiseSchedule) -> SigmaTable {
        SigmaTable::new(train).rounding(self.convention.rounds_timesteps())
    }

    /// How many levels a run of `steps` steps has, the one that is discarded included.
    pub(crate) fn count(&self, steps: usize) -> usize {
        steps + usize::from(self.discards())
    }

    fn discards(&self) -> bool {
        self.discard_penultimate && !self.sigmas.is_own()
    }

    /// The σ of `steps` steps with k-diffusion's division by `N`. The ends of a schedule that is
    /// spread in σ are the first and last spaced σ in diffusers, elsewhere the model's.
    pub(crate) fn rungs(&self, train: &NoiseSchedule, steps: usize) -> Result<Rungs> {
        let table = self.table(train);
        check_steps(steps, table.len())?;
        let steps = self.count(steps);
        if let Some(sigmas) = self.sigmas.on(&table, steps)? {
            let timesteps = sigmas.iter().map(|&s| table.timestep(s)).collect();
            return self.finish(&table, sigmas, timesteps);
        }
        let timesteps = (self.spacing).timesteps(table.len(), steps, self.steps_offset)?;
        let spaced: Vec<f64> = timesteps.iter().map(|&t| table.sigma(t)).collect();
        let ends = match self.convention {
            Convention::Diffusers => (spaced[0], spaced[steps - 1]),
            _ => (table.max(), table.min()),
        };
        let (sigmas, timesteps) = match self.between(ends, steps)? {
            None => (spaced, timesteps),
            Some(sigmas) => {
                let timesteps = sigmas.iter().map(|&s| table.timestep(s)).collect();
                (sigmas, timesteps)
            }
        };
        self.finish(&table, sigmas, timesteps)
    }

    /// The σ spread between the settings' ends, or `(max, min)` where they say nothing.
    pub(crate) fn between(&self, (max, min): (f64, f64), steps: usize) -> Result<Option<Vec<f64>>> {
        for (name, end) in [("sigma_min", self.sigma_min), ("sigma_max", self.sigma_max)] {
            if let Some(end) = end.filter(|end| !(*end > 0.0 && *end < 1e6)) {
                return Err(Error::invalid(
                    name,
                    end,
                    "expected a number above 0, below 1e6",
                ));
            }
        }
        let (max, min) = (self.sigma_max.unwrap_or(max), self.sigma_min.unwrap_or(min));
        self.sigmas.between(max, min, steps)
    }

    /// Whether the σ are spread as such, not by timesteps.
    pub(crate) fn are_spread(&self) -> bool {
        self.sigmas != SigmaSchedule::Spaced
    }

    /// Adds the last σ and checks the order.
    pub(crate) fn finish(
        &self,
        table: &SigmaTable,
        mut sigmas: Vec<f64>,
        mut timesteps: Vec<f64>,
    ) -> Result<Rungs> {
        let falling = sigmas.windows(2).all(|pair| pair[0] > pair[1]);
        if !falling || sigmas.iter().any(|s| !s.is_finite() || *s <= 0.0) {
            let expected =
                "expected settings that give finite σ above 0, each below the one before";
            return Err(Error::invalid(
                "sigma list",
                format!("{sigmas:?}"),
                expected,
            ));
        }
        let own_end = self.sigmas.end(table, sigmas.len());
        if self.discards() && sigmas.len() > 1 {
            sigmas.pop();
            timesteps.pop();
        }
        let last = sigmas[sigmas.len() - 1];
        let end = own_end.unwrap_or(match self.final_sigma {
            FinalSigma::Zero => 0.0,
            FinalSigma::At(sigma) => sigma,
            // A run must not end above its last level.
            FinalSigma::SigmaMin => table.min().min(last),
        });
        if !(0.0..=last).contains(&end) {
            let expected = format!("expected 0 to {last}, the σ before");
            return Err(Error::invalid("final sigma", end, expected));
        }
        sigmas.push(end);
        Ok(Rungs { sigmas, timesteps })
    }
}

/// The levels of a run: `timesteps[i]` belongs to `sigmas[i]`, and one σ more is where it ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rungs {
    pub(crate) sigmas: Vec<f64>,
    pub(crate) timesteps: Vec<f64>,
}

impl Rungs {
    /// Makes the last step one of no length.
    pub(crate) fn end_at_last(&mut self) {
        let count = self.timesteps.len();
        self.sigmas[count] = self.sigmas[count - 1];
    }

    /// A plan in k-diffusion's scale, α = 1.
    pub(crate) fn exploding(&self, train: &Arc<NoiseSchedule>, levels: &Levels) -> Plan {
        let max = self.sigmas[0];
        Plan {
            schedule: train.clone(),
            init_noise_sigma: match levels.convention {
                // With leading spacing, whose first level is not quite the last of training, the
                // noise also has the variance of the picture.
                Convention::Diffusers if levels.spacing == Spacing::Leading => max.hypot(1.0),
                Convention::ComfyUi if is_largest(max, train) => max.hypot(1.0),
                _ => max,
            },
            stages: self.stages(Level::variance_exploding),
        }
    }

    /// A plan in the variance-preserving scale, `α² + σ² = 1`.
    pub(crate) fn preserving(&self, train: &Arc<NoiseSchedule>, levels: &Levels) -> Plan {
        let max = self.sigmas[0];
        Plan {
            schedule: train.clone(),
            init_noise_sigma: match levels.convention {
                Convention::Diffusers => 1.0,
                Convention::ComfyUi if is_largest(max, train) => 1.0,
                _ => max / max.hypot(1.0),
            },
            stages: self.stages(preserving),
        }
    }

    fn stages(&self, level: fn(f64, f64) -> Level) -> Vec<Stage> {
        let count = self.timesteps.len();
        let stage = |i: usize| Stage {
            from: level(self.timesteps[i], self.sigmas[i]),
            to: level(
                *self.timesteps.get(i + 1).unwrap_or(&0.0),
                self.sigmas[i + 1],
            ),
        };
        (0..count).map(stage).collect()
    }
}

fn is_largest(sigma: f64, train: &NoiseSchedule) -> bool {
    sigma >= SigmaTable::new(train).max() * (1.0 - 1e-5)
}

/// The variance-preserving level of the same signal-to-noise ratio as k-diffusion's `sigma`.
pub(crate) fn preserving(t: f64, sigma: f64) -> Level {
    let scale = sigma.hypot(1.0);
    Level {
        t,
        alpha: 1.0 / scale,
        sigma: sigma / scale,
    }
}
