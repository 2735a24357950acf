use burn::tensor::Tensor;
use sd_core::{Level, Model, PredictionType, Result};

/// The prediction of a model with Karras et al.'s preconditioning: `x₀` in the scale of its latents.
pub(crate) fn predict_preconditioned(
    model: &mut Model<'_>,
    x: &Tensor<4>,
    level: Level,
    sigma_data: f64,
) -> Result<Preconditioned> {
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
    Ok(Preconditioned {
        raw,
        scaled,
        sigma_data,
    })
}

/// A preconditioned model's output, which can be read at a raised σ as well.
pub(crate) struct Preconditioned {
    raw: Tensor<4>,
    scaled: Level,
    sigma_data: f64,
}

impl Preconditioned {
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
