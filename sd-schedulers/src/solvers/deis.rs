use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler, Stage};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::{FinalSigma, Levels, MultistepLevels};
use crate::solver::{
    Algorithm, History, PlannedSampler, Position, Solver, Thresholding, Update, check_order,
    solver_output,
};

/// Diffusion exponential integrator sampler (Zhang & Chen 2022, arXiv:2204.13902), log-ρ variant:
/// the polynomial in ln ρ through the last ε, integrated over ρ = σ/α. One model call a step.
///
/// Its default settings are those of diffusers' `DEISMultistepScheduler`; the last step ends at
/// the model's smallest σ, since ε has no meaning at 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Deis {
    /// Noise levels that a run visits; its final σ counts as [`FinalSigma::SigmaMin`].
    pub levels: Levels,
    /// The solver's order, 1 to 3.
    pub order: usize,
    /// Lower orders at the end of runs of fewer than 15 steps.
    pub lower_order_final: bool,
    /// Thresholding of the predicted x₀.
    pub thresholding: Thresholding,
}

impl Default for Deis {
    fn default() -> Self {
        Self {
            levels: Levels {
                final_sigma: FinalSigma::SigmaMin,
                ..Levels::default()
            },
            order: 2,
            lower_order_final: true,
            thresholding: Thresholding::Off,
        }
    }
}

impl Deis {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            levels: fields.levels(default.levels)?,
            order: fields.count("solver_order", default.order)?,
            lower_order_final: fields.flag("lower_order_final", default.lower_order_final)?,
            thresholding: fields.thresholding(default.thresholding)?,
        }))
    }
}

impl Scheduler for Deis {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_order("solver_order", self.order, 3)?;
        self.thresholding.check()?;
        let levels = Levels {
            final_sigma: FinalSigma::SigmaMin,
            ..self.levels.clone()
        };
        let mut sigmas = MultistepLevels::default().resolve(&levels, train, steps)?;
        if levels.are_spread() {
            sigmas.end_at_last();
        }
        Ok(sigmas.preserving(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let sampler = DeisSampler {
            settings: self.clone(),
            outputs: History::new(self.order.clamp(1, 3)),
        };
        PlannedSampler::start(plan, first, sampler)
    }
}

struct DeisSampler {
    settings: Deis,
    outputs: History,
}

impl Solver for DeisSampler {
    const NAME: &'static str = "Deis";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        _noise: &mut dyn Noise,
    ) -> Result<Update> {
        let Stage { from, to } = at.stage();
        let prediction = model.predict(&x, from)?;
        // diffusers goes through x₀ even where nothing is clipped; ε is the same.
        let thresholding = self.settings.thresholding;
        let (epsilon, denoised) = solver_output(Algorithm::Ode, thresholding, &x, from, prediction);
        self.outputs.push(epsilon);
        let few = self.settings.lower_order_final && at.stages().len() < 15;
        let order = match at.remaining() {
            0 if few => 1,
            1 if few => self.settings.order.min(2),
            _ => self.settings.order,
        };
        let rhos: Vec<f64> = (0..order.min(self.outputs.len()))
            .filter_map(|age| at.before(age))
            .map(|stage| stage.from.sigma / stage.from.alpha)
            .collect();
        let weights = weights(&rhos, to.sigma / to.alpha);
        let x = weights
            .into_iter()
            .enumerate()
            .fold(x / from.alpha, |x, (age, w)| x + self.outputs.get(age) * w);
        let x = x * to.alpha;
        Ok(Update { x, denoised })
    }

    fn save(&self, state: SavedState) -> SavedState {
        self.outputs.save(state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.outputs.restore(state)
    }
}

/// The integral from `rhos[0]` to `end` over ρ of Lagrange's polynomials in `ln ρ` on one to three
/// nodes (equation 15 with a polynomial in ln ρ).
fn weights(rhos: &[f64], end: f64) -> Vec<f64> {
    let start = rhos[0];
    let logs: Vec<f64> = rhos.iter().map(|rho| rho.ln()).collect();
    // ∫ (ln ρ)ᵏ dρ for k = 0, 1, 2.
    let moment = |rho: f64| {
        let l = rho.ln();
        [rho, rho * (l - 1.0), rho * (l * l - 2.0 * l + 2.0)]
    };
    let (a, b) = (moment(start), moment(end));
    let m = [b[0] - a[0], b[1] - a[1], b[2] - a[2]];
    match *logs.as_slice() {
        [_] => vec![m[0]],
        [l0, l1] => vec![
            (m[1] - l1 * m[0]) / (l0 - l1),
            (m[1] - l0 * m[0]) / (l1 - l0),
        ],
        _ => {
            let weight = |j: usize| {
                let (p, q) = (logs[(j + 1) % 3], logs[(j + 2) % 3]);
                let numerator = m[2] - (p + q) * m[1] + p * q * m[0];
                numerator / ((logs[j] - p) * (logs[j] - q))
            };
            (0..3).map(weight).collect()
        }
    }
}
