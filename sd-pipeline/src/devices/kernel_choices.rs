//! What autotune chose on a GPU, as a file for other machines with the same one.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use sd_core::BoxError;

/// A file of kernel choices that cannot be written or used.
#[derive(Debug, thiserror::Error)]
#[error("kernel choices in {}: {kind}", file.display())]
#[non_exhaustive]
pub struct KernelChoicesError {
    /// The file asked for.
    pub file: PathBuf,
    /// The obstacle, and what would help.
    #[source]
    pub kind: KernelChoicesErrorKind,
}

/// Obstacles to [`export_kernel_choices`] and [`import_kernel_choices`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelChoicesErrorKind {
    /// A program from which it was left out.
    #[error("not compiled in; build with the cargo features `kernel-cache` and of a GPU's backend")]
    NotCompiled,
    /// A device whose backend has one kernel for each work.
    #[error("the device's backend measures no kernels")]
    NothingToChoose,
    /// A folder in use in which nothing is kept yet.
    #[error("{} holds no choices; draw first, with the cargo feature `autotune`", folder.display())]
    NothingChosen {
        /// The folder in use.
        folder: PathBuf,
    },
    /// A folder in use in which more than one device's choices are: they are not told apart by
    /// the GPU's model.
    #[error("{} holds choices for {}; give each a folder of its own", folder.display(), devices.join(" and "))]
    SeveralDevices {
        /// The folder in use.
        folder: PathBuf,
        /// The devices, as CubeCL numbers them.
        devices: Vec<String>,
    },
    /// Choices of another GPU or another version of Burn.
    #[error("they are of {of}, and this is {here}")]
    Foreign {
        /// The GPU and version they were made with.
        of: String,
        /// Those of this program.
        here: String,
    },
    /// A file that cannot be read or written, or is none of these.
    #[error("{0}")]
    File(BoxError),
}

/// Writes to `file` which kernels autotune chose on `device` and how fast the device is, from the
/// folder of [`kernel_cache`](fn@super::kernel_cache), and returns how many entries. Compiled kernels
/// are not in it. A file that [`export_kernel_choices`] wrote before is replaced.
///
/// # Errors
/// [`KernelChoicesError`]: without the cargo feature `kernel-cache`, when there is nothing to
/// write or the folder served other devices too, when the file cannot be written.
pub fn export_kernel_choices(
    device: &Device,
    file: impl AsRef<Path>,
) -> Result<usize, KernelChoicesError> {
    let file = file.as_ref();
    kept::export(device, file).map_err(|kind| KernelChoicesError {
        file: file.into(),
        kind,
    })
}

/// Takes over from `file` what autotune chose on another machine's `device`, and returns how many
/// entries were new here. What has been chosen here stays, and what is chosen here later counts
/// before what is taken over.
///
/// Call it after [`kernel_cache`](fn@super::kernel_cache), when `device` is open and nothing has been
/// drawn on it. A choice is of use for the device of the same number in its backend, as
/// `cuda:0`. The same GPU and the same version of Burn are asked for, because a kernel that was
/// chosen elsewhere is launched untried.
///
/// # Errors
/// [`KernelChoicesError`]: without the cargo feature `kernel-cache`, when the choices are of
/// another GPU or another version of Burn, when the file cannot be read or the folder not written.
pub fn import_kernel_choices(
    device: &Device,
    file: impl AsRef<Path>,
) -> Result<usize, KernelChoicesError> {
    let file = file.as_ref();
    kept::import(device, file).map_err(|kind| KernelChoicesError {
        file: file.into(),
        kind,
    })
}

#[cfg(all(
    feature = "kernel-cache",
    any(feature = "wgpu", feature = "cuda", feature = "rocm", feature = "cpu")
))]
mod kept {
    use std::collections::BTreeSet;

    use burn::cubecl::bundle::{self, EnvironmentInfo, ExportOptions, SqliteBundle};
    use burn::cubecl::environment::{self, Namespace};

    use super::{Device, KernelChoicesErrorKind, Path};
    use KernelChoicesErrorKind::{File, Foreign, NothingChosen, NothingToChoose, SeveralDevices};

    /// Where this version of CubeCL keeps what `kind` says.
    fn namespace(kind: &str) -> String {
        Namespace::scoped(kind, "")
            .as_str()
            .trim_end_matches('/')
            .into()
    }

    /// The GPU and the version that choices hold for: CubeCL looks them up by the version and the
    /// device's number alone.
    fn origin(device: &Device) -> Result<String, KernelChoicesErrorKind> {
        let gpu = device.identity().ok_or(NothingToChoose)?;
        let by = namespace("CubeCL").replace('/', " ");
        Ok(format!("{} ({}), {by}", gpu.name, gpu.fingerprint))
    }

    pub(super) fn export(device: &Device, file: &Path) -> Result<usize, KernelChoicesErrorKind> {
        let origin = origin(device)?;
        let kinds = ["autotune", "throughput"].map(namespace);
        let is_of = |kind: &str, name: &str| {
            let rest = name.strip_prefix(kind);
            rest.and_then(|rest| rest.strip_prefix('/'))
                .map(str::to_owned)
        };
        let kept = environment::namespaces();
        let chosen = kept.iter().filter_map(|n| is_of(&kinds[0], &n.namespace));
        let devices = chosen.map(|name| name.split('/').next().unwrap_or_default().to_owned());
        let names: BTreeSet<String> = devices.collect();
        // What is measured for a precision has it behind the device's name.
        let is_more = |name: &str, of: &String| {
            let rest = name.strip_prefix(of.as_str());
            rest.is_some_and(|rest| rest.starts_with('-'))
        };
        let is_device = |name: &&String| !names.iter().any(|of| is_more(name, of));
        let devices: Vec<String> = names.iter().filter(is_device).cloned().collect();
        let folder = environment::root();
        match devices.len() {
            0 => return Err(NothingChosen { folder }),
            1 => {}
            _ => return Err(SeveralDevices { folder, devices }),
        }
        let of_kinds = kept
            .iter()
            .filter(|n| kinds.iter().any(|kind| is_of(kind, &n.namespace).is_some()));
        let entries: u64 = of_kinds.map(|n| n.entries).sum();
        let options = ExportOptions {
            name: origin.clone(),
            environments: vec![EnvironmentInfo {
                devices: vec![origin],
                ..EnvironmentInfo::default()
            }],
            namespaces: kinds.into(),
            ..ExportOptions::default()
        };
        bundle::export(&[environment::path()], file, &options).map_err(|e| File(e.into()))?;
        Ok(entries as usize)
    }

    pub(super) fn import(device: &Device, file: &Path) -> Result<usize, KernelChoicesErrorKind> {
        let here = origin(device)?;
        let found = SqliteBundle::open(file).map_err(|e| File(e.into()))?;
        let environments = found.manifest().environments.iter();
        let of: Vec<&str> = environments
            .flat_map(|e| e.devices.iter().map(String::as_str))
            .collect();
        if of != [here.as_str()] {
            let of = of.join(" and ");
            return Err(Foreign { of, here });
        }
        let report = bundle::import(&found);
        if report.failed > 0 {
            let folder = environment::root();
            let error = format!(
                "{} entries cannot be written to {}",
                report.failed,
                folder.display()
            );
            return Err(File(error.into()));
        }
        Ok(report.imported)
    }
}

#[cfg(not(all(
    feature = "kernel-cache",
    any(feature = "wgpu", feature = "cuda", feature = "rocm", feature = "cpu")
)))]
mod kept {
    use super::{Device, KernelChoicesErrorKind, Path};

    pub(super) fn export(_: &Device, _: &Path) -> Result<usize, KernelChoicesErrorKind> {
        Err(KernelChoicesErrorKind::NotCompiled)
    }

    pub(super) fn import(_: &Device, _: &Path) -> Result<usize, KernelChoicesErrorKind> {
        Err(KernelChoicesErrorKind::NotCompiled)
    }
}

#[cfg(all(test, not(feature = "kernel-cache")))]
mod tests {
    use super::*;

    #[test]
    fn without_its_feature_it_says_which() {
        let device = crate::device("flex").unwrap();
        for error in [
            export_kernel_choices(&device, "anywhere").unwrap_err(),
            import_kernel_choices(&device, "anywhere").unwrap_err(),
        ] {
            let says = error.to_string();
            assert!(says.contains("anywhere"), "{says}");
            assert!(says.contains("cargo features `kernel-cache`"), "{says}");
        }
    }
}
