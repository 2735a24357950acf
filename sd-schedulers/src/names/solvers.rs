//! The solvers' own names: a diffusers class or one of this library's, and what tells it from the
//! class's defaults.

use super::table::ConfigValue::{Count, Flag, Text};
use super::table::{Options, SolverRow};

/// A solver that can run on any σ.
const fn any(name: &'static str, class: &'static str, options: Options) -> SolverRow {
    SolverRow {
        name,
        class,
        options,
        takes_sigmas: true,
    }
}

/// A solver whose levels are its own.
const fn own(name: &'static str, class: &'static str, options: Options) -> SolverRow {
    SolverRow {
        name,
        class,
        options,
        takes_sigmas: false,
    }
}

#[rustfmt::skip]
pub(crate) static SOLVERS: &[SolverRow] = &[
    own("DDIM", "DDIMScheduler", &[]),
    own("DDIM Trailing", "DDIMScheduler", &[("timestep_spacing", Text("trailing"))]),
    own("DDIM CFG++", "DDIMScheduler", &[("cfg_pp", Flag(true))]),
    own("DDPM", "DDPMScheduler", &[]),
    own("PNDM", "PNDMScheduler", &[]),
    own("PLMS", "PNDMScheduler", &[("skip_prk_steps", Flag(true))]),
    any("Euler", "EulerDiscreteScheduler", &[]),
    any("Euler a", "EulerAncestralDiscreteScheduler", &[]),
    any("Euler CFG++", "EulerCfgPp", &[]),
    any("Euler a CFG++", "EulerCfgPp", &[("eta", Count(1))]),
    any("Heun", "HeunDiscreteScheduler", &[]),
    any("Heun++ 2", "HeunPp2", &[]),
    any("Restart", "Restart", &[]),
    any("LMS", "LMSDiscreteScheduler", &[]),
    any("DPM2", "KDPM2DiscreteScheduler", &[]),
    any("DPM2 a", "KDPM2AncestralDiscreteScheduler", &[]),
    own("DPM fast", "DpmFast", &[]),
    own("DPM adaptive", "DpmAdaptive", &[]),
    any("DPM++ 2M", "DPMSolverMultistepScheduler", &[]),
    any("DPM++ 2M SDE", "DPMSolverMultistepScheduler",
        &[("algorithm_type", Text("sde-dpmsolver++"))]),
    any("DPM++ 2M SDE Heun", "DPMSolverMultistepScheduler",
        &[("algorithm_type", Text("sde-dpmsolver++")), ("solver_type", Text("heun"))]),
    any("DPM++ 2M CFG++", "Dpmpp2mCfgPp", &[]),
    any("DPM++ 2M v2", "Dpmpp2mV2", &[]),
    any("DPM++ 3M", "DPMSolverMultistepScheduler", &[("solver_order", Count(3))]),
    any("DPM++ 3M SDE", "Dpmpp3mSde", &[]),
    any("DPM++ 2S", "DPMSolverSinglestepScheduler", &[]),
    any("DPM++ 2S a", "Dpmpp2sAncestral", &[]),
    any("DPM++ 2S a CFG++", "Dpmpp2sAncestral", &[("cfg_pp", Flag(true))]),
    any("DPM++ SDE", "DPMSolverSDEScheduler", &[]),
    any("DPM-Solver 2M", "DPMSolverMultistepScheduler",
        &[("algorithm_type", Text("dpmsolver")), ("final_sigmas_type", Text("sigma_min"))]),
    any("DEIS", "DEISMultistepScheduler", &[]),
    any("DEIS tab", "DeisTab", &[]),
    any("UniPC", "UniPCMultistepScheduler", &[]),
    any("UniPC bh1", "UniPCMultistepScheduler", &[("solver_type", Text("bh1"))]),
    any("SA-Solver", "SASolverScheduler", &[]),
    any("SA-Solver PECE", "SASolverScheduler", &[("pece", Flag(true))]),
    own("LCM", "LCMScheduler", &[]),
    any("LCM Sigmas", "LcmSigmas", &[]),
    own("TCD", "TCDScheduler", &[]),
    any("IPNDM", "Ipndm", &[]),
    any("IPNDM v", "Ipndm", &[("weights", Text("uneven"))]),
    any("Res Multistep", "ResMultistep", &[]),
    any("Res Multistep a", "ResMultistep", &[("eta", Count(1))]),
    any("Res Multistep CFG++", "ResMultistep", &[("cfg_pp", Flag(true))]),
    any("Res Multistep a CFG++", "ResMultistep", &[("eta", Count(1)), ("cfg_pp", Flag(true))]),
    any("RES 2S", "Seeds", &[("exact", Flag(true)), ("eta", Count(0))]),
    any("SEEDS 2", "Seeds", &[]),
    any("SEEDS 3", "Seeds", &[("stages", Count(3))]),
    any("Exp Heun 2 x0", "Seeds", &[("ratio", Count(1)), ("exact", Flag(true)), ("eta", Count(0))]),
    any("Exp Heun 2 x0 SDE", "Seeds", &[("ratio", Count(1)), ("exact", Flag(true))]),
    any("ER-SDE", "ErSde", &[]),
    any("Gradient Estimation", "GradientEstimation", &[]),
    any("Gradient Estimation CFG++", "GradientEstimation", &[("cfg_pp", Flag(true))]),
    own("EDM Euler", "EDMEulerScheduler", &[]),
    own("EDM DPM++ 2M", "EDMDPMSolverMultistepScheduler", &[]),
    own("IPNDM Cosine", "IPNDMScheduler", &[]),
];
