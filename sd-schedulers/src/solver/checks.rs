//! Errors for settings out of range, where several solvers have the setting.

use sd_core::{Error, Result};

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
