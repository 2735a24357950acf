use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler, noise_like,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{Built, Fields};
use crate::levels::{Levels, MultistepLevels, SigmaSchedule};
use crate::solver::{
    Algorithm, Brownian, DpmUpdate, History, NO_STEP, PlannedSampler, Position, Solver, SolverType,
    Thresholding, Update, check_final, check_order, solver_output, unbounded,
};

/// DPM-Solver and DPM-Solver++ with the outputs of earlier steps (Lu et al. 2022,
/// arXiv:2206.00927 and arXiv:2211.01095): "DPM++ 2M" and, with noise, "DPM++ 2M SDE". One model
/// call a step.
///
/// Its default settings are those of diffusers' `DPMSolverMultistepScheduler`: DPM++ 2M.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DpmSolverMultistep {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// The solver's order, 1 to 3.
    pub order: usize,
    /// Equation that is integrated.
    pub algorithm: Algorithm,
    /// Weight of the derivative in a second-order step.
    pub solver_type: SolverType,
    /// Lower orders at the end of runs of fewer than 15 steps.
    pub lower_order_final: bool,
    /// First order for the last step; one that ends at σ = 0 always has it.
    pub euler_at_final: bool,
    /// Thresholding of the predicted x₀: none or [`Thresholding::Dynamic`].
    pub thresholding: Thresholding,
    /// Timesteps whose log-SNR λ = ln(α/σ) lies below this are left out, −∞ for none.
    #[serde(with = "unbounded")]
    pub lambda_min_clipped: f64,
    /// Rounding of the timesteps of Karras' σ, as diffusers does it for all training schedules but
    /// the cosine one; without it they are cut to whole numbers.
    pub round_timesteps: bool,
    /// A Brownian path over σ as the stochastic forms' noise, as in k-diffusion, not a draw per step.
    pub brownian: bool,
}

impl Default for DpmSolverMultistep {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            order: 2,
            algorithm: Algorithm::OdePlusPlus,
            solver_type: SolverType::Midpoint,
            lower_order_final: true,
            euler_at_final: false,
            thresholding: Thresholding::Off,
            lambda_min_clipped: f64::NEG_INFINITY,
            round_timesteps: true,
            brownian: false,
        }
    }
}

impl DpmSolverMultistep {
    /// DPM++ 2M on Karras' σ.
    pub fn karras() -> Self {
        Self {
            levels: Levels::karras(),
            ..Self::default()
        }
    }

    /// DPM++ 2M SDE: the stochastic form.
    pub fn sde() -> Self {
        Self {
            algorithm: Algorithm::SdePlusPlus,
            ..Self::default()
        }
    }

    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        let mut levels = Levels {
            final_sigma: fields.final_sigma(default.levels.final_sigma)?,
            ..fields.levels(default.levels)?
        };
        if !levels.are_spread() && fields.flag("use_lu_lambdas", false)? {
            levels.sigmas = SigmaSchedule::LuLambdas;
        }
        // diffusers does not round the timesteps of models with the cosine schedule.
        let cosine = |kind: &Value| kind == "squaredcos_cap_v2";
        Ok(Arc::new(Self {
            levels,
            order: fields.count("solver_order", default.order)?,
            algorithm: fields.algorithm(default.algorithm)?,
            solver_type: fields.solver_type(default.solver_type)?,
            lower_order_final: fields.flag("lower_order_final", default.lower_order_final)?,
            euler_at_final: fields.flag("euler_at_final", default.euler_at_final)?,
            thresholding: fields.thresholding(default.thresholding)?,
            lambda_min_clipped: fields.number("lambda_min_clipped", default.lambda_min_clipped)?,
            round_timesteps: !fields.get("beta_schedule").is_some_and(cosine),
            brownian: fields.flag("brownian", default.brownian)?,
        }))
    }
}

impl DpmSolverMultistep {
    /// diffusers' `EDMDPMSolverMultistepScheduler`; what it says of the model is in the model's
    /// schedule.
    pub(crate) fn edm_from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            levels: fields.edm_levels(default.levels)?,
            order: fields.count("solver_order", default.order)?,
            algorithm: fields.algorithm(default.algorithm)?,
            solver_type: fields.solver_type(default.solver_type)?,
            lower_order_final: fields.flag("lower_order_final", default.lower_order_final)?,
            euler_at_final: fields.flag("euler_at_final", default.euler_at_final)?,
            thresholding: fields.thresholding(default.thresholding)?,
            ..Self::default()
        }))
    }
}

impl Scheduler for DpmSolverMultistep {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_order("solver_order", self.order, 3)?;
        check_final(self.algorithm, self.levels.final_sigma)?;
        self.thresholding.check()?;
        let choice = MultistepLevels {
            lambda_min_clipped: self.lambda_min_clipped,
            round_timesteps: self.round_timesteps,
            ..MultistepLevels::default()
        };
        let sigmas = choice.resolve(&self.levels, train, steps)?;
        Ok(sigmas.preserving(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let sampler = DpmSolverMultistepSampler {
            settings: self.clone(),
            outputs: History::new(self.order.clamp(1, 3)),
            path: self.brownian.then(|| Brownian::over(plan)),
        };
        PlannedSampler::start(plan, first, sampler)
    }
}

struct DpmSolverMultistepSampler {
    settings: DpmSolverMultistep,
    outputs: History,
    path: Option<Brownian>,
}

impl Solver for DpmSolverMultistepSampler {
    const NAME: &'static str = "DpmSolverMultistep";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let Self {
            settings,
            outputs,
            path,
        } = self;
        let (s, t) = (at.stage().from, at.stage().to);
        let prediction = model.predict(&x, s)?;
        let (output, denoised) =
            solver_output(settings.algorithm, settings.thresholding, &x, s, prediction);
        outputs.push(output);

        // Over a step of no length there is nothing to divide differences by.
        let order = match t.log_snr() - s.log_snr() < NO_STEP {
            true => 1,
            false => settings.order_at(at).min(outputs.len()),
        };
        let lambdas: Vec<f64> = (1..order)
            .filter_map(|age| Some(at.before(age)?.from.log_snr()))
            .collect();
        let derivatives = differences(outputs, s.log_snr(), t.log_snr(), &lambdas);
        let update = DpmUpdate::new(settings.algorithm, settings.solver_type, order, s, t)?;
        let mut x = update.apply(x, derivatives);
        if settings.algorithm.is_stochastic() {
            let z = match path {
                Some(path) if update.noise > 0.0 && t.sigma > 0.0 => {
                    path.increment(s.sigma / s.alpha, t.sigma / t.alpha, &x, noise)?
                }
                // k-diffusion draws none for a step to σ = 0.
                Some(_) => return Ok(Update { x, denoised }),
                None => noise_like(&x, noise)?,
            };
            x = x + z * update.noise;
        }
        Ok(Update { x, denoised })
    }

    fn save(&self, state: SavedState) -> SavedState {
        self.outputs.save(state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.outputs.restore(state)
    }
}

impl DpmSolverMultistep {
    /// The order of a step, but for what the history allows.
    fn order_at(&self, at: &Position<'_>) -> usize {
        let few = self.lower_order_final && at.stages().len() < 15;
        match at.remaining() {
            0 if few || self.euler_at_final || at.stage().to.sigma == 0.0 => 1,
            1 if few => self.order.min(2),
            _ => self.order,
        }
    }
}

/// The output and its divided differences at `lambda`, in units of the step to `next`; `earlier`
/// are the λ of the outputs before, as many as are to be used.
fn differences(outputs: &History, lambda: f64, next: f64, earlier: &[f64]) -> Vec<Tensor<4>> {
    let h = next - lambda;
    let m = |age| outputs.get(age);
    match *earlier {
        [] => vec![m(0)],
        [l1] => vec![m(0), (m(0) - m(1)) / ((lambda - l1) / h)],
        [l1, l2, ..] => {
            let (r0, r1) = ((lambda - l1) / h, (l1 - l2) / h);
            let near = (m(0) - m(1)) / r0;
            let far = (m(1) - m(2)) / r1;
            let bend = near.clone() - far;
            vec![
                m(0),
                near + bend.clone() * (r0 / (r0 + r1)),
                bend / (r0 + r1),
            ]
        }
    }
}
