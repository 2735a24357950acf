//! The folder in which GPU backends keep what they compile and measure.

use std::path::{Path, PathBuf};

/// A folder in which compiled kernels and measurements cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("kernel cache in {}: {kind}", folder.display())]
#[non_exhaustive]
pub struct KernelCacheError {
    /// The folder asked for.
    pub folder: PathBuf,
    /// The obstacle, and what would help.
    #[source]
    pub kind: KernelCacheErrorKind,
}

/// Obstacles to a [`kernel_cache`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelCacheErrorKind {
    /// A program from which it was left out.
    #[error("not compiled in; build with the cargo feature `kernel-cache`")]
    NotCompiled,
    /// A GPU backend that has begun already, with another folder.
    #[error("a GPU backend keeps it in {} already; name the folder before opening a device", in_use.display())]
    TooLate {
        /// The folder in use.
        in_use: PathBuf,
    },
    /// A folder that cannot be made or written, or whose path is not UTF-8.
    #[error("{0}")]
    Folder(std::io::Error),
}

/// Keeps in `folder`, for this and later processes, what GPU backends find out when they first
/// see a work: which kernel is fastest for it (autotune), how fast the device is, and, on cuda and
/// rocm and as SPIR-V (the cargo feature `vulkan`), the compiled kernels. Others are compiled anew,
/// or kept by the graphics driver.
///
/// Call it before the first device is opened; calling it again with the same folder changes
/// nothing. [`Pipeline::warm_up`] in one process then serves the next. Several processes may share
/// a folder, and several versions of Burn: each reads its own. Machines may not: a choice is kept
/// under the backend and the device's number, as `cuda:0`, whatever GPU that is. Delete the folder
/// when the GPU is another; it may be deleted whenever no process uses it. One that becomes
/// unwritable later costs the measuring anew, not an error. [`export_kernel_choices`] takes the
/// choices to other machines with the same GPU.
///
/// Other settings of CubeCL, from `cubecl.toml` and environment variables, stay in force.
///
/// [`Pipeline::warm_up`]: crate::Pipeline::warm_up
/// [`export_kernel_choices`]: super::export_kernel_choices
///
/// # Errors
/// [`KernelCacheError`]: without the cargo feature `kernel-cache`, when a GPU backend has begun
/// already, when the folder cannot be made or written or its path is not UTF-8.
pub fn kernel_cache(folder: impl AsRef<Path>) -> Result<(), KernelCacheError> {
    let folder = folder.as_ref();
    keep_in(folder).map_err(|kind| KernelCacheError {
        folder: folder.into(),
        kind,
    })
}

#[cfg(not(feature = "kernel-cache"))]
fn keep_in(_: &Path) -> Result<(), KernelCacheErrorKind> {
    Err(KernelCacheErrorKind::NotCompiled)
}

#[cfg(feature = "kernel-cache")]
fn keep_in(folder: &Path) -> Result<(), KernelCacheErrorKind> {
    use KernelCacheErrorKind::Folder;
    use burn::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig, cache::CacheConfig};
    use burn::cubecl::environment;

    // The program may change its current folder before the first device is opened.
    let folder = std::path::absolute(folder).map_err(Folder)?;
    if folder.to_str().is_none() {
        // CubeCL would open no database there, and say so only in the log.
        let kind = std::io::ErrorKind::InvalidFilename;
        return Err(Folder(std::io::Error::new(kind, "its path is not UTF-8")));
    }
    std::fs::create_dir_all(&folder).map_err(Folder)?;
    tempfile::tempfile_in(&folder).map_err(Folder)?;
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    config.compilation.cache = true;
    config.environment.path = CacheConfig::Directory(folder.clone());
    // It can be set only until somebody reads it, which a GPU backend does when it begins.
    if CubeClRuntimeConfig::try_set(config) || environment::root() == folder {
        return Ok(());
    }
    let in_use = environment::root();
    Err(KernelCacheErrorKind::TooLate { in_use })
}

#[cfg(all(test, not(feature = "kernel-cache")))]
mod tests {
    use super::*;

    #[test]
    fn without_its_feature_it_says_which() {
        let error = kernel_cache("anywhere").unwrap_err().to_string();
        assert!(error.contains("anywhere"), "{error}");
        assert!(error.contains("cargo feature `kernel-cache`"), "{error}");
    }
}
