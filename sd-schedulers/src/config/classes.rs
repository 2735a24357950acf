//! The table of classes: diffusers' and this library's own.

use std::sync::Arc;

use sd_core::Scheduler;

use super::fields::wrong;
use super::{DefaultBetas, Fields, Training};
use crate::ConfigError;
use crate::solvers::*;

/// A scheduler built from a configuration.
pub(crate) type Built = Result<Arc<dyn Scheduler>, ConfigError>;

/// A scheduler class.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) name: &'static str,
    pub(crate) training: Training,
    pub(crate) build: fn(&Fields<'_>) -> Built,
}

const DDPM_BETAS: Training = Training::Betas(DefaultBetas {
    start: 0.0001,
    end: 0.02,
    kind: "linear",
});

/// Stable Diffusion's ends, but not its curve: what k-diffusion's classes have in diffusers.
const SD_LINEAR: Training = Training::Betas(DefaultBetas {
    start: 0.00085,
    end: 0.012,
    kind: "linear",
});

const SD_BETAS: Training = Training::Betas(DefaultBetas {
    start: 0.00085,
    end: 0.012,
    kind: "scaled_linear",
});

const FLOW: Training = Training::Flow { shift: "shift" };

#[rustfmt::skip]
static CLASSES: &[Class] = &[
    class("DDIMScheduler", DDPM_BETAS, Ddim::from_config),
    class("PNDMScheduler", DDPM_BETAS, Pndm::from_config),
    class("EulerDiscreteScheduler", DDPM_BETAS, Euler::from_config),
    class("EulerAncestralDiscreteScheduler", DDPM_BETAS, EulerAncestral::from_config),
    class("HeunDiscreteScheduler", SD_LINEAR, Heun::from_config),
    class("KDPM2DiscreteScheduler", SD_LINEAR, Kdpm2::from_config),
    class("KDPM2AncestralDiscreteScheduler", SD_LINEAR, Kdpm2::ancestral_from_config),
    class("LMSDiscreteScheduler", DDPM_BETAS, Lms::from_config),
    class("DPMSolverMultistepScheduler", DDPM_BETAS, DpmSolverMultistep::from_config),
    class("DEISMultistepScheduler", DDPM_BETAS, Deis::from_config),
    class("UniPCMultistepScheduler", DDPM_BETAS, UniPc::from_config),
    class("DPMSolverSinglestepScheduler", DDPM_BETAS, DpmSolverSinglestep::from_config),
    class("SASolverScheduler", DDPM_BETAS, SaSolver::from_config),
    class("DPMSolverSDEScheduler", SD_LINEAR, DpmSolverSde::from_config),
    class("EDMEulerScheduler", Training::Edm, Euler::edm_from_config),
    class("EDMDPMSolverMultistepScheduler", Training::Edm, DpmSolverMultistep::edm_from_config),
    class("FlowMatchEulerDiscreteScheduler", FLOW, flow_match_euler),
    class("FlowMatchHeunDiscreteScheduler", FLOW, Heun::from_config),
    class("IPNDMScheduler", SD_BETAS, IpndmCosine::from_config),
    class("DDPMScheduler", DDPM_BETAS, Ddpm::from_config),
    class("LCMScheduler", SD_BETAS, Lcm::from_config),
    class("TCDScheduler", SD_BETAS, Tcd::from_config),
    // What diffusers has not, by this library's own names.
    class("Ipndm", SD_BETAS, Ipndm::from_config),
    class("Dpmpp2sAncestral", SD_BETAS, Dpmpp2sAncestral::from_config),
    class("Dpmpp3mSde", SD_BETAS, Dpmpp3mSde::from_config),
    class("DpmFast", SD_BETAS, DpmFast::from_config),
    class("DpmAdaptive", SD_BETAS, DpmAdaptive::from_config),
    class("HeunPp2", SD_BETAS, HeunPp2::from_config),
    class("ResMultistep", SD_BETAS, ResMultistep::from_config),
    class("ErSde", SD_BETAS, ErSde::from_config),
    class("GradientEstimation", SD_BETAS, GradientEstimation::from_config),
    class("EulerCfgPp", SD_BETAS, EulerCfgPp::from_config),
    class("DeisTab", SD_BETAS, DeisTab::from_config),
    class("Dpmpp2mV2", SD_BETAS, Dpmpp2mV2::from_config),
    class("LcmSigmas", SD_BETAS, LcmSigmas::from_config),
    class("Seeds", SD_BETAS, Seeds::from_config),
    class("Restart", SD_BETAS, Restart::from_config),
    class("Dpmpp2mCfgPp", SD_BETAS, Dpmpp2mCfgPp::from_config),
];

/// diffusers' class for flows, whose stochastic sampling is another solver.
fn flow_match_euler(fields: &Fields<'_>) -> Built {
    if fields.flag("invert_sigmas", false)? {
        let expected = "expected false: a flow's σ are those of its noise";
        return Err(wrong(
            "invert_sigmas",
            fields.get("invert_sigmas"),
            expected,
        ));
    }
    match fields.flag("stochastic_sampling", false)? {
        true => LcmSigmas::from_config(fields),
        false => Euler::from_config(fields),
    }
}

/// The row of a class.
const fn class(name: &'static str, training: Training, build: fn(&Fields<'_>) -> Built) -> Class {
    Class {
        name,
        training,
        build,
    }
}

impl Class {
    /// The class of that name.
    pub(super) fn named(name: &str) -> Result<&'static Self, ConfigError> {
        let found = CLASSES.iter().find(|class| class.name == name);
        found.ok_or_else(|| ConfigError::UnknownClass {
            class: crate::error::shortened(name),
            known: CLASSES.iter().map(|class| class.name).collect(),
        })
    }
}
