//! The noise levels of a run: which σ it visits, and at which timestep each is evaluated.

mod conventions;
mod flow;
mod multistep;
mod schedule;
mod sigmas;
mod spacing;
mod table;
mod timesteps;

use std::sync::Arc;

use sd_core::{Error, NoiseSchedule, Plan, Result};
use serde::{Deserialize, Serialize};

pub use conventions::{Conventions, PictureShare};
pub(crate) use multistep::MultistepLevels;
pub(crate) use schedule::positive;
pub use schedule::{AlignedModel, FinalSigma, SigmaSchedule};
pub(crate) use sigmas::Sigmas;
pub use spacing::Spacing;
pub(crate) use spacing::{check_steps, linspace};
pub(crate) use table::SigmaTable;
pub(crate) use timesteps::{between_timesteps, distilled_timesteps, level_or_end, own_timesteps};

/// Noise levels that a run visits: shared by all solvers that work on a list of σ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Levels {
    /// Spread of the timesteps; with another [`SigmaSchedule`] it still gives the ends.
    pub spacing: Spacing,
    /// Offset of every timestep of [`Spacing::Leading`]; 1 for Stable Diffusion.
    pub steps_offset: usize,
    /// Spread of the σ.
    pub sigmas: SigmaSchedule,
    /// The smallest σ before the last step, in place of the model's own.
    pub sigma_min: Option<f64>,
    /// The largest σ, in place of the model's own.
    pub sigma_max: Option<f64>,
    /// End of the last step.
    pub final_sigma: FinalSigma,
    /// Levels of n + 1 steps for a run of n, without the last before the end, as A1111's and
    /// ComfyUI's DPM2 and UniPC have them.
    pub discard_penultimate: bool,
    /// The last σ of a run along a flow before its end, to which the run is stretched.
    pub shift_terminal: Option<f64>,
    /// Conventions that settle the rest.
    pub conventions: Conventions,
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
            shift_terminal: None,
            conventions: Conventions::diffusers(),
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
        SigmaTable::new(train).rounding(self.conventions.rounds_timesteps)
    }

    /// Number of levels of a run of `steps` steps, the one that is discarded included.
    fn count(&self, steps: usize) -> usize {
        steps + usize::from(self.discards())
    }

    fn discards(&self) -> bool {
        self.discard_penultimate && !self.sigmas.is_own()
    }

    /// A plan of `steps` steps in the scale in which `dx/dσ = (x − x₀)/σ`, k-diffusion's.
    pub(crate) fn exploding(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        Ok(self.resolve(train, steps)?.exploding(train, self))
    }

    /// The σ of `steps` steps with k-diffusion's division by `N`. The ends of a schedule that is
    /// spread in σ are the first and last spaced σ or the model's, as the conventions say.
    pub(crate) fn resolve(&self, train: &NoiseSchedule, steps: usize) -> Result<Sigmas> {
        let table = self.table(train);
        check_steps(steps, table.len())?;
        let steps = self.count(steps);
        if train.shift().is_some() {
            return self.along_flow(train, &linspace(table.max(), table.min(), steps));
        }
        if let Some(sigmas) = self.sigmas.on(&table, steps)? {
            let timesteps = sigmas.iter().map(|&s| table.timestep(s)).collect();
            return self.finish(&table, sigmas, timesteps);
        }
        if train.is_edm() {
            return self.continuous(&table, steps);
        }
        let timesteps = (self.spacing).timesteps(table.len(), steps, self.steps_offset)?;
        let spaced: Vec<f64> = timesteps.iter().map(|&t| table.sigma(t)).collect();
        let ends = match self.conventions.spaced_ends {
            true => (spaced[0], spaced[steps - 1]),
            false => (table.max(), table.min()),
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

    /// The σ of a model of continuous levels, between its ends; Karras' where the timesteps would
    /// have to decide, of which it has none.
    fn continuous(&self, table: &SigmaTable, steps: usize) -> Result<Sigmas> {
        let spread = match self.are_spread() {
            true => self.clone(),
            false => Self {
                sigmas: SigmaSchedule::KARRAS,
                ..self.clone()
            },
        };
        let sigmas = spread.between((table.max(), table.min()), steps)?;
        let sigmas = sigmas.unwrap_or_default();
        let timesteps = sigmas.iter().map(|&s| table.timestep(s)).collect();
        let mut sigmas = spread.finish(table, sigmas, timesteps)?;
        if spread.final_sigma == FinalSigma::SigmaMin {
            sigmas.end_at_last();
        }
        Ok(sigmas)
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

    /// True of σ that are spread as such, not by timesteps.
    pub(crate) fn are_spread(&self) -> bool {
        self.sigmas != SigmaSchedule::Spaced
    }

    /// Adds the last σ and checks the order.
    pub(crate) fn finish(
        &self,
        table: &SigmaTable,
        mut values: Vec<f64>,
        mut timesteps: Vec<f64>,
    ) -> Result<Sigmas> {
        let falling = values.windows(2).all(|pair| pair[0] > pair[1]);
        if !falling || values.iter().any(|s| !s.is_finite() || *s <= 0.0) {
            let expected =
                "expected settings that give finite σ above 0, each below the one before";
            return Err(Error::invalid(
                "sigma list",
                format!("{values:?}"),
                expected,
            ));
        }
        if table.level(values[0]).alpha < 0.0 {
            let expected = "expected at most 1, the noise at the beginning of a flow";
            return Err(Error::invalid("sigma", values[0], expected));
        }
        let own_end = self.sigmas.end(table, values.len());
        if self.discards() && values.len() > 1 {
            values.pop();
            timesteps.pop();
        }
        let last = values[values.len() - 1];
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
        values.push(end);
        Ok(Sigmas { values, timesteps })
    }
}
