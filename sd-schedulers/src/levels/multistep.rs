use sd_core::{Error, NoiseSchedule, Result};

use super::flow::ALMOST_NOISE;
use super::{Levels, SigmaSchedule, SigmaTable, Sigmas, check_steps, linspace};

/// Choice of levels that the exponential multistep solvers (DPM-Solver, DEIS, UniPC, SA-Solver)
/// have in common, beyond what [`Levels`] says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MultistepLevels {
    /// The log-SNR below which timesteps are left out; −∞ for none.
    pub(crate) lambda_min_clipped: f64,
    /// Rounding of the timesteps of σ spread by Karras or in λ to the nearest, not down.
    pub(crate) round_timesteps: bool,
    /// Spread of a flow's σ from 1 to the smallest, not from 1 less the smallest to 0. The last is
    /// left out either way.
    pub(crate) begins_in_noise: bool,
}

impl Default for MultistepLevels {
    fn default() -> Self {
        Self {
            lambda_min_clipped: f64::NEG_INFINITY,
            round_timesteps: true,
            begins_in_noise: false,
        }
    }
}

impl MultistepLevels {
    /// The σ of `steps` steps with the division by `N + 1`. Schedules that are spread in σ cover
    /// the model's whole range; timesteps are whole unless the conventions leave them fractions.
    pub(crate) fn resolve(
        self,
        levels: &Levels,
        train: &NoiseSchedule,
        steps: usize,
    ) -> Result<Sigmas> {
        let table = levels.table(train);
        check_steps(steps, table.len())?;
        if train.is_edm() {
            return levels.resolve(train, steps);
        }
        let steps = levels.count(steps);
        if train.shift().is_some() {
            return self.along_flow(levels, train, steps);
        }
        let last = table.len() - self.clipped(&table)?;
        let fractional = levels.conventions.fractional_timesteps;
        // Where timesteps become whole the ends have to be f32: see the table's logarithms.
        let end = |sigma: f64| match fractional {
            true => sigma,
            false => f64::from(sigma as f32),
        };
        let (sigmas, rounds) = match levels.sigmas.on(&table, steps)? {
            Some(sigmas) => (Some(sigmas), true),
            None => (
                levels.between((end(table.max()), end(table.min())), steps)?,
                self.round_timesteps && rounds(&levels.sigmas),
            ),
        };
        let Some(sigmas) = sigmas else {
            let timesteps = (levels.spacing).timesteps_plus_one(
                table.len(),
                last,
                steps,
                levels.steps_offset,
            )?;
            let sigmas = timesteps.iter().map(|&t| table.sigma(t)).collect();
            return levels.finish(&table, sigmas, timesteps);
        };
        let timestep = |sigma: &f64| match table.timestep(*sigma) {
            t if fractional => t,
            t if rounds => t.round_ties_even(),
            t => t.floor(),
        };
        let timesteps = sigmas.iter().map(timestep).collect();
        levels.finish(&table, sigmas, timesteps)
    }

    /// The σ along a flow, all of finite log-SNR.
    fn along_flow(self, levels: &Levels, train: &NoiseSchedule, steps: usize) -> Result<Sigmas> {
        let table = levels.table(train);
        let smallest = 1.0 / table.len() as f64;
        let (begin, end) = match self.begins_in_noise {
            true => (1.0, smallest),
            false => (1.0 - smallest, 0.0),
        };
        let even = linspace(begin, end, steps + 1);
        let mut sigmas = levels.along_flow(train, &even[..steps])?;
        for (t, sigma) in sigmas.timesteps.iter_mut().zip(&mut sigmas.values) {
            *sigma = sigma.min(ALMOST_NOISE);
            *t = table.timestep(*sigma);
            if !levels.conventions.fractional_timesteps {
                *t = t.floor();
            }
        }
        Ok(sigmas)
    }

    /// Number of timesteps with a log-SNR below the limit.
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

/// True of the schedules whose timesteps diffusers rounds rather than cuts.
fn rounds(schedule: &SigmaSchedule) -> bool {
    matches!(
        schedule,
        SigmaSchedule::Karras { .. } | SigmaSchedule::LuLambdas
    )
}
