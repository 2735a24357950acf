//! Costs of each part of a pipeline, on every backend and in every precision that is compiled
//! in; and the harness that measures it, for components of your own:
//!
//! ```no_run
//! use sd_benches::{Harness, places};
//! # use sd_pipeline::{Denoiser, Device, FloatDType, Result};
//! # fn bench<D: Denoiser + 'static>(my_unet: impl Fn(&Device, FloatDType) -> Result<D>) {
//!
//! let mut harness = Harness::from_arguments();
//! for place in places(&harness) {
//!     harness.denoiser(&place, "mine", || my_unet(place.device(), place.dtype()));
//! }
//! harness.finish().unwrap();
//! # }
//! ```
//!
//! Put that into a bench target with `harness = false`; `cargo bench -- flex` then selects, as all
//! of criterion's arguments do, by names such as `flex/f32/mine/U-Net step`.
//! `benches/own_component.rs` is such a program.
//!
//! Every measurement ends with the device having done the work: backends that compute lazily are
//! waited for inside the measured time.

mod components;
mod full_size;
mod harness;
mod place;
mod table;

pub use full_size::{full_size_folder, write_stable_diffusion};
pub use harness::Harness;
pub use place::{Place, places};
