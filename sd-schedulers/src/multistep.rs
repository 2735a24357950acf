//! What the exponential multistep solvers (DPM-Solver, DEIS, UniPC, SA-Solver) have in common.

use sd_core::{Error, NoiseSchedule, Result};

use crate::levels::{Levels, Rungs};
use crate::sigmas::SigmaSchedule;
use crate::spacing::check_steps;
use crate::table::SigmaTable;

/// How a multistep solver chooses its levels beyond what [`Levels`] says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MultistepLevels {
    /// Timesteps with a log-SNR below this are left out; −∞ for all.
    pub(crate) lambda_min_clipped: f64,
    /// Whether the timesteps of σ spread by Karras or in λ are rounded to the nearest, not down.
    pub(crate) round_timesteps: bool,
}

impl Default for MultistepLevels {
    fn default() -> Self {
        Self {
            lambda_min_clipped: f64::NEG_INFINITY,
            round_timesteps: true,
        }
    }
}

impl MultistepLevels {
    /// The σ of `steps` steps with the division by `N + 1`. Schedules that are spread in σ cover
    /// the model's whole range; every timestep is whole.
    pub(crate) fn rungs(
        self,
        levels: &Levels,
        train: &NoiseSchedule,
        steps: usize,
    ) -> Result<Rungs> {
        let table = levels.table(train);
        check_steps(steps, table.len())?;
        let steps = levels.count(steps);
        let diffusers = levels.convention.is_diffusers();
        let last = table.len() - self.clipped(&table)?;
        let spacing = levels.spacing;
        // See the table's logarithms for why f32.
        let f32_of = |sigma: f64| f64::from(sigma as f32);
        let ends = match diffusers {
            true => (f32_of(table.max()), f32_of(table.min())),
            false => (table.max(), table.min()),
        };
        if let Some(sigmas) = levels.sigmas.on(&table, steps)? {
            let whole = |t: f64| if diffusers { t.round_ties_even() } else { t };
            let timesteps = sigmas.iter().map(|&s| whole(table.timestep(s))).collect();
            return levels.finish(&table, sigmas, timesteps);
        }
        if let Some(sigmas) = levels.between(ends, steps)? {
            let rounds = matches!(
                levels.sigmas,
                SigmaSchedule::Karras { .. } | SigmaSchedule::LuLambdas
            );
            let whole = |t: f64| match rounds && self.round_timesteps {
                _ if !diffusers => t,
                true => t.round_ties_even(),
                false => t.floor(),
            };
            let timesteps = sigmas.iter().map(|&s| whole(table.timestep(s))).collect();
            return levels.finish(&table, sigmas, timesteps);
        }
        let timesteps =
            spacing.timesteps_plus_one(table.len(), last, steps, levels.steps_offset)?;
        let sigmas = timesteps.iter().map(|&t| table.sigma(t)).collect();
        levels.finish(&table, sigmas, timesteps)
    }

    /// How many timesteps have a log-SNR below the limit.
    fn clipped(self, table: &SigmaTable) -> Result<usize> {
        let limit = self.lambda_min_clipped;
        let below = table.sigmas().iter().filter(|s| -s.ln() < limit).count();
        if limit.is_nan() || below >= table.len() {
            let expected = "expected a log-SNR that some of the model's timesteps reach";
            return Err(Error::invalid("lambda_min_clipped", limit, expected));
        }
        Ok(below)
    }
}
