//! Devices by name, and all that this process knows of those it has opened.
//!
//! [`open`] takes a name such as `cuda:1` and opens each device once; [`names`] lists the backends
//! of this program. The modules `wgpu` and `remote`, with the cargo features of these names, take
//! more than a name says: an application's own wgpu handles, a server's token and time limits.
//!
//! ```
//! use sd_pipeline::devices;
//!
//! # fn main() -> Result<(), devices::DeviceError> {
//! assert!(devices::names().contains(&"flex"));
//! let device = devices::open("flex")?;
//! assert_eq!(devices::largest_buffer(&device), None);
//! # Ok(())
//! # }
//! ```

mod backends;
mod capabilities;
mod error;
mod kernel_cache;
mod kernel_choices;
mod open;
mod probe;
mod registry;
#[cfg(feature = "remote")]
#[cfg_attr(docsrs, doc(cfg(feature = "remote")))]
pub mod remote;
mod selector;
#[cfg(feature = "remote")]
mod serve;
#[cfg(feature = "wgpu")]
#[cfg_attr(docsrs, doc(cfg(feature = "wgpu")))]
pub mod wgpu;

pub use capabilities::largest_buffer;
pub(crate) use capabilities::{check_precision, compiles_kernels};
pub use error::{DeviceError, DeviceErrorKind};
pub use kernel_cache::{KernelCacheError, KernelCacheErrorKind, kernel_cache};
pub use kernel_choices::{
    KernelChoicesError, KernelChoicesErrorKind, export_kernel_choices, import_kernel_choices,
};
pub use open::{name_of, names, open};
pub(crate) use probe::{clean_up, pool, wait};
#[cfg(feature = "remote")]
#[cfg_attr(docsrs, doc(cfg(feature = "remote")))]
pub use serve::{ServeError, serve};
