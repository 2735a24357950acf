use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Level, Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler, noise_like,
};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::{FinalSigma, Levels, MultistepLevels};
use crate::solver::{
    Algorithm, History, PlannedSampler, Position, Solver, Thresholding, Update, check_order,
    check_up_to_ten, solver_output, unbounded,
};

/// SA-Solver (Xue et al. 2023, arXiv:2309.05019): stochastic Adams methods for the family of SDEs
/// with noise scale τ(t), a predictor (Adams–Bashforth) and a corrector (Adams–Moulton) that costs
/// no further model call. One model call a step.
///
/// Its default settings are those of diffusers' `SASolverScheduler`; the last step ends at the
/// model's smallest σ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SaSolver {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// End of a run at the model's smallest σ, as in diffusers, whatever the levels say.
    pub ends_at_sigma_min: bool,
    /// The predictor's order, 1 to 4.
    pub predictor_order: usize,
    /// The corrector's order, 1 to 4.
    pub corrector_order: usize,
    /// Integration of x₀, not of ε.
    pub predict_x0: bool,
    /// The noise scale τ: 0 for the ODE, 1 for the SDE of training.
    pub tau: f64,
    /// The timesteps, both included, at which τ is not 0.
    pub tau_range: [f64; 2],
    /// Lower orders for the last steps.
    pub lower_order_final: bool,
    /// Thresholding of the predicted x₀.
    pub thresholding: Thresholding,
    /// Timesteps whose log-SNR λ = ln(α/σ) lies below this are left out, −∞ for none.
    #[serde(with = "unbounded")]
    pub lambda_min_clipped: f64,
    /// The authors' own rule for a second-order step: ½h² for the exact second moment.
    pub simple_second_order: bool,
    /// The τ of the timestep that a step leads to, as in ComfyUI, not of where it begins.
    pub tau_at_end: bool,
    /// Draws of noise for the steps too that add none, as in diffusers: which noise a later step
    /// gets depends on it.
    pub draws_unused_noise: bool,
    /// Another evaluation, of the corrected latent (PECE): two model calls a step.
    pub pece: bool,
}

impl Default for SaSolver {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            ends_at_sigma_min: true,
            predictor_order: 2,
            corrector_order: 2,
            predict_x0: true,
            tau: 1.0,
            tau_range: [200.0, 800.0],
            lower_order_final: true,
            thresholding: Thresholding::Off,
            lambda_min_clipped: f64::NEG_INFINITY,
            simple_second_order: true,
            tau_at_end: false,
            draws_unused_noise: true,
            pece: false,
        }
    }
}

impl SaSolver {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        let algorithms = [
            ("data_prediction", true),
            ("noise_prediction", false),
            // What other classes leave in a file counts as the default.
            ("dpmsolver++", true),
            ("sde-dpmsolver++", true),
        ];
        Ok(Arc::new(Self {
            levels: fields.levels(default.levels)?,
            ends_at_sigma_min: fields.flag("ends_at_sigma_min", default.ends_at_sigma_min)?,
            predictor_order: fields.count("predictor_order", default.predictor_order)?,
            corrector_order: fields.count("corrector_order", default.corrector_order)?,
            predict_x0: fields.choice("algorithm_type", default.predict_x0, &algorithms)?,
            tau: fields.number("tau", default.tau)?,
            tau_range: [
                fields.number("tau_from", default.tau_range[0])?,
                fields.number("tau_to", default.tau_range[1])?,
            ],
            lower_order_final: fields.flag("lower_order_final", default.lower_order_final)?,
            thresholding: fields.thresholding(default.thresholding)?,
            lambda_min_clipped: fields.number("lambda_min_clipped", default.lambda_min_clipped)?,
            simple_second_order: fields.flag("simple_second_order", default.simple_second_order)?,
            tau_at_end: fields.flag("tau_at_end", default.tau_at_end)?,
            draws_unused_noise: fields.flag("draws_unused_noise", default.draws_unused_noise)?,
            pece: fields.flag("pece", default.pece)?,
        }))
    }
}

impl Scheduler for SaSolver {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_order("predictor_order", self.predictor_order, 4)?;
        check_order("corrector_order", self.corrector_order, 4)?;
        self.thresholding.check()?;
        check_up_to_ten("tau", self.tau)?;
        let mut levels = self.levels.clone();
        if self.ends_at_sigma_min {
            levels.final_sigma = FinalSigma::SigmaMin;
        }
        let choice = MultistepLevels {
            lambda_min_clipped: self.lambda_min_clipped,
            ..MultistepLevels::default()
        };
        let mut sigmas = choice.resolve(&levels, train, steps)?;
        if self.ends_at_sigma_min && levels.are_spread() {
            sigmas.end_at_last();
        }
        Ok(sigmas.preserving(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let keep = self
            .predictor_order
            .max(self.corrector_order - 1)
            .clamp(1, 4);
        let sampler = SaSolverSampler {
            settings: self.clone(),
            // The corrector also has the newest output.
            outputs: History::new(keep + 1),
            last: None,
        };
        PlannedSampler::start(plan, first, sampler)
    }
}

struct SaSolverSampler {
    settings: SaSolver,
    outputs: History,
    last: Option<Last>,
}

/// The step before, as the corrector needs it.
struct Last {
    x: Tensor<4>,
    noise: Tensor<4>,
    corrector_order: usize,
}

impl Solver for SaSolverSampler {
    const NAME: &'static str = "SaSolver";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (s, t) = (at.stage().from, at.stage().to);
        let prediction = model.predict(&x, s)?;
        let algorithm = if self.settings.predict_x0 {
            Algorithm::OdePlusPlus
        } else {
            Algorithm::Ode
        };
        let thresholding = self.settings.thresholding;
        let (output, mut denoised) = solver_output(algorithm, thresholding, &x, s, prediction);
        self.outputs.push(output);

        let pece = self.settings.pece;
        let corrected = match (self.last.take(), at.before(1)) {
            (Some(last), Some(before)) if t.sigma > 0.0 || pece => {
                let nodes = self.levels(at, last.corrector_order);
                let integral = Integral::new(&self.settings, before.from, s, &nodes, true);
                let corrected = self.update(&integral, last.x, last.noise);
                if pece {
                    let prediction = model.predict(&corrected, s)?;
                    let (output, again) =
                        solver_output(algorithm, thresholding, &corrected, s, prediction);
                    self.outputs.replace_newest(output);
                    denoised = again;
                }
                corrected
            }
            _ => x,
        };
        if t.sigma == 0.0 {
            return Ok(Update::to_clean(denoised));
        }

        // A last step to σ = 0 needs no order.
        let zero = usize::from(
            at.stages()
                .last()
                .is_some_and(|stage| stage.to.sigma == 0.0),
        );
        let left = if self.settings.lower_order_final {
            at.remaining() + 1 - zero
        } else {
            4
        };
        let held = self.outputs.len().min(self.history());
        let order = self.settings.predictor_order.min(left).min(held);
        let nodes = self.levels(at, order);
        let integral = Integral::new(&self.settings, s, t, &nodes, false);
        let z = match self.settings.draws_unused_noise || integral.noise > 0.0 {
            true => noise_like(&corrected, noise)?,
            false => corrected.zeros_like(),
        };
        let next = self.update(&integral, corrected.clone(), z.clone());
        self.last = Some(Last {
            x: corrected,
            noise: z,
            corrector_order: self
                .settings
                .corrector_order
                .min(left + 1 - zero)
                .min(held + 1),
        });
        Ok(Update { x: next, denoised })
    }

    fn save(&self, state: SavedState) -> SavedState {
        let state = self.outputs.save(state);
        match &self.last {
            Some(last) => state
                .with_number("corrector_order", last.corrector_order as f64)
                .with_tensor("last_latent", last.x.clone())
                .with_tensor("last_noise", last.noise.clone()),
            None => state,
        }
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.outputs.restore(state)?;
        let (x, noise) = (state.tensor("last_latent"), state.tensor("last_noise"));
        let order = state.number("corrector_order");
        self.last = x.zip(noise).zip(order).map(|((x, noise), order)| Last {
            x,
            noise,
            corrector_order: (order as usize).clamp(1, self.outputs.len() + 1),
        });
        Ok(())
    }
}

impl SaSolverSampler {
    fn history(&self) -> usize {
        let SaSolver {
            predictor_order,
            corrector_order,
            ..
        } = self.settings;
        predictor_order.max(corrector_order - 1)
    }

    /// The levels of the `count` newest outputs.
    fn levels(&self, at: &Position<'_>, count: usize) -> Vec<Level> {
        let stages = (0..count).filter_map(|age| at.before(age));
        stages.map(|stage| stage.from).collect()
    }

    fn update(&self, integral: &Integral, x: Tensor<4>, z: Tensor<4>) -> Tensor<4> {
        let weighted = integral.weights.iter().enumerate();
        let x = weighted.fold(x * integral.x, |x, (age, weight)| {
            x + self.outputs.get(age) * *weight
        });
        if integral.noise == 0.0 {
            return x;
        }
        x + z * integral.noise
    }
}

/// Equations 14 (predictor) and 17 (corrector): coefficients of the latent, of the outputs from
/// the newest back, and of the noise.
struct Integral {
    x: f64,
    weights: Vec<f64>,
    noise: f64,
}

impl Integral {
    fn new(settings: &SaSolver, s: Level, t: Level, nodes: &[Level], corrects: bool) -> Self {
        let (from, to) = (s.log_snr(), t.log_snr());
        let h = to - from;
        let [first, last] = settings.tau_range;
        let timestep = if settings.tau_at_end { t.t } else { s.t };
        let tau = if (first..=last).contains(&timestep) {
            settings.tau
        } else {
            0.0
        };
        let tau2 = tau * tau;
        // λ counted from the step's end keeps the exponentials small.
        let lambdas: Vec<f64> = nodes.iter().map(|level| level.log_snr() - to).collect();
        if settings.predict_x0 {
            let rate = 1.0 + tau2;
            let mut weights = lagrange_integrals(&lambdas, -h, rate);
            if nodes.len() == 2 && settings.simple_second_order {
                // The authors' own rule for order 2 has ½h² for the exact second moment.
                let exact = (h * rate - 1.0 + (-rate * h).exp()) / (rate * rate);
                let span = if corrects { h } else { lambdas[0] - lambdas[1] };
                let change = (0.5 * h * h - exact) / span;
                weights[0] += change;
                weights[1] -= change;
            }
            Self {
                x: (-tau2 * h).exp() * t.sigma / s.sigma,
                weights: weights.into_iter().map(|w| w * rate * t.alpha).collect(),
                noise: t.sigma * (-(-2.0 * tau2 * h).exp_m1()).max(0.0).sqrt(),
            }
        } else {
            let weights = lagrange_integrals(&lambdas, -h, -1.0);
            let scale = -(1.0 + tau2) * t.sigma;
            Self {
                x: t.alpha / s.alpha,
                weights: weights.into_iter().map(|w| w * scale).collect(),
                noise: tau * t.sigma * (2.0 * h).exp_m1().max(0.0).sqrt(),
            }
        }
    }
}

/// `∫ e^{rate·u} l_j(u) du` from `start` to 0 for Lagrange's polynomials on one to four `nodes`.
fn lagrange_integrals(nodes: &[f64], start: f64, rate: f64) -> Vec<f64> {
    let moments = moments(start, rate);
    let integral = |j: usize| {
        // The polynomial's coefficients, the constant first.
        let mut polynomial = vec![1.0];
        for (k, node) in nodes.iter().enumerate().filter(|(k, _)| *k != j) {
            let mut product = vec![0.0; polynomial.len() + 1];
            for (i, c) in polynomial.iter().enumerate() {
                product[i] -= c * node / (nodes[j] - nodes[k]);
                product[i + 1] += c / (nodes[j] - nodes[k]);
            }
            polynomial = product;
        }
        polynomial.iter().zip(moments).map(|(c, m)| c * m).sum()
    };
    (0..nodes.len()).map(integral).collect()
}

/// `∫ e^{rate·u} uᵏ du` from `start` to 0 for k = 0 to 3, by parts.
fn moments(start: f64, rate: f64) -> [f64; 4] {
    let at_start = (rate * start).exp();
    let mut moments = [-(rate * start).exp_m1() / rate, 0.0, 0.0, 0.0];
    for k in 1..4 {
        moments[k] = (-start.powi(k as i32) * at_start - k as f64 * moments[k - 1]) / rate;
    }
    moments
}
