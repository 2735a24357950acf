use burn::tensor::Tensor;
use sd_core::{Model, Result, Stage};

use super::Update;

/// Heun's step along one stage, Euler's if it ends at σ = 0. `limit` is applied to each x₀.
pub(crate) fn heun_step(
    Stage { from, to }: Stage,
    x: Tensor<4>,
    model: &mut dyn Model,
    limit: impl Fn(Tensor<4>) -> Tensor<4>,
) -> Result<Update> {
    let dt = to.sigma - from.sigma;
    let denoised = limit(model.predict(&x, from)?.denoised);
    let slope = (x.clone() - denoised.clone()) / from.sigma;
    let euler = x.clone() + slope.clone() * dt;
    if to.sigma == 0.0 {
        return Ok(Update { x: euler, denoised });
    }
    let there = limit(model.predict(&euler, to)?.denoised);
    let slope_there = (euler - there) / to.sigma;
    let x = x + (slope + slope_there) * (0.5 * dt);
    Ok(Update { x, denoised })
}
