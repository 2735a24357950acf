//! Errors for settings out of range, where several solvers have the setting.

use sd_core::{Error, NoiseSchedule, Result};

use super::Algorithm;
use crate::levels::FinalSigma;

/// An error unless `value` is in `0 ..= 1`.
pub(crate) fn check_share(name: &'static str, value: f64) -> Result<()> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(name, value, "expected 0 to 1"))
}

/// An error unless `value` is in `0 ..= 10`.
pub(crate) fn check_up_to_ten(name: &'static str, value: f64) -> Result<()> {
    if (0.0..=10.0).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(name, value, "expected 0 to 10"))
}

/// An error unless `order` is 1 to `max`.
pub(crate) fn check_order(name: &'static str, order: usize, max: usize) -> Result<()> {
    if (1..=max).contains(&order) {
        return Ok(());
    }
    Err(Error::invalid(name, order, format!("expected 1 to {max}")))
}

/// An error when the settings of ancestral noise are out of range.
pub(crate) fn check_ancestral(eta: f64, s_noise: f64) -> Result<()> {
    check_share("eta", eta)?;
    check_churn(0.0, 0.0, 0.0, s_noise)
}

/// An error when one of the four settings of stochastic churn is out of range.
pub(crate) fn check_churn(churn: f64, min: f64, max: f64, noise: f64) -> Result<()> {
    let settings = [
        ("s_churn", churn, churn.is_finite()),
        ("s_tmin", min, min.is_finite()),
        ("s_tmax", max, true),
        ("s_noise", noise, noise.is_finite()),
    ];
    for (name, value, finite) in settings {
        if !finite || value.is_nan() || value < 0.0 {
            return Err(Error::invalid(
                name,
                value,
                "expected a number of at least 0",
            ));
        }
    }
    Ok(())
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

/// An error when what is `wanted` of a solver has a formula for latents `x₀ + σ·ε` alone and is to
/// run along a flow; `instead` is what would be right.
pub(crate) fn check_scale(
    train: &NoiseSchedule,
    wanted: bool,
    what: &str,
    instead: &str,
) -> Result<()> {
    if !wanted || train.shift().is_none() {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "{what} works on latents x₀ + σ·ε, and a flow's are (1 − σ)·x₀ + σ·ε; use {instead}"
    )))
}

/// An error when noise of the share `eta` is to be added to latents `x₀ + σ·ε` along a flow.
pub(crate) fn check_noise_scale(train: &NoiseSchedule, solver: &str, eta: f64) -> Result<()> {
    let what = format!("{solver} with eta above 0");
    check_scale(train, eta > 0.0, &what, "eta 0, or DPM++ 2M SDE")
}

/// An error when a solver that works on the products ᾱ of β is to run on another schedule.
pub(crate) fn check_betas(train: &NoiseSchedule, solver: &str) -> Result<()> {
    if train.alphas_cumprod().is_some() {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "{solver} goes along a table of β, which this model's schedule has not; use Euler, Heun, \
         DPM++ 2M or UniPC"
    )))
}
