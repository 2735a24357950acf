//! The classes of k-diffusion's solvers that diffusers has in another form or not at all.

use std::sync::Arc;

use super::classes::Built;
use super::fields::Fields;
use crate::{
    Clip, ConfigError, DeisTab, DpmAdaptive, DpmFast, DpmSolverMultistep, DpmSolverSde,
    Dpmpp2mCfgPp, Dpmpp2mV2, Dpmpp2sAncestral, Dpmpp3mSde, EdmDpmSolverMultistep, EdmEuler,
    EdmLevels, ErSde, EulerCfgPp, GradientEstimation, HeunPp2, Ipndm, IpndmCosine, IpndmWeights,
    LcmSigmas, Levels, NoiseScale, ResMultistep, Restart, Seeds, SigmaSchedule, Spacing,
};

fn levels(fields: &Fields<'_>) -> Result<Levels, ConfigError> {
    Ok(Levels {
        sigma_min: fields.optional_number("sigma_min")?,
        sigma_max: fields.optional_number("sigma_max")?,
        final_sigma: fields.final_sigma()?,
        ..fields.levels(Spacing::Linspace)?
    })
}

pub(super) fn dpm_sde(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(DpmSolverSde {
        levels: fields.levels(Spacing::Linspace)?,
        eta: fields.number("eta", 1.0)?,
        s_noise: fields.number("s_noise", 1.0)?,
    }))
}

fn edm_levels(fields: &Fields<'_>) -> Result<EdmLevels, ConfigError> {
    let default = EdmLevels::default();
    let rho = fields.number("rho", 7.0)?;
    let schedules = [
        ("karras", SigmaSchedule::Karras { rho }),
        ("exponential", SigmaSchedule::Exponential),
    ];
    Ok(EdmLevels {
        sigma_min: fields.number("sigma_min", default.sigma_min)?,
        sigma_max: fields.number("sigma_max", default.sigma_max)?,
        sigma_data: fields.number("sigma_data", default.sigma_data)?,
        sigmas: fields.choice("sigma_schedule", SigmaSchedule::Karras { rho }, &schedules)?,
        final_sigma: fields.final_sigma()?,
    })
}

pub(super) fn edm_euler(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(EdmEuler {
        levels: edm_levels(fields)?,
        s_churn: fields.number("s_churn", 0.0)?,
        s_noise: fields.number("s_noise", 1.0)?,
    }))
}

pub(super) fn edm_dpm(fields: &Fields<'_>) -> Built {
    let default = DpmSolverMultistep::default();
    Ok(Arc::new(EdmDpmSolverMultistep {
        levels: edm_levels(fields)?,
        solver: DpmSolverMultistep {
            order: fields.count("solver_order", default.order)?,
            algorithm: super::multistep::algorithm(fields)?,
            solver_type: super::multistep::solver_type(fields)?,
            lower_order_final: fields.flag("lower_order_final", true)?,
            euler_at_final: fields.flag("euler_at_final", false)?,
            clip: fields.thresholding(Clip::Off)?,
            ..default
        },
    }))
}

pub(super) fn ipndm_cosine(_fields: &Fields<'_>) -> Built {
    Ok(Arc::new(IpndmCosine {}))
}

pub(super) fn ipndm(fields: &Fields<'_>) -> Built {
    let weights = [
        ("even", IpndmWeights::Even),
        ("second_uneven", IpndmWeights::SecondUneven),
        ("uneven", IpndmWeights::Uneven),
    ];
    Ok(Arc::new(Ipndm {
        levels: levels(fields)?,
        order: fields.count("order", 4)?,
        weights: fields.choice("weights", IpndmWeights::Even, &weights)?,
        euler_at_final: fields.flag("euler_at_final", false)?,
    }))
}

pub(super) fn dpmpp_2s_ancestral(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(Dpmpp2sAncestral {
        levels: levels(fields)?,
        eta: fields.number("eta", 1.0)?,
        s_noise: fields.number("s_noise", 1.0)?,
        cfg_pp: fields.flag("cfg_pp", false)?,
    }))
}

pub(super) fn dpmpp_3m_sde(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(Dpmpp3mSde {
        levels: levels(fields)?,
        eta: fields.number("eta", 1.0)?,
        s_noise: fields.number("s_noise", 1.0)?,
    }))
}

pub(super) fn dpm_fast(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(DpmFast {
        convention: fields.convention()?,
    }))
}

pub(super) fn dpm_adaptive(fields: &Fields<'_>) -> Built {
    let default = DpmAdaptive::default();
    Ok(Arc::new(DpmAdaptive {
        rtol: fields.number("rtol", default.rtol)?,
        atol: fields.number("atol", default.atol)?,
        convention: fields.convention()?,
        ..default
    }))
}

pub(super) fn heunpp2(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(HeunPp2 {
        levels: levels(fields)?,
    }))
}

pub(super) fn res_multistep(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(ResMultistep {
        levels: levels(fields)?,
        eta: fields.number("eta", 0.0)?,
        s_noise: fields.number("s_noise", 1.0)?,
        cfg_pp: fields.flag("cfg_pp", false)?,
    }))
}

pub(super) fn er_sde(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(ErSde {
        levels: levels(fields)?,
        order: fields.count("order", 3)?,
        s_noise: fields.number("s_noise", 1.0)?,
        noise_scale: noise_scale(fields)?,
    }))
}

fn noise_scale(fields: &Fields<'_>) -> Result<NoiseScale, ConfigError> {
    let reverse = NoiseScale::ReverseTime {
        eta: fields.number("eta", 1.0)?,
    };
    let scales = [
        ("er_sde", NoiseScale::ErSde),
        ("reverse_time", reverse),
        ("ode", NoiseScale::Ode),
    ];
    fields.choice("noise_scale", NoiseScale::ErSde, &scales)
}

pub(super) fn gradient_estimation(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(GradientEstimation {
        levels: levels(fields)?,
        gamma: fields.number("gamma", 2.0)?,
        cfg_pp: fields.flag("cfg_pp", false)?,
    }))
}

pub(super) fn euler_cfg_pp(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(EulerCfgPp {
        levels: levels(fields)?,
        eta: fields.number("eta", 0.0)?,
        s_noise: fields.number("s_noise", 1.0)?,
    }))
}

pub(super) fn dpmpp_2m_v2(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(Dpmpp2mV2 {
        levels: levels(fields)?,
    }))
}

pub(super) fn deis_tab(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(DeisTab {
        levels: levels(fields)?,
        order: fields.count("order", 3)?,
    }))
}

pub(super) fn lcm_sigmas(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(LcmSigmas {
        levels: levels(fields)?,
        distilled: fields.flag("distilled", false)?,
        s_noise: fields.number("s_noise", 1.0)?,
    }))
}

pub(super) fn seeds(fields: &Fields<'_>) -> Built {
    let default = Seeds::default();
    Ok(Arc::new(Seeds {
        levels: levels(fields)?,
        stages: fields.count("stages", default.stages)?,
        ratio: fields.number("ratio", default.ratio)?,
        exact: fields.flag("exact", default.exact)?,
        eta: fields.number("eta", default.eta)?,
        s_noise: fields.number("s_noise", default.s_noise)?,
    }))
}

pub(super) fn restart(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(Restart {
        levels: levels(fields)?,
        s_noise: fields.number("s_noise", 1.0)?,
    }))
}

pub(super) fn dpmpp_2m_cfg_pp(fields: &Fields<'_>) -> Built {
    Ok(Arc::new(Dpmpp2mCfgPp {
        levels: levels(fields)?,
    }))
}
