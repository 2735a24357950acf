use burn::tensor::Tensor;

/// The boundary condition of a consistency model: x₀ is the latent itself at the scaled timestep 0.
pub(crate) fn bounded(denoised: Tensor<4>, x: Tensor<4>, timestep: f64) -> Tensor<4> {
    const DATA: f64 = 0.5;
    let skip = DATA * DATA / (timestep * timestep + DATA * DATA);
    denoised * (timestep / timestep.hypot(DATA)) + x * skip
}
