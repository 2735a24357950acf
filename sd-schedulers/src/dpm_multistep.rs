use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Error, Level, Model, Noise, NoiseSchedule, Plan, Prediction, Result, Sampler, SamplerState,
    Scheduler, noise_like,
};
use serde::{Deserialize, Serialize};

use crate::brownian::Brownian;
use crate::clip::Clip;
use crate::dpm_update::{Algorithm, NO_STEP, SolverType, Update};
use crate::edm;
use crate::history::History;
use crate::levels::Levels;
use crate::multistep::MultistepLevels;
use crate::sigmas::FinalSigma;
use crate::walk::{Advance, Place, Solver, Walk};

/// DPM-Solver and DPM-Solver++ with the outputs of earlier steps (Lu et al. 2022,
/// arXiv:2206.00927 and arXiv:2211.01095): "DPM++ 2M" and, with noise, "DPM++ 2M SDE". One model
/// call a step.
///
/// Its default settings are those of diffusers' `DPMSolverMultistepScheduler`: DPM++ 2M.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DpmSolverMultistep {
    /// Which noise levels a run visits.
    pub levels: Levels,
    /// The solver's order, 1 to 3.
    pub order: usize,
    /// Which equation is integrated.
    pub algorithm: Algorithm,
    /// How the derivative enters a second-order step.
    pub solver_type: SolverType,
    /// Whether runs of fewer than 15 steps end with lower orders.
    pub lower_order_final: bool,
    /// Whether the last step is always of first order; one that ends at σ = 0 always is.
    pub euler_at_final: bool,
    /// What is done to the predicted x₀: nothing or [`Clip::Dynamic`].
    pub clip: Clip,
    /// Timesteps whose log-SNR λ = ln(α/σ) lies below this are left out, −∞ for none.
    pub lambda_min_clipped: f64,
    /// Whether the timesteps of Karras' σ are rounded, as diffusers does for all training schedules
    /// but the cosine one, or cut to whole numbers.
    pub round_timesteps: bool,
    /// Whether the stochastic forms take their noise from a Brownian path over σ, as k-diffusion's
    /// do, and not a draw per step.
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
            clip: Clip::Off,
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
}

impl Scheduler for DpmSolverMultistep {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_order("solver_order", self.order, 3)?;
        check_final(self.algorithm, self.levels.final_sigma)?;
        self.clip.check()?;
        let choice = MultistepLevels {
            lambda_min_clipped: self.lambda_min_clipped,
            round_timesteps: self.round_timesteps,
        };
        let rungs = choice.rungs(&self.levels, train, steps)?;
        Ok(rungs.preserving(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let path = self.brownian.then(|| Brownian::over(plan));
        Walk::start(
            plan,
            first,
            Run {
                path,
                ..self.run(None)
            },
        )
    }
}

struct Run {
    settings: DpmSolverMultistep,
    outputs: History,
    /// σ_data of a model with Karras et al.'s preconditioning.
    sigma_data: Option<f64>,
    path: Option<Brownian>,
}

impl DpmSolverMultistep {
    fn run(&self, sigma_data: Option<f64>) -> Run {
        Run {
            settings: self.clone(),
            outputs: History::new(self.order.clamp(1, 3)),
            sigma_data,
            path: None,
        }
    }

    /// A run of a model with Karras et al.'s preconditioning.
    pub(crate) fn start_preconditioned(
        &self,
        plan: &Plan,
        first: usize,
        sigma_data: f64,
    ) -> Result<Box<dyn Sampler>> {
        Walk::start(plan, first, self.run(Some(sigma_data)))
    }
}

impl Solver for Run {
    const NAME: &'static str = "DpmSolverMultistep";

    fn step(
        &mut self,
        at: &Place<'_>,
        x: Tensor<4>,
        model: &mut Model<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Advance> {
        let Self {
            settings,
            outputs,
            path,
            sigma_data,
        } = self;
        let (s, t) = (at.stage().from, at.stage().to);
        let (output, denoised) = match *sigma_data {
            Some(data) => {
                let denoised = edm::predict(model, &x, s, data)?.denoised(&x, s.sigma);
                let denoised = settings.clip.apply(denoised);
                (denoised.clone(), denoised)
            }
            None => {
                let prediction = model.predict(&x, s)?;
                solver_output(settings.algorithm, settings.clip, &x, s, prediction)
            }
        };
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
        let update = Update::new(settings.algorithm, settings.solver_type, order, s, t)?;
        let mut x = update.apply(x, derivatives);
        if settings.algorithm.is_stochastic() {
            let z = match path {
                Some(path) if update.noise > 0.0 && t.sigma > 0.0 => {
                    path.increment(s.sigma / s.alpha, t.sigma / t.alpha, &x, noise)?
                }
                // k-diffusion draws none for a step to σ = 0.
                Some(_) => return Ok(Advance { x, denoised }),
                None => noise_like(&x, noise)?,
            };
            x = x + z * update.noise;
        }
        Ok(Advance { x, denoised })
    }

    fn save(&self, state: SamplerState) -> SamplerState {
        self.outputs.save(state)
    }

    fn restore(&mut self, state: &SamplerState) -> Result<()> {
        self.outputs.restore(state)
    }
}

impl DpmSolverMultistep {
    /// The order of a step, but for what the history allows.
    fn order_at(&self, at: &Place<'_>) -> usize {
        let few = self.lower_order_final && at.stages().len() < 15;
        match at.remaining() {
            0 if few || self.euler_at_final || at.stage().to.sigma == 0.0 => 1,
            1 if few => self.order.min(2),
            _ => self.order,
        }
    }
}

/// What the solver integrates, and the x₀ it implies, from a prediction at level `s`.
pub(crate) fn solver_output(
    algorithm: Algorithm,
    clip: Clip,
    x: &Tensor<4>,
    s: Level,
    prediction: Prediction,
) -> (Tensor<4>, Tensor<4>) {
    let denoised = clip.apply(prediction.denoised);
    let output = if algorithm.predicts_x0() {
        denoised.clone()
    } else if clip.is_off() {
        prediction.noise
    } else {
        (x.clone() - denoised.clone() * s.alpha) / s.sigma
    };
    (output, denoised)
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

/// An error unless `order` is 1 to `max`.
pub(crate) fn check_order(name: &'static str, order: usize, max: usize) -> Result<()> {
    if (1..=max).contains(&order) {
        return Ok(());
    }
    Err(Error::invalid(name, order, format!("expected 1 to {max}")))
}

/// An error when a solver that works on ε is to go down to σ = 0, where ε has no meaning.
pub(crate) fn check_final(algorithm: Algorithm, last: FinalSigma) -> Result<()> {
    if algorithm.predicts_x0() || last != FinalSigma::Zero {
        return Ok(());
    }
    Err(Error::invalid(
        "final_sigmas_type",
        "zero",
        "dpmsolver and sde-dpmsolver work on the noise and need sigma_min",
    ))
}
