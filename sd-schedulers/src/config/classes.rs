//! diffusers' scheduler classes: which keys each reads, and its defaults.

use std::sync::Arc;

use sd_core::Scheduler;

use super::fields::{DefaultBetas, Fields, wrong};
use crate::{
    Algorithm, ConfigError, Ddim, DpmSolverMultistep, Euler, EulerAncestral, Interpolation, Levels,
    Pndm, SigmaSchedule, SolverType, Spacing, TimestepType,
};

type Built = Result<Arc<dyn Scheduler>, ConfigError>;

/// A scheduler class.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) name: &'static str,
    pub(crate) betas: DefaultBetas,
    pub(crate) build: fn(&Fields<'_>) -> Built,
}

const DDPM_BETAS: DefaultBetas = DefaultBetas {
    start: 0.0001,
    end: 0.02,
    kind: "linear",
};

static CLASSES: &[Class] = &[
    entry("DDIMScheduler", DDPM_BETAS, ddim),
    entry("PNDMScheduler", DDPM_BETAS, pndm),
    entry("EulerDiscreteScheduler", DDPM_BETAS, euler),
    entry(
        "EulerAncestralDiscreteScheduler",
        DDPM_BETAS,
        euler_ancestral,
    ),
    entry("DPMSolverMultistepScheduler", DDPM_BETAS, dpm_multistep),
];

const fn entry(name: &'static str, betas: DefaultBetas, build: fn(&Fields<'_>) -> Built) -> Class {
    Class { name, betas, build }
}

/// The names of all classes.
pub(crate) fn class_names() -> impl Iterator<Item = &'static str> {
    CLASSES.iter().map(|class| class.name)
}

/// The class of that name.
pub(crate) fn class(name: &str) -> Result<&'static Class, ConfigError> {
    let found = CLASSES.iter().find(|class| class.name == name);
    found.ok_or_else(|| ConfigError::UnknownClass {
        class: crate::error::shortened(name),
        known: class_names().collect(),
    })
}

fn ddim(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(Ddim {
        spacing: fields.spacing(Spacing::Leading)?,
        steps_offset: fields.count("steps_offset", 0)?,
        set_alpha_to_one: fields.flag("set_alpha_to_one", true)?,
        clip: fields.clip(true)?,
        eta: fields.number("eta", 0.0)?,
        use_clipped_model_output: fields.flag("use_clipped_model_output", false)?,
    }))
}

fn pndm(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(Pndm {
        spacing: fields.spacing(Spacing::Leading)?,
        steps_offset: fields.count("steps_offset", 0)?,
        set_alpha_to_one: fields.flag("set_alpha_to_one", false)?,
        skip_prk_steps: fields.flag("skip_prk_steps", false)?,
    }))
}

fn euler(fields: &Fields<'_>) -> Built {
    let default = Euler::default();
    let interpolation = [
        ("linear", Interpolation::Linear),
        ("log_linear", Interpolation::LogLinear),
    ];
    let timestep_type = [
        ("discrete", TimestepType::Discrete),
        ("continuous", TimestepType::Continuous),
    ];
    // diffusers heeds continuous timesteps for v-prediction only.
    let continuous = fields.prediction_type()? == sd_core::PredictionType::VPrediction;
    let timestep_type = fields.choice("timestep_type", TimestepType::Discrete, &timestep_type)?;
    Ok(Arc::new(Euler {
        levels: Levels {
            sigma_min: fields.optional_number("sigma_min")?,
            sigma_max: fields.optional_number("sigma_max")?,
            final_sigma: fields.final_sigma()?,
            ..fields.levels(Spacing::Linspace)?
        },
        interpolation: fields.choice(
            "interpolation_type",
            Interpolation::Linear,
            &interpolation,
        )?,
        timestep_type: if continuous {
            timestep_type
        } else {
            TimestepType::Discrete
        },
        s_churn: fields.number("s_churn", default.s_churn)?,
        s_tmin: fields.number("s_tmin", default.s_tmin)?,
        s_tmax: fields.number("s_tmax", default.s_tmax)?,
        s_noise: fields.number("s_noise", default.s_noise)?,
    }))
}

fn euler_ancestral(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(EulerAncestral {
        levels: fields.spaced_levels(Spacing::Linspace)?,
        eta: fields.number("eta", 1.0)?,
        s_noise: fields.number("s_noise", 1.0)?,
    }))
}

fn dpm_multistep(fields: &Fields<'_>) -> Built {
    let mut levels = Levels {
        final_sigma: fields.final_sigma()?,
        ..fields.levels(Spacing::Linspace)?
    };
    if levels.sigmas == SigmaSchedule::Spaced && fields.flag("use_lu_lambdas", false)? {
        levels.sigmas = SigmaSchedule::LuLambdas;
    }
    let algorithms = [
        ("dpmsolver", Algorithm::Ode),
        ("dpmsolver++", Algorithm::OdePlusPlus),
        ("sde-dpmsolver", Algorithm::Sde),
        ("sde-dpmsolver++", Algorithm::SdePlusPlus),
        // What other classes leave in a file counts as the default.
        ("deis", Algorithm::OdePlusPlus),
    ];
    no_flow(fields)?;
    Ok(Arc::new(DpmSolverMultistep {
        levels,
        order: fields.count("solver_order", 2)?,
        algorithm: fields.choice("algorithm_type", Algorithm::OdePlusPlus, &algorithms)?,
        solver_type: solver_type(fields)?,
        lower_order_final: fields.flag("lower_order_final", true)?,
        euler_at_final: fields.flag("euler_at_final", false)?,
        clip: fields.thresholding(crate::Clip::Off)?,
        lambda_min_clipped: fields.number("lambda_min_clipped", f64::NEG_INFINITY)?,
        round_timesteps: rounds_timesteps(fields),
    }))
}

fn solver_type(fields: &Fields<'_>) -> Result<SolverType, ConfigError> {
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
