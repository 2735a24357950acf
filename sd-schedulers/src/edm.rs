use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Level, Model, Noise, NoiseSchedule, Plan, PredictionType, Result, Sampler, Scheduler,
    noise_like,
};
use serde::{Deserialize, Serialize};

use crate::clip::Clip;
use crate::dpm_multistep::{DpmSolverMultistep, check_order};
use crate::euler::check_churn;
use crate::levels::{Levels, Rungs};
use crate::sigmas::{FinalSigma, SigmaSchedule};
use crate::spacing::check_steps;
use crate::table::SigmaTable;
use crate::walk::{Advance, Place, Solver, Walk};

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
    /// How σ are spread.
    pub sigmas: SigmaSchedule,
    /// Where the last step ends.
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
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_steps(steps, train.len())?;
        crate::sigmas::positive("sigma_data", self.sigma_data)?;
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
        let Rungs {
            mut sigmas,
            timesteps,
        } = levels.finish(&table, sigmas, timesteps)?;
        if self.final_sigma == FinalSigma::SigmaMin {
            sigmas[steps] = sigmas[steps - 1];
        }
        let mut plan = Rungs { sigmas, timesteps }.exploding(train, &levels);
        plan.init_noise_sigma = self.sigma_max.hypot(1.0);
        Ok(plan)
    }
}

/// What a preconditioned model predicts: `x₀` in the scale of its latents.
pub(crate) fn predict(
    model: &mut Model<'_>,
    x: &Tensor<4>,
    level: Level,
    sigma_data: f64,
) -> Result<Prediction> {
    // Divided by σ_data, c_in, c_skip and c_out are those of a v-prediction at σ/σ_data.
    let scaled = Level {
        sigma: level.sigma / sigma_data,
        ..level
    };
    let raw = model.predict(&(x.clone() / sigma_data), scaled)?.raw;
    // The two prediction types of these models differ by the sign of c_out.
    let raw = match model.prediction_type() {
        PredictionType::VPrediction => raw,
        _ => -raw,
    };
    Ok(Prediction {
        raw,
        scaled,
        sigma_data,
    })
}

/// A preconditioned model's output, which can be read at a raised σ as well.
pub(crate) struct Prediction {
    raw: Tensor<4>,
    scaled: Level,
    sigma_data: f64,
}

impl Prediction {
    /// x₀ of the latent `x` at noise level `sigma`.
    pub(crate) fn denoised(&self, x: &Tensor<4>, sigma: f64) -> Tensor<4> {
        let level = Level {
            sigma: sigma / self.sigma_data,
            ..self.scaled
        };
        let x = x.clone() / self.sigma_data;
        PredictionType::VPrediction.denoised(x, level, self.raw.clone()) * self.sigma_data
    }
}

/// Euler's method for preconditioned models (algorithm 2 of Karras et al. 2022 without its second
/// order). One model call a step.
///
/// Its default settings are those of diffusers' `EDMEulerScheduler`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EdmEuler {
    /// Which noise levels a run visits.
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

impl Scheduler for EdmEuler {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_churn(self.s_churn, 0.0, f64::INFINITY, self.s_noise)?;
        self.levels.plan(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        Walk::start(plan, first, self.clone())
    }
}

impl Solver for EdmEuler {
    const NAME: &'static str = "EdmEuler";

    fn step(
        &mut self,
        at: &Place<'_>,
        mut x: Tensor<4>,
        model: &mut Model<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Advance> {
        let (from, to) = (at.stage().from, at.stage().to);
        let prediction = predict(model, &x, from, self.levels.sigma_data)?;
        let gamma = (self.s_churn / at.stages().len() as f64).min(2f64.sqrt() - 1.0);
        let sigma = from.sigma * (1.0 + gamma);
        if gamma > 0.0 {
            let added = (sigma.powi(2) - from.sigma.powi(2)).sqrt() * self.s_noise;
            x = x.clone() + noise_like(&x, noise)? * added;
        }
        let denoised = prediction.denoised(&x, sigma);
        let slope = (x.clone() - denoised.clone()) / sigma;
        let x = x + slope * (to.sigma - sigma);
        Ok(Advance { x, denoised })
    }
}

/// DPM-Solver++ multistep for preconditioned models (Playground 2.5).
///
/// Its default settings are those of diffusers' `EDMDPMSolverMultistepScheduler`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EdmDpmSolverMultistep {
    /// Which noise levels a run visits.
    pub levels: EdmLevels,
    /// The solver: its own levels, and the settings that choose them, play no part.
    pub solver: DpmSolverMultistep,
}

impl Scheduler for EdmDpmSolverMultistep {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_order("solver_order", self.solver.order, 3)?;
        if self.solver.clip != Clip::Off {
            self.solver.clip.check()?;
        }
        self.levels.plan(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        self.solver
            .start_preconditioned(plan, first, self.levels.sigma_data)
    }
}
