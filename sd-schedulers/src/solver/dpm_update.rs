//! The exponential integrators of DPM-Solver, as coefficients, and what they integrate.

use burn::tensor::Tensor;
use sd_core::{Error, Level, Prediction, Result};
use serde::{Deserialize, Serialize};

use super::Thresholding;

/// Equation that DPM-Solver integrates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Algorithm {
    /// The ODE in terms of ε (Lu et al. 2022, arXiv:2206.00927).
    #[serde(rename = "dpmsolver")]
    Ode,
    /// The ODE in terms of x₀ (Lu et al. 2022, arXiv:2211.01095).
    #[default]
    #[serde(rename = "dpmsolver++")]
    OdePlusPlus,
    /// The SDE in terms of ε.
    #[serde(rename = "sde-dpmsolver")]
    Sde,
    /// The SDE in terms of x₀ (appendix D of arXiv:2211.01095).
    #[serde(rename = "sde-dpmsolver++")]
    SdePlusPlus,
}

impl Algorithm {
    /// True of the equations with noise, which each step draws.
    pub fn is_stochastic(self) -> bool {
        matches!(self, Self::Sde | Self::SdePlusPlus)
    }

    /// True of the equations in x₀, not in ε.
    pub fn predicts_x0(self) -> bool {
        matches!(self, Self::OdePlusPlus | Self::SdePlusPlus)
    }
}

/// Weight of the derivative of the model's output in a second-order step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SolverType {
    /// With half the weight of the output itself (algorithm 2 of arXiv:2211.01095).
    #[default]
    Midpoint,
    /// With the exact weight of a linear function.
    Heun,
}

/// Steps in λ shorter than this are none.
pub(crate) const NO_STEP: f64 = 1e-6;

/// A step from level `s` to level `t`:
/// `x_t = x·x_s + d₀·D₀ + d₁·D₁ + d₂·D₂ + noise·z`, where `Dₖ` is the k-th derivative of the
/// model's output over λ, in units of the step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct DpmUpdate {
    x: f64,
    d: [f64; 3],
    pub(crate) noise: f64,
}

impl DpmUpdate {
    /// The coefficients of a step of order `order` (1 to 3) of `algorithm`.
    pub(crate) fn new(
        algorithm: Algorithm,
        solver: SolverType,
        order: usize,
        s: Level,
        t: Level,
    ) -> Result<Self> {
        // e^{−h}, finite also where the step ends at σ = 0 and h = λ_t − λ_s is infinite.
        let decay = (t.sigma / t.alpha) * (s.alpha / s.sigma);
        let h = -decay.ln();
        // Less than this is a step of no length that rounding made one.
        if h < NO_STEP {
            return Ok(Self {
                x: t.sigma / s.sigma,
                d: [0.0; 3],
                noise: 0.0,
            });
        }
        let update = match algorithm {
            Algorithm::OdePlusPlus => {
                let phi = -(-h).exp_m1();
                Self {
                    x: t.sigma / s.sigma,
                    d: [phi, 1.0 - phi / h, phi / (h * h) - 1.0 / h + 0.5].map(|d| d * t.alpha),
                    noise: 0.0,
                }
            }
            Algorithm::Ode => {
                let phi = h.exp_m1();
                Self {
                    x: t.alpha / s.alpha,
                    d: [phi, phi / h - 1.0, (phi - h) / (h * h) - 0.5].map(|d| -d * t.sigma),
                    noise: 0.0,
                }
            }
            Algorithm::SdePlusPlus => {
                let (phi, h2) = (-(-2.0 * h).exp_m1(), 2.0 * h);
                Self {
                    x: t.sigma / s.sigma * decay,
                    d: [phi, 1.0 - phi / h2, (phi - h2) / (h2 * h2) - 0.5].map(|d| d * t.alpha),
                    noise: t.sigma * phi.sqrt(),
                }
            }
            Algorithm::Sde if order == 3 => {
                return Err(Error::Unsupported(
                    "sde-dpmsolver has no third order; use sde-dpmsolver++".into(),
                ));
            }
            Algorithm::Sde => {
                let phi = h.exp_m1();
                Self {
                    x: t.alpha / s.alpha,
                    d: [phi, phi / h - 1.0, 0.0].map(|d| -2.0 * d * t.sigma),
                    noise: t.sigma * (2.0 * h).exp_m1().sqrt(),
                }
            }
        };
        Ok(update.truncated(solver, order))
    }

    /// Only as many derivatives as the order has, with the midpoint rule's weight where it is asked
    /// for.
    fn truncated(mut self, solver: SolverType, order: usize) -> Self {
        if order == 2 && solver == SolverType::Midpoint {
            self.d[1] = 0.5 * self.d[0];
        }
        for d in &mut self.d[order.min(3)..] {
            *d = 0.0;
        }
        self
    }

    /// The step, without its noise. `derivatives` holds as many as the order.
    pub(crate) fn apply(&self, x: Tensor<4>, derivatives: Vec<Tensor<4>>) -> Tensor<4> {
        let terms = derivatives.into_iter().zip(self.d);
        terms.fold(x * self.x, |sum, (d, weight)| sum + d * weight)
    }
}

/// The output that `algorithm` integrates, and the x₀ it implies, from a prediction at level `s`.
pub(crate) fn solver_output(
    algorithm: Algorithm,
    thresholding: Thresholding,
    x: &Tensor<4>,
    s: Level,
    prediction: Prediction,
) -> (Tensor<4>, Tensor<4>) {
    let denoised = thresholding.apply(prediction.denoised);
    let output = if algorithm.predicts_x0() {
        denoised.clone()
    } else if thresholding.is_off() {
        prediction.noise
    } else {
        (x.clone() - denoised.clone() * s.alpha) / s.sigma
    };
    (output, denoised)
}
