//! The parts that solvers share: the run along a plan, memory, noise, checks of settings, and
//! formulas that are more than one solver's.

mod adams_bashforth;
mod ancestral;
mod branches;
mod brownian;
mod checks;
mod consistency;
mod dpm_k;
mod dpm_update;
mod heun;
mod history;
mod planned;
mod thresholding;
pub(crate) mod unbounded;

pub(crate) use adams_bashforth::adams_bashforth;
pub(crate) use ancestral::ancestral;
pub(crate) use branches::both;
pub(crate) use brownian::Brownian;
pub(crate) use checks::{
    check_ancestral, check_betas, check_churn, check_final, check_noise_scale, check_order,
    check_scale, check_share, check_up_to_ten,
};
pub(crate) use consistency::bounded;
pub(crate) use dpm_k::Steps;
pub use dpm_update::{Algorithm, SolverType};
pub(crate) use dpm_update::{DpmUpdate, NO_STEP, solver_output};
pub(crate) use heun::heun_step;
pub(crate) use history::History;
pub(crate) use planned::{PlannedSampler, Position, Solver, Update};
pub use thresholding::Thresholding;
