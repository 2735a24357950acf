use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Error, Level, Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler,
    noise_like,
};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::{FinalSigma, Levels, MultistepLevels};
use crate::solver::{
    Algorithm, DpmUpdate, History, PlannedSampler, Position, Solver, SolverType, Thresholding,
    Update, check_final, check_order, solver_output, unbounded,
};

/// DPM-Solver and DPM-Solver++ in single steps of order 1 to 3 (Lu et al. 2022, arXiv:2206.00927
/// and arXiv:2211.01095): a step of order k is begun again k times from the same latent, each time
/// a level further and with one more model output. One model call a level.
///
/// Its default settings are those of diffusers' `DPMSolverSinglestepScheduler`, which spaces
/// timesteps [`Linspace`](crate::Spacing::Linspace) only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DpmSolverSinglestep {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// The solver's order, 1 to 3.
    pub order: usize,
    /// Equation that is integrated; all but [`Algorithm::Sde`].
    pub algorithm: Algorithm,
    /// Weights of the derivatives in a step.
    pub solver_type: SolverType,
    /// Lower orders at the end of a run; it has them in any case when it ends at σ = 0 or when its
    /// levels are no multiple of the order.
    pub lower_order_final: bool,
    /// Thresholding of the predicted x₀: none or [`Thresholding::Dynamic`].
    pub thresholding: Thresholding,
    /// Timesteps whose log-SNR λ = ln(α/σ) lies below this are left out, −∞ for none.
    #[serde(with = "unbounded")]
    pub lambda_min_clipped: f64,
}

impl Default for DpmSolverSinglestep {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            order: 2,
            algorithm: Algorithm::OdePlusPlus,
            solver_type: SolverType::Midpoint,
            lower_order_final: false,
            thresholding: Thresholding::Off,
            lambda_min_clipped: f64::NEG_INFINITY,
        }
    }
}

impl DpmSolverSinglestep {
    /// The order that is reached at each of `steps` levels.
    fn orders(&self, steps: usize) -> Vec<usize> {
        let order = self.order.clamp(1, 3);
        let zero = self.levels.final_sigma == FinalSigma::Zero;
        let mut orders: Vec<usize> = (0..steps).map(|i| i % order + 1).collect();
        if self.lower_order_final || zero || !steps.is_multiple_of(order) {
            // The last step is of order 1, and the one before it of order 2 at most.
            let whole = steps - 1 - (steps - 1) % order;
            let tail: &[usize] = match (order, steps - whole) {
                (3, 3) => &[1, 2, 1],
                (2, 2) => &[1, 1],
                (_, 2) => &[1, 2],
                _ => &[1],
            };
            orders[whole..].copy_from_slice(tail);
        }
        if zero {
            orders[steps - 1] = 1;
        }
        orders
    }

    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            // The class knows neither spacing nor offset.
            levels: Levels {
                spacing: default.levels.spacing,
                steps_offset: default.levels.steps_offset,
                final_sigma: fields.final_sigma(default.levels.final_sigma)?,
                ..fields.levels(default.levels)?
            },
            order: fields.count("solver_order", default.order)?,
            algorithm: fields.algorithm(default.algorithm)?,
            solver_type: fields.solver_type(default.solver_type)?,
            lower_order_final: fields.flag("lower_order_final", default.lower_order_final)?,
            thresholding: fields.thresholding(default.thresholding)?,
            lambda_min_clipped: fields.number("lambda_min_clipped", default.lambda_min_clipped)?,
        }))
    }
}

impl Scheduler for DpmSolverSinglestep {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_order("solver_order", self.order, 3)?;
        check_final(self.algorithm, self.levels.final_sigma)?;
        self.thresholding.check()?;
        if self.algorithm == Algorithm::Sde {
            let message = "sde-dpmsolver has no single-step form; use sde-dpmsolver++";
            return Err(Error::Unsupported(message.into()));
        }
        let choice = MultistepLevels {
            lambda_min_clipped: self.lambda_min_clipped,
            ..MultistepLevels::default()
        };
        Ok(choice
            .resolve(&self.levels, train, steps)?
            .preserving(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let sampler = DpmSolverSinglestepSampler {
            orders: self.orders(plan.stages.len().max(1)),
            settings: self.clone(),
            outputs: History::new(self.order.clamp(1, 3)),
            origin: None,
        };
        PlannedSampler::start(plan, first, sampler)
    }
}

struct DpmSolverSinglestepSampler {
    settings: DpmSolverSinglestep,
    orders: Vec<usize>,
    outputs: History,
    /// The latent that the step under way began with.
    origin: Option<Tensor<4>>,
}

impl Solver for DpmSolverSinglestepSampler {
    const NAME: &'static str = "DpmSolverSinglestep";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (here, to) = (at.stage().from, at.stage().to);
        let Self {
            settings,
            orders,
            outputs,
            origin,
        } = self;
        let algorithm = settings.algorithm;
        let prediction = model.predict(&x, here)?;
        let (output, denoised) =
            solver_output(algorithm, settings.thresholding, &x, here, prediction);
        outputs.push(output);

        let order = orders[at.index].min(outputs.len());
        let begun = origin.take().filter(|_| order > 1).unwrap_or(x);
        let levels: Vec<Level> = (0..order)
            .filter_map(|age| Some(at.before(age)?.from))
            .collect();
        let from = levels[levels.len() - 1];
        let derivatives = differences(outputs, &levels, to, settings.solver_type);
        let update = DpmUpdate::new(algorithm, settings.solver_type, order, from, to)?;
        let mut next = update.apply(begun.clone(), derivatives);
        if algorithm.is_stochastic() {
            next = next.clone() + noise_like(&next, noise)? * update.noise;
        }
        *origin = Some(begun);
        Ok(Update { x: next, denoised })
    }

    fn save(&self, state: SavedState) -> SavedState {
        let state = self.outputs.save(state);
        match &self.origin {
            Some(origin) => state.with_tensor("origin", origin.clone()),
            None => state,
        }
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.origin = state.tensor("origin");
        self.outputs.restore(state)
    }
}

/// The oldest output and its derivatives over λ in units of the step; `levels` are those of the
/// outputs, the newest first.
fn differences(
    outputs: &History,
    levels: &[Level],
    to: Level,
    solver: SolverType,
) -> Vec<Tensor<4>> {
    let m = |age| outputs.get(age);
    let origin = levels[levels.len() - 1].log_snr();
    let h = to.log_snr() - origin;
    let ratio = |level: Level| (level.log_snr() - origin) / h;
    match *levels {
        [l0, _] => vec![m(1), (m(0) - m(1)) / ratio(l0)],
        [l0, l1, _] => {
            let (r0, r1) = (ratio(l0), ratio(l1));
            let (near, far) = ((m(1) - m(2)) / r1, (m(0) - m(2)) / r0);
            if solver == SolverType::Midpoint {
                return vec![m(2), far];
            }
            let slope = (near.clone() * r0 - far.clone() * r1) / (r0 - r1);
            vec![m(2), slope, (far - near) * (2.0 / (r0 - r1))]
        }
        _ => vec![m(0)],
    }
}
