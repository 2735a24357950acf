use burn::tensor::Tensor;

use crate::{Level, Prediction};

/// Meaning of a network's raw output: which combination of x₀ and ε it was trained to predict
/// (Karras et al. 2022, arXiv:2206.00364, table 1, written in (α, σ)).
///
/// A parameterization is nothing but its [`Coefficients`]; a new one is one row of
/// [`coefficients`](Self::coefficients).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Parameterization {
    /// The noise ε (Ho et al. 2020, arXiv:2006.11239). Stable Diffusion 1 and XL.
    Epsilon,
    /// `v = α·ε − σ·x₀` (Salimans & Ho 2022, arXiv:2202.00512). Stable Diffusion 2 at 768².
    VPrediction,
    /// The clean latent x₀ itself.
    Sample,
    /// The velocity `ε − x₀` of the straight line between picture and noise (Lipman et al. 2023,
    /// arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003). Stable Diffusion 3, Flux.
    Flow,
    /// Karras et al.'s preconditioned network (Playground 2.5): v in units of `sigma_data`, with
    /// the opposite sign unless `v_prediction`.
    Edm {
        /// Standard deviation of the model's clean latents, 0.5 in the paper.
        sigma_data: f64,
        /// Sign of the output: v's (diffusers' `prediction_type`) if true, else the paper's.
        v_prediction: bool,
    },
}

/// Linear combinations that a [`Parameterization`] makes of a latent and an output at one level:
/// the network sees `c_in·x`, and `x₀ = clean·(x, output)`, `ε = noise·(x, output)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coefficients {
    /// Factor on the latent before the network sees it.
    pub c_in: f64,
    /// Factors on latent and output whose sum is x₀; infinite where the output says nothing of it.
    pub clean: [f64; 2],
    /// Factors on latent and output whose sum is ε; infinite where the output says nothing of it.
    pub noise: [f64; 2],
}

impl Parameterization {
    /// Name in diffusers' spelling: `epsilon`, `v_prediction`, `sample`, `flow_prediction`; `edm`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::VPrediction => "v_prediction",
            Self::Sample => "sample",
            Self::Flow => "flow_prediction",
            Self::Edm { .. } => "edm",
        }
    }

    /// Coefficients at `level`, of any scale: a latent and a level multiplied by one number mean
    /// the same.
    pub fn coefficients(self, level: Level) -> Coefficients {
        let (alpha, sigma) = (level.alpha, level.sigma);
        let n = alpha.hypot(sigma);
        match self {
            Self::Epsilon => Coefficients {
                c_in: 1.0 / n,
                clean: [1.0 / alpha, -sigma / alpha],
                noise: [0.0, 1.0],
            },
            // In the network's own scale, v = α̂ε − σ̂x₀ gives x₀ = α̂x̂ − σ̂v with x̂ = x/n, α̂ = α/n,
            // σ̂ = σ/n.
            Self::VPrediction => Coefficients {
                c_in: 1.0 / n,
                clean: [alpha / (n * n), -sigma / n],
                noise: [sigma / (n * n), alpha / n],
            },
            Self::Sample => Coefficients {
                c_in: 1.0 / n,
                clean: [0.0, 1.0],
                noise: [1.0 / sigma, -alpha / sigma],
            },
            Self::Flow => {
                let n = alpha + sigma;
                Coefficients {
                    c_in: 1.0 / n,
                    clean: [1.0 / n, -sigma / n],
                    noise: [1.0 / n, alpha / n],
                }
            }
            Self::Edm {
                sigma_data,
                v_prediction,
            } => {
                let n = (alpha * sigma_data).hypot(sigma);
                let sign = if v_prediction { 1.0 } else { -1.0 };
                Coefficients {
                    c_in: 1.0 / n,
                    clean: [
                        alpha * sigma_data * sigma_data / (n * n),
                        -sign * sigma * sigma_data / n,
                    ],
                    noise: [sigma / (n * n), sign * alpha * sigma_data / n],
                }
            }
        }
    }

    /// Clean latent x₀ that the output `raw` for the latent `x` at `level` implies.
    pub fn denoised(self, x: Tensor<4>, level: Level, raw: Tensor<4>) -> Tensor<4> {
        combined(x, raw, self.coefficients(level).clean)
    }

    /// Noise ε that the output `raw` for the latent `x` at `level` implies.
    pub fn noise(self, x: Tensor<4>, level: Level, raw: Tensor<4>) -> Tensor<4> {
        combined(x, raw, self.coefficients(level).noise)
    }

    /// Prediction that the output `raw` for the latent `x` at `level` implies.
    pub fn read(self, x: &Tensor<4>, level: Level, raw: Tensor<4>) -> Prediction {
        let Coefficients { clean, noise, .. } = self.coefficients(level);
        Prediction {
            denoised: combined(x.clone(), raw.clone(), clean),
            noise: combined(x.clone(), raw.clone(), noise),
            raw,
            uncond_denoised: None,
            variance: None,
        }
    }
}

/// `a·x + b·raw`, without the multiplications that change nothing.
fn combined(x: Tensor<4>, raw: Tensor<4>, [a, b]: [f64; 2]) -> Tensor<4> {
    if a == 0.0 {
        return if b == 1.0 { raw } else { raw * b };
    }
    x * a + raw * b
}
