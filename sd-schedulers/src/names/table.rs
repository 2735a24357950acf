//! The table of names. Each row is a solver or a sigma schedule with the configuration keys that
//! tell it from its class's defaults, and what each program calls it.

/// A value of a configuration key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Opt {
    Flag(bool),
    Text(&'static str),
    Count(u32),
}

/// Configuration keys and their values.
pub(crate) type Options = &'static [(&'static str, Opt)];

/// A solver's name.
#[derive(Debug)]
pub(crate) struct SolverRow {
    /// The name it is printed with, A1111's where there is one.
    pub(crate) name: &'static str,
    /// The class it is.
    pub(crate) class: &'static str,
    /// What tells it from the class's defaults.
    pub(crate) options: Options,
    /// Other names.
    pub(crate) aliases: &'static [&'static str],
}

/// A sigma schedule's name.
#[derive(Debug)]
pub(crate) struct ScheduleRow {
    /// The name it is printed with behind the solver's.
    pub(crate) name: &'static str,
    /// The keys that ask for it.
    pub(crate) options: Options,
    /// Other names.
    pub(crate) aliases: &'static [&'static str],
}

use Opt::{Count, Flag, Text};

pub(crate) static SOLVERS: &[SolverRow] = &[
    SolverRow {
        name: "DDIM",
        class: "DDIMScheduler",
        options: &[],
        aliases: &["ddim"],
    },
    SolverRow {
        name: "PNDM",
        class: "PNDMScheduler",
        options: &[],
        aliases: &["pndm"],
    },
    SolverRow {
        name: "PLMS",
        class: "PNDMScheduler",
        options: &[("skip_prk_steps", Flag(true))],
        aliases: &["plms"],
    },
    SolverRow {
        name: "Euler",
        class: "EulerDiscreteScheduler",
        options: &[],
        aliases: &["euler", "EulerDiscrete"],
    },
    SolverRow {
        name: "Euler a",
        class: "EulerAncestralDiscreteScheduler",
        options: &[],
        aliases: &["euler_a", "euler_ancestral", "EulerAncestralDiscrete"],
    },
    SolverRow {
        name: "DPM++ 2M",
        class: "DPMSolverMultistepScheduler",
        options: &[],
        aliases: &["dpmpp_2m", "dpm++2m", "DPMSolverMultistep"],
    },
    SolverRow {
        name: "DPM++ 2M SDE",
        class: "DPMSolverMultistepScheduler",
        options: &[("algorithm_type", Text("sde-dpmsolver++"))],
        aliases: &["dpmpp_2m_sde", "dpmpp_2m_sde_gpu"],
    },
    SolverRow {
        name: "DPM++ 3M",
        class: "DPMSolverMultistepScheduler",
        options: &[("solver_order", Count(3))],
        aliases: &["dpmpp_3m"],
    },
];

pub(crate) static SCHEDULES: &[ScheduleRow] = &[
    ScheduleRow {
        name: "Karras",
        options: &[
            ("use_karras_sigmas", Flag(true)),
            ("use_exponential_sigmas", Flag(false)),
            ("use_beta_sigmas", Flag(false)),
            ("sigmas", Text("karras")),
        ],
        aliases: &["karras"],
    },
    ScheduleRow {
        name: "Exponential",
        options: &[
            ("use_karras_sigmas", Flag(false)),
            ("use_exponential_sigmas", Flag(true)),
            ("use_beta_sigmas", Flag(false)),
            ("sigmas", Text("exponential")),
        ],
        aliases: &["exponential"],
    },
    ScheduleRow {
        name: "Beta",
        options: &[
            ("use_karras_sigmas", Flag(false)),
            ("use_exponential_sigmas", Flag(false)),
            ("use_beta_sigmas", Flag(true)),
            ("sigmas", Text("beta")),
        ],
        aliases: &["beta"],
    },
];

/// The canonical names of all solvers.
pub fn names() -> Vec<&'static str> {
    SOLVERS.iter().map(|row| row.name).collect()
}
