//! The exponential multistep classes.

use std::sync::Arc;

use super::classes::Built;
use super::fields::{Fields, wrong};
use crate::{
    Algorithm, Clip, ConfigError, Deis, DpmSolverMultistep, DpmSolverSinglestep, Levels, SaSolver,
    SigmaSchedule, SolverType, Spacing, UniPc, UniPcVariant,
};

pub(super) fn dpm(fields: &Fields<'_>) -> Built {
    let mut levels = Levels {
        final_sigma: fields.final_sigma()?,
        ..fields.levels(Spacing::Linspace)?
    };
    if levels.sigmas == SigmaSchedule::Spaced && fields.flag("use_lu_lambdas", false)? {
        levels.sigmas = SigmaSchedule::LuLambdas;
    }
    no_flow(fields)?;
    Ok(Arc::new(DpmSolverMultistep {
        levels,
        order: fields.count("solver_order", 2)?,
        algorithm: algorithm(fields)?,
        solver_type: solver_type(fields)?,
        lower_order_final: fields.flag("lower_order_final", true)?,
        euler_at_final: fields.flag("euler_at_final", false)?,
        clip: fields.thresholding(Clip::Off)?,
        lambda_min_clipped: fields.number("lambda_min_clipped", f64::NEG_INFINITY)?,
        round_timesteps: rounds_timesteps(fields),
        brownian: fields.flag("brownian", false)?,
    }))
}

pub(super) fn solver_type(fields: &Fields<'_>) -> Result<SolverType, ConfigError> {
    let options = [
        ("midpoint", SolverType::Midpoint),
        ("heun", SolverType::Heun),
        ("logrho", SolverType::Midpoint),
        ("bh1", SolverType::Midpoint),
        ("bh2", SolverType::Midpoint),
    ];
    fields.choice("solver_type", SolverType::Midpoint, &options)
}

/// diffusers does not round the timesteps of models with the cosine schedule.
fn rounds_timesteps(fields: &Fields<'_>) -> bool {
    fields
        .get("beta_schedule")
        .is_none_or(|kind| kind != "squaredcos_cap_v2")
}

/// An error for rectified-flow models, which this library has no solvers for.
fn no_flow(fields: &Fields<'_>) -> Result<(), ConfigError> {
    let key = "use_flow_sigmas";
    if !fields.flag(key, false)? {
        return Ok(());
    }
    Err(wrong(
        key,
        fields.get(key),
        "flow matching (Stable Diffusion 3) is not supported",
    ))
}

pub(super) fn deis(fields: &Fields<'_>) -> Built {
    no_flow(fields)?;
    let default = Deis::default();
    Ok(Arc::new(Deis {
        levels: fields.levels(Spacing::Linspace)?,
        order: fields.count("solver_order", default.order)?,
        lower_order_final: fields.flag("lower_order_final", true)?,
        clip: fields.thresholding(Clip::Off)?,
    }))
}

pub(super) fn unipc(fields: &Fields<'_>) -> Built {
    no_flow(fields)?;
    let variants = [
        ("bh1", UniPcVariant::Bh1),
        ("bh2", UniPcVariant::Bh2),
        ("midpoint", UniPcVariant::Bh2),
        ("heun", UniPcVariant::Bh2),
        ("logrho", UniPcVariant::Bh2),
    ];
    let default = UniPc::default();
    Ok(Arc::new(UniPc {
        levels: Levels {
            sigma_min: fields.optional_number("sigma_min")?,
            sigma_max: fields.optional_number("sigma_max")?,
            final_sigma: fields.final_sigma()?,
            ..fields.levels(Spacing::Linspace)?
        },
        order: fields.count("solver_order", default.order)?,
        predict_x0: fields.flag("predict_x0", true)?,
        variant: fields.choice("solver_type", default.variant, &variants)?,
        lower_order_final: fields.flag("lower_order_final", true)?,
        disable_corrector: fields.counts("disable_corrector")?,
        clip: fields.thresholding(Clip::Off)?,
    }))
}

pub(super) fn algorithm(fields: &Fields<'_>) -> Result<Algorithm, ConfigError> {
    let algorithms = [
        ("dpmsolver", Algorithm::Ode),
        ("dpmsolver++", Algorithm::OdePlusPlus),
        ("sde-dpmsolver", Algorithm::Sde),
        ("sde-dpmsolver++", Algorithm::SdePlusPlus),
        // What other classes leave in a file counts as the default.
        ("deis", Algorithm::OdePlusPlus),
    ];
    fields.choice("algorithm_type", Algorithm::OdePlusPlus, &algorithms)
}

pub(super) fn dpm_singlestep(fields: &Fields<'_>) -> Built {
    no_flow(fields)?;
    let default = DpmSolverSinglestep::default();
    Ok(Arc::new(DpmSolverSinglestep {
        // The class knows neither spacing nor offset.
        levels: Levels {
            spacing: Spacing::Linspace,
            steps_offset: 0,
            final_sigma: fields.final_sigma()?,
            ..fields.levels(Spacing::Linspace)?
        },
        order: fields.count("solver_order", default.order)?,
        algorithm: algorithm(fields)?,
        solver_type: solver_type(fields)?,
        lower_order_final: fields.flag("lower_order_final", default.lower_order_final)?,
        clip: fields.thresholding(Clip::Off)?,
        lambda_min_clipped: fields.number("lambda_min_clipped", f64::NEG_INFINITY)?,
    }))
}

pub(super) fn sa_solver(fields: &Fields<'_>) -> Built {
    no_flow(fields)?;
    let default = SaSolver::default();
    let algorithms = [
        ("data_prediction", true),
        ("noise_prediction", false),
        // What other classes leave in a file counts as the default.
        ("dpmsolver++", true),
        ("sde-dpmsolver++", true),
    ];
    Ok(Arc::new(SaSolver {
        levels: fields.levels(Spacing::Linspace)?,
        predictor_order: fields.count("predictor_order", default.predictor_order)?,
        corrector_order: fields.count("corrector_order", default.corrector_order)?,
        predict_x0: fields.choice("algorithm_type", true, &algorithms)?,
        tau: fields.number("tau", default.tau)?,
        tau_range: [
            fields.number("tau_from", default.tau_range[0])?,
            fields.number("tau_to", default.tau_range[1])?,
        ],
        lower_order_final: fields.flag("lower_order_final", true)?,
        clip: fields.thresholding(Clip::Off)?,
        lambda_min_clipped: fields.number("lambda_min_clipped", f64::NEG_INFINITY)?,
        simple_second_order: fields.flag("simple_second_order", true)?,
        tau_at_end: fields.flag("tau_at_end", false)?,
        pece: fields.flag("pece", false)?,
    }))
}
