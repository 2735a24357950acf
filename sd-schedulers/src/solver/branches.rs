use burn::tensor::Tensor;
use sd_core::Prediction;

/// The guided and the unconditional x₀, which is the guided one where there is no guidance: what
/// CFG++ works on.
pub(crate) fn both(prediction: Prediction) -> (Tensor<4>, Tensor<4>) {
    let denoised = prediction.denoised;
    let uncond = prediction.uncond_denoised;
    let uncond = uncond.unwrap_or_else(|| denoised.clone());
    (denoised, uncond)
}
