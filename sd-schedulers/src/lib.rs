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

mod clip;
mod config;
mod ddim;
mod ddpm;
mod deis;
mod dpm_multistep;
mod dpm_update;
mod error;
mod euler;
mod euler_ancestral;
mod heun;
mod history;
mod kdpm2;
mod lcm;
mod levels;
mod lms;
mod multistep;
mod names;
mod pndm;
mod sigmas;
mod spacing;
mod table;
mod tcd;
mod unipc;
mod walk;

pub use clip::Clip;
pub use config::SchedulerConfig;
pub use ddim::Ddim;
pub use ddpm::{Ddpm, Variance};
pub use deis::Deis;
pub use dpm_multistep::DpmSolverMultistep;
pub use dpm_update::{Algorithm, SolverType};
pub use error::{ConfigError, NameError};
pub use euler::{Euler, Interpolation, TimestepType};
pub use euler_ancestral::EulerAncestral;
pub use heun::Heun;
pub use kdpm2::Kdpm2;
pub use lcm::Lcm;
pub use levels::Levels;
pub use lms::Lms;
pub use names::{SchedulerName, names};
pub use pndm::Pndm;
pub use sigmas::{FinalSigma, SigmaSchedule};
pub use spacing::Spacing;
pub use tcd::Tcd;
pub use unipc::{UniPc, UniPcVariant};
