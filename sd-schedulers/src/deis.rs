use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, SamplerState, Scheduler, Stage};
use serde::{Deserialize, Serialize};

use crate::clip::Clip;
use crate::dpm_multistep::{check_order, solver_output};
use crate::dpm_update::Algorithm;
use crate::history::History;
use crate::levels::Levels;
use crate::multistep::MultistepLevels;
use crate::sigmas::FinalSigma;
use crate::walk::{Advance, Place, Solver, Walk};

/// Diffusion exponential integrator sampler (Zhang & Chen 2022, arXiv:2204.13902), log-ρ variant:
/// the polynomial in ln ρ through the last ε, integrated over ρ = σ/α. One model call a step.
///
/// Its default settings are those of diffusers' `DEISMultistepScheduler`; the last step ends at
/// the model's smallest σ, since ε has no meaning at 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Deis {
    /// Which noise levels a run visits; its final σ counts as [`FinalSigma::SigmaMin`].
    pub levels: Levels,
    /// The solver's order, 1 to 3.
    pub order: usize,
    /// Whether runs of fewer than 15 steps end with lower orders.
    pub lower_order_final: bool,
    /// What is done to the predicted x₀.
    pub clip: Clip,
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
            clip: Clip::Off,
        }
    }
}

impl Scheduler for Deis {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_order("solver_order", self.order, 3)?;
        self.clip.check()?;
        let levels = Levels {
            final_sigma: FinalSigma::SigmaMin,
            ..self.levels.clone()
        };
        let mut rungs = MultistepLevels::default().rungs(&levels, train, steps)?;
        if levels.are_spread() {
            rungs.end_at_last();
        }
        Ok(rungs.preserving(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let run = Run {
            settings: self.clone(),
            outputs: History::new(self.order.clamp(1, 3)),
        };
        Walk::start(plan, first, run)
    }
}

struct Run {
    settings: Deis,
    outputs: History,
}

impl Solver for Run {
    const NAME: &'static str = "Deis";

    fn step(
        &mut self,
        at: &Place<'_>,
        x: Tensor<4>,
        model: &mut Model<'_>,
        _noise: &mut dyn Noise,
    ) -> Result<Advance> {
        let Stage { from, to } = at.stage();
        let prediction = model.predict(&x, from)?;
        // diffusers goes through x₀ even where nothing is clipped; ε is the same.
        let clip = self.settings.clip;
        let (epsilon, denoised) = solver_output(Algorithm::Ode, clip, &x, from, prediction);
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
        Ok(Advance { x, denoised })
    }

    fn save(&self, state: SamplerState) -> SamplerState {
        self.outputs.save(state)
    }

    fn restore(&mut self, state: &SamplerState) -> Result<()> {
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
