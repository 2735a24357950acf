use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, noise_like};
use serde::{Deserialize, Serialize};

use super::DpmSolverMultistep;
use crate::ConfigError;
use crate::config::{Built, Fields};
use crate::levels::{FinalSigma, Levels, SigmaSchedule, SigmaTable, check_steps, positive};
use crate::solver::{
    PlannedSampler, Position, Solver, Thresholding, Update, check_churn, check_order,
    predict_preconditioned,
};

/// The noise levels of models with Karras et al.'s preconditioning (table 1 of arXiv:2206.00364):
/// σ between fixed ends, and `¼ ln σ` for a timestep. The training schedule plays no part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EdmLevels {
    /// The σ of the last step but the end.
    pub sigma_min: f64,
    /// The σ a run begins at.
    pub sigma_max: f64,
    /// Standard deviation of the model's clean latents.
    pub sigma_data: f64,
    /// Spread of the σ.
    pub sigmas: SigmaSchedule,
    /// End of the last step.
    pub final_sigma: FinalSigma,
}

impl Default for EdmLevels {
    fn default() -> Self {
        Self {
            sigma_min: 0.002,
            sigma_max: 80.0,
            sigma_data: 0.5,
            sigmas: SigmaSchedule::KARRAS,
            final_sigma: FinalSigma::Zero,
        }
    }
}

impl EdmLevels {
    fn from_config(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let default = Self::default();
        let rho = fields.number("rho", 7.0)?;
        let karras = SigmaSchedule::Karras { rho };
        let schedules = [
            ("karras", karras.clone()),
            ("exponential", SigmaSchedule::Exponential),
        ];
        Ok(Self {
            sigma_min: fields.number("sigma_min", default.sigma_min)?,
            sigma_max: fields.number("sigma_max", default.sigma_max)?,
            sigma_data: fields.number("sigma_data", default.sigma_data)?,
            sigmas: fields.choice("sigma_schedule", karras, &schedules)?,
            final_sigma: fields.final_sigma(default.final_sigma)?,
        })
    }

    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_steps(steps, train.len())?;
        positive("sigma_data", self.sigma_data)?;
        let levels = Levels {
            sigmas: match self.sigmas {
                SigmaSchedule::Spaced => SigmaSchedule::KARRAS,
                ref other => other.clone(),
            },
            sigma_min: Some(self.sigma_min),
            sigma_max: Some(self.sigma_max),
            ..Levels::default()
        };
        let ends = (self.sigma_max, self.sigma_min);
        let sigmas = levels.between(ends, steps)?.unwrap_or_default();
        let timesteps = sigmas.iter().map(|sigma| 0.25 * sigma.ln()).collect();
        let table = SigmaTable::new(train);
        let mut sigmas = levels.finish(&table, sigmas, timesteps)?;
        if self.final_sigma == FinalSigma::SigmaMin {
            sigmas.end_at_last();
        }
        let mut plan = sigmas.exploding(train, &levels);
        plan.init_noise_sigma = self.sigma_max.hypot(1.0);
        Ok(plan)
    }
}

/// Euler's method for preconditioned models (algorithm 2 of Karras et al. 2022 without its second
/// order). One model call a step.
///
/// Its default settings are those of diffusers' `EDMEulerScheduler`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EdmEuler {
    /// Noise levels that a run visits.
    pub levels: EdmLevels,
    /// Added noise of a whole run, as in [`Euler`](crate::Euler).
    pub s_churn: f64,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
}

impl Default for EdmEuler {
    fn default() -> Self {
        Self {
            levels: EdmLevels::default(),
            s_churn: 0.0,
            s_noise: 1.0,
        }
    }
}

impl EdmEuler {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            levels: EdmLevels::from_config(fields)?,
            s_churn: fields.number("s_churn", default.s_churn)?,
            s_noise: fields.number("s_noise", default.s_noise)?,
        }))
    }
}

impl Scheduler for EdmEuler {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_churn(self.s_churn, 0.0, f64::INFINITY, self.s_noise)?;
        self.levels.plan(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        PlannedSampler::start(plan, first, self.clone())
    }
}

impl Solver for EdmEuler {
    const NAME: &'static str = "EdmEuler";

    fn step(
        &mut self,
        at: &Position<'_>,
        mut x: Tensor<4>,
        model: &mut Model<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (from, to) = (at.stage().from, at.stage().to);
        let prediction = predict_preconditioned(model, &x, from, self.levels.sigma_data)?;
        let gamma = (self.s_churn / at.stages().len() as f64).min(2f64.sqrt() - 1.0);
        let sigma = from.sigma * (1.0 + gamma);
        if gamma > 0.0 {
            let added = (sigma.powi(2) - from.sigma.powi(2)).sqrt() * self.s_noise;
            x = x.clone() + noise_like(&x, noise)? * added;
        }
        let denoised = prediction.denoised(&x, sigma);
        let slope = (x.clone() - denoised.clone()) / sigma;
        let x = x + slope * (to.sigma - sigma);
        Ok(Update { x, denoised })
    }
}

/// DPM-Solver++ multistep for preconditioned models (Playground 2.5).
///
/// Its default settings are those of diffusers' `EDMDPMSolverMultistepScheduler`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EdmDpmSolverMultistep {
    /// Noise levels that a run visits.
    pub levels: EdmLevels,
    /// The solver: its own levels, and the settings that choose them, play no part.
    pub solver: DpmSolverMultistep,
}

impl EdmDpmSolverMultistep {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = DpmSolverMultistep::default();
        Ok(Arc::new(Self {
            levels: EdmLevels::from_config(fields)?,
            solver: DpmSolverMultistep {
                order: fields.count("solver_order", default.order)?,
                algorithm: fields.algorithm(default.algorithm)?,
                solver_type: fields.solver_type(default.solver_type)?,
                lower_order_final: fields.flag("lower_order_final", default.lower_order_final)?,
                euler_at_final: fields.flag("euler_at_final", default.euler_at_final)?,
                thresholding: fields.thresholding(default.thresholding)?,
                ..default
            },
        }))
    }
}

impl Scheduler for EdmDpmSolverMultistep {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_order("solver_order", self.solver.order, 3)?;
        if self.solver.thresholding != Thresholding::Off {
            self.solver.thresholding.check()?;
        }
        self.levels.plan(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        self.solver
            .start_preconditioned(plan, first, self.levels.sigma_data)
    }
}
