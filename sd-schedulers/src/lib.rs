//! Diffusion solvers, the noise levels they visit, and the names they go by.
//!
//! Every solver is a struct of settings that implements [`sd_core::Scheduler`]; its defaults are
//! those of the diffusers class of the same name. [`SchedulerConfig`] reads diffusers'
//! `scheduler_config.json`, and [`SchedulerName`] understands what users call them:
//!
//! ```
//! use sd_schedulers::{SchedulerConfig, SchedulerName};
//!
//! let file = r#"{"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear",
//!                "beta_start": 0.00085, "beta_end": 0.012, "skip_prk_steps": true}"#;
//! let config = SchedulerConfig::from_json(file)?;
//! let name: SchedulerName = "dpmpp_2m karras".parse()?;
//! assert_eq!(name.to_string(), "DPM++ 2M Karras");
//! let scheduler = config.named(&name)?;
//! let plan = scheduler.plan(&config.noise_schedule()?, 20)?;
//! assert_eq!(plan.stages.len(), 20);
//! # Ok::<(), sd_schedulers::ConfigError>(())
//! ```
//!
//! # Models of a flow
//!
//! A solver is not told what kind of model it works for: the levels of its plan come from the
//! model's [`NoiseSchedule`](sd_core::NoiseSchedule). Along a flow (Stable Diffusion 3, Flux) the
//! equation `dx/dσ = (x − x₀)/σ` is the same as in k-diffusion's scale, so that solvers of it need
//! nothing else, and DPM-Solver's kin work on α and σ whatever they are. What is made for latents
//! `x₀ + σ·ε` or for a table of β (ancestral noise, churn, restarts, CFG++; DDIM, DDPM, PNDM, LCM,
//! TCD) refuses a flow, and says which setting or solver would be right. [`SchedulerConfig`] reads
//! `FlowMatchEulerDiscreteScheduler`, `FlowMatchHeunDiscreteScheduler` and the `use_flow_sigmas` of
//! the multistep classes.
//!
//! # Orders of convergence
//!
//! Measured on normally distributed data, whose solution is known, from σ = 8 to 0.08 in equal steps
//! of ln σ, or on the levels of the solver's own. First steps of lower order limit the order of a
//! whole run, which is why a third-order multistep method shows the second; PNDM's is second by its
//! authors' theorem, whatever the order of the formula it takes its weights from.
//!
#![doc = include_str!("../ORDERS.md")]

mod config;
mod error;
mod levels;
mod names;
mod solver;
mod solvers;

pub use config::SchedulerConfig;
pub use error::{ConfigError, NameError};
pub use levels::{
    AlignedModel, Conventions, FinalSigma, Levels, PictureShare, SigmaSchedule, Spacing,
};
pub use names::{SchedulerName, names, names_markdown, variants};
pub use solver::{Algorithm, SolverType, Thresholding};
pub use solvers::*;
