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
//! # Orders of convergence
//!
//! Measured on normally distributed data, whose solution is known, from σ = 8 to 0.08 in equal steps
//! of ln σ, or on the levels of the solver's own. First steps of lower order limit the order of a
//! whole run, which is why a third-order multistep method shows the second; PNDM's is second by its
//! authors' theorem, whatever the order of the formula it takes its weights from.
//!
#![doc = include_str!("../ORDERS.md")]

mod brownian;
mod cfg_pp;
mod clip;
mod config;
mod convention;
mod ddim;
mod ddpm;
mod deis;
mod deis_tab;
mod dpm_adaptive;
mod dpm_fast;
mod dpm_k;
mod dpm_multistep;
mod dpm_sde;
mod dpm_singlestep;
mod dpm_update;
mod dpmpp_2m_v2;
mod dpmpp_2s_ancestral;
mod dpmpp_3m_sde;
mod edm;
mod er_sde;
mod error;
mod euler;
mod euler_ancestral;
mod gradient_estimation;
mod heun;
mod heunpp2;
mod history;
mod ipndm;
mod kdpm2;
mod lcm;
mod lcm_sigmas;
mod levels;
mod lms;
mod multistep;
mod names;
mod pndm;
mod res_multistep;
mod restart;
mod sa_solver;
mod seeds;
mod sigmas;
mod spacing;
mod table;
mod tcd;
mod unipc;
mod walk;

pub use cfg_pp::{Dpmpp2mCfgPp, EulerCfgPp};
pub use clip::Clip;
pub use config::SchedulerConfig;
pub use convention::Convention;
pub use ddim::Ddim;
pub use ddpm::{Ddpm, Variance};
pub use deis::Deis;
pub use deis_tab::DeisTab;
pub use dpm_adaptive::DpmAdaptive;
pub use dpm_fast::DpmFast;
pub use dpm_multistep::DpmSolverMultistep;
pub use dpm_sde::DpmSolverSde;
pub use dpm_singlestep::DpmSolverSinglestep;
pub use dpm_update::{Algorithm, SolverType};
pub use dpmpp_2m_v2::Dpmpp2mV2;
pub use dpmpp_2s_ancestral::Dpmpp2sAncestral;
pub use dpmpp_3m_sde::Dpmpp3mSde;
pub use edm::{EdmDpmSolverMultistep, EdmEuler, EdmLevels};
pub use er_sde::{ErSde, NoiseScale};
pub use error::{ConfigError, NameError};
pub use euler::{Euler, Interpolation, TimestepType};
pub use euler_ancestral::EulerAncestral;
pub use gradient_estimation::GradientEstimation;
pub use heun::Heun;
pub use heunpp2::HeunPp2;
pub use ipndm::{Ipndm, IpndmCosine, IpndmWeights};
pub use kdpm2::Kdpm2;
pub use lcm::Lcm;
pub use lcm_sigmas::LcmSigmas;
pub use levels::Levels;
pub use lms::Lms;
pub use names::{SchedulerName, names, names_markdown, variants};
pub use pndm::Pndm;
pub use res_multistep::ResMultistep;
pub use restart::Restart;
pub use sa_solver::SaSolver;
pub use seeds::Seeds;
pub use sigmas::{AlignedModel, FinalSigma, SigmaSchedule};
pub use spacing::Spacing;
pub use tcd::Tcd;
pub use unipc::{UniPc, UniPcVariant};
