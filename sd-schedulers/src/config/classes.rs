//! diffusers' scheduler classes: which keys each reads, and its defaults.

use std::sync::Arc;

use sd_core::Scheduler;

use super::fields::{DefaultBetas, Fields};
use super::{k, multistep};
use crate::{
    ConfigError, Ddim, Ddpm, Euler, EulerAncestral, Heun, Interpolation, Kdpm2, Lcm, Levels, Lms,
    Pndm, Spacing, Tcd, TimestepType, Variance,
};

pub(super) type Built = Result<Arc<dyn Scheduler>, ConfigError>;

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

/// Stable Diffusion's ends, but not its curve: what k-diffusion's classes have in diffusers.
const SD_LINEAR: DefaultBetas = DefaultBetas {
    start: 0.00085,
    end: 0.012,
    kind: "linear",
};

const SD_BETAS: DefaultBetas = DefaultBetas {
    kind: "scaled_linear",
    ..SD_LINEAR
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
    entry("HeunDiscreteScheduler", SD_LINEAR, heun),
    entry("KDPM2DiscreteScheduler", SD_LINEAR, kdpm2),
    entry(
        "KDPM2AncestralDiscreteScheduler",
        SD_LINEAR,
        kdpm2_ancestral,
    ),
    entry("LMSDiscreteScheduler", DDPM_BETAS, lms),
    entry("DPMSolverMultistepScheduler", DDPM_BETAS, multistep::dpm),
    entry("DEISMultistepScheduler", DDPM_BETAS, multistep::deis),
    entry("UniPCMultistepScheduler", DDPM_BETAS, multistep::unipc),
    entry(
        "DPMSolverSinglestepScheduler",
        DDPM_BETAS,
        multistep::dpm_singlestep,
    ),
    entry("SASolverScheduler", DDPM_BETAS, multistep::sa_solver),
    entry("DPMSolverSDEScheduler", SD_LINEAR, k::dpm_sde),
    entry("EDMEulerScheduler", SD_BETAS, k::edm_euler),
    entry("EDMDPMSolverMultistepScheduler", SD_BETAS, k::edm_dpm),
    entry("IPNDMScheduler", SD_BETAS, k::ipndm_cosine),
    // What diffusers has not, by this library's own names.
    entry("Ipndm", SD_BETAS, k::ipndm),
    entry("Dpmpp2sAncestral", SD_BETAS, k::dpmpp_2s_ancestral),
    entry("Dpmpp3mSde", SD_BETAS, k::dpmpp_3m_sde),
    entry("DpmFast", SD_BETAS, k::dpm_fast),
    entry("DpmAdaptive", SD_BETAS, k::dpm_adaptive),
    entry("HeunPp2", SD_BETAS, k::heunpp2),
    entry("ResMultistep", SD_BETAS, k::res_multistep),
    entry("ErSde", SD_BETAS, k::er_sde),
    entry("GradientEstimation", SD_BETAS, k::gradient_estimation),
    entry("EulerCfgPp", SD_BETAS, k::euler_cfg_pp),
    entry("DeisTab", SD_BETAS, k::deis_tab),
    entry("Dpmpp2mV2", SD_BETAS, k::dpmpp_2m_v2),
    entry("LcmSigmas", SD_BETAS, k::lcm_sigmas),
    entry("Seeds", SD_BETAS, k::seeds),
    entry("Restart", SD_BETAS, k::restart),
    entry("Dpmpp2mCfgPp", SD_BETAS, k::dpmpp_2m_cfg_pp),
    entry("DDPMScheduler", DDPM_BETAS, ddpm),
    entry("LCMScheduler", SD_BETAS, lcm),
    entry("TCDScheduler", SD_BETAS, tcd),
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
        ends_at_last_timestep: fields.flag("ends_at_last_timestep", false)?,
        cfg_pp: fields.flag("cfg_pp", false)?,
    }))
}

fn pndm(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(Pndm {
        spacing: fields.spacing(Spacing::Leading)?,
        steps_offset: fields.count("steps_offset", 0)?,
        set_alpha_to_one: fields.flag("set_alpha_to_one", false)?,
        skip_prk_steps: fields.flag("skip_prk_steps", false)?,
        ends_at_last_timestep: fields.flag("ends_at_last_timestep", false)?,
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

fn heun(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(Heun {
        levels: fields.levels(Spacing::Linspace)?,
        clip: fields.clamp(false)?,
    }))
}

fn kdpm2(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(Kdpm2 {
        levels: fields.levels(Spacing::Linspace)?,
        s_noise: fields.number("s_noise", 1.0)?,
        ..Kdpm2::default()
    }))
}

fn kdpm2_ancestral(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(Kdpm2 {
        levels: fields.levels(Spacing::Linspace)?,
        eta: fields.number("eta", 1.0)?,
        s_noise: fields.number("s_noise", 1.0)?,
    }))
}

fn lms(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(Lms {
        levels: fields.levels(Spacing::Linspace)?,
        order: fields.count("order", 4)?,
        lower_order_start: fields.flag("lower_order_start", false)?,
        euler_at_final: fields.flag("euler_at_final", false)?,
    }))
}

fn ddpm(fields: &Fields<'_>) -> Built {
    let variances = [
        ("fixed_small", Variance::FixedSmall),
        ("fixed_small_log", Variance::FixedSmall),
        ("fixed_large", Variance::FixedLarge),
        ("learned", Variance::Learned),
        ("learned_range", Variance::LearnedRange),
    ];
    Ok(Arc::new(Ddpm {
        spacing: fields.spacing(Spacing::Leading)?,
        steps_offset: fields.count("steps_offset", 0)?,
        clip: fields.clip(true)?,
        variance: fields.choice("variance_type", Variance::FixedSmall, &variances)?,
        timesteps: fields.own_timesteps()?,
    }))
}

fn lcm(fields: &Fields<'_>) -> Built {
    let default = Lcm::default();
    Ok(Arc::new(Lcm {
        original_steps: fields.count("original_inference_steps", default.original_steps)?,
        timestep_scaling: fields.number("timestep_scaling", default.timestep_scaling)?,
        clip: fields.clip(false)?,
        strength: fields.number("strength", default.strength)?,
        timesteps: fields.own_timesteps()?,
    }))
}

fn tcd(fields: &Fields<'_>) -> Built {
    let default = Tcd::default();
    Ok(Arc::new(Tcd {
        original_steps: fields.count("original_inference_steps", default.original_steps)?,
        eta: fields.number("eta", default.eta)?,
        strength: fields.number("strength", default.strength)?,
        timesteps: fields.own_timesteps()?,
    }))
}
