//! What one process has measured the next one finds, in the folder that the program names, and
//! one on another machine in the file that it is given.

use std::path::Path;
use std::process::Command;

use sd_pipeline::burn::cubecl::bundle::{self, EnvironmentInfo, ExportOptions, SqliteBundle};
use sd_pipeline::burn::cubecl::environment;
use sd_pipeline::burn::tensor::{Distribution, Tensor};
use sd_pipeline::devices::{
    KernelCacheErrorKind, KernelChoicesErrorKind, export_kernel_choices, import_kernel_choices,
    kernel_cache,
};
use sd_pipeline::{Device, device};
use tempfile::{NamedTempFile, tempdir};

/// Names the folder to the processes that this program starts of itself.
const FOLDER: &str = "SD_KERNEL_CACHE_TEST_FOLDER";

/// Names them the file that they take choices over from, or write where it is not there yet.
const CHOICES: &str = "SD_KERNEL_CACHE_TEST_CHOICES";

/// A GPU, or a software adapter that serves as one.
fn gpu() -> Option<Device> {
    let names = ["cuda", "rocm", "metal", "vulkan", "wgpu", "wgpu:cpu"];
    names.iter().find_map(|name| device(name).ok())
}

/// What is kept in the folder.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    /// The kernels chosen.
    choices: u64,
    /// What is known of the device's speed.
    speeds: u64,
    /// How often kernels were measured to choose one: the diary that CubeCL keeps.
    tunings: u64,
}

fn kept() -> Kept {
    let namespaces = environment::namespaces();
    let entries = |start: &str| {
        let kept = namespaces.iter().filter(|n| n.namespace.starts_with(start));
        kept.map(|n| n.entries).sum()
    };
    Kept {
        choices: entries("autotune/"),
        speeds: entries("throughput/"),
        tunings: entries("records/v1/autotune"),
    }
}

/// Not a test: what the other processes do. A product, whose kernel has to be chosen; printed is
/// what was kept before and what is after.
#[test]
fn process() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    kernel_cache(&folder).unwrap();
    kernel_cache(&folder).expect("the same folder again");
    let Some(device) = gpu() else {
        println!("\nno GPU");
        return;
    };
    let other = tempdir().unwrap();
    let error = kernel_cache(other.path()).unwrap_err();
    let KernelCacheErrorKind::TooLate { in_use } = error.kind else {
        panic!("{error}");
    };
    assert_eq!(in_use, Path::new(&folder));

    let choices = std::env::var(CHOICES).ok();
    let (there, absent): (Vec<_>, Vec<_>) =
        choices.iter().partition(|file| Path::new(file).exists());
    for file in &absent {
        let error = export_kernel_choices(&device, file).unwrap_err();
        let KernelChoicesErrorKind::NothingChosen { folder: of } = error.kind else {
            panic!("{error}");
        };
        assert_eq!(of, Path::new(&folder));
    }
    for file in there {
        let error = import_kernel_choices(&device, std::env::current_exe().unwrap()).unwrap_err();
        let KernelChoicesErrorKind::File(_) = error.kind else {
            panic!("{error}");
        };
        // All are new, then none.
        assert!(import_kernel_choices(&device, file).unwrap() > 1);
        assert_eq!(import_kernel_choices(&device, file).unwrap(), 0);
    }
    println!("\n{:?}", kept());
    let [a, b] = [0, 1].map(|_| Tensor::<2>::random([96, 80], Distribution::Default, &device));
    a.matmul(b.transpose()).try_into_data().unwrap();
    println!("\n{:?}", kept());
    for file in absent {
        let entries = export_kernel_choices(&device, file).unwrap();
        assert_eq!(entries as u64, kept().choices + kept().speeds);
        another_gpus_choices_are_refused(&device, Path::new(file));
    }
}

/// The choices in `file`, under another GPU's name, are taken for no other.
fn another_gpus_choices_are_refused(device: &Device, file: &Path) {
    let folder = tempdir().unwrap();
    let foreign = folder.path().join("foreign");
    let options = ExportOptions {
        environments: vec![EnvironmentInfo {
            devices: vec!["another GPU".into()],
            ..EnvironmentInfo::default()
        }],
        ..ExportOptions::default()
    };
    bundle::export(&[file], &foreign, &options).unwrap();
    let error = import_kernel_choices(device, &foreign).unwrap_err();
    let KernelChoicesErrorKind::Foreign { of, here } = error.kind else {
        panic!("{error}");
    };
    assert_eq!(of, "another GPU");
    let found = SqliteBundle::open(file).unwrap();
    assert_eq!(found.manifest().environments[0].devices, [here]);
}

/// What is kept when another process begins, and when it ends; `None` without a GPU.
fn in_another_process(folder: &Path, choices: Option<&Path>) -> Option<[Kept; 2]> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "process", "--nocapture"]);
    command.env(FOLDER, folder);
    command.env("CUBECL_ENVIRONMENT_RECORDS", "basic");
    if let Some(file) = choices {
        command.env(CHOICES, file);
    }
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}{said}");
    if printed.contains("no GPU") {
        return None;
    }
    let lines = printed.lines().filter(|line| line.starts_with("Kept"));
    let kept: Vec<Kept> = lines.map(read).collect();
    Some(kept.try_into().expect("one before, one after"))
}

/// The numbers of what [`process`] prints.
fn read(line: &str) -> Kept {
    let numbers = line.split(|c: char| !c.is_ascii_digit());
    let mut numbers = numbers.filter_map(|number| number.parse().ok());
    let mut next = || numbers.next().expect("three numbers");
    Kept {
        choices: next(),
        speeds: next(),
        tunings: next(),
    }
}

#[test]
fn a_second_process_measures_nothing_again() {
    let folder = tempdir().unwrap();
    let choices = folder.path().join("choices");
    let Some([before, found_out]) = in_another_process(folder.path(), Some(&choices)) else {
        println!("SKIPPED: no GPU and no software adapter");
        return;
    };
    let nothing = Kept {
        choices: 0,
        speeds: 0,
        tunings: 0,
    };
    assert_eq!(before, nothing);
    assert_eq!([found_out.choices, found_out.tunings], [1, 1]);
    assert!(found_out.speeds > 0);
    let [found, after] = in_another_process(folder.path(), None).unwrap();
    assert_eq!(found, found_out);
    assert_eq!(after, found_out);

    // In another folder it begins anew: it was this one that made the difference.
    let other = tempdir().unwrap();
    let [before, after] = in_another_process(other.path(), None).unwrap();
    assert_eq!(before, nothing);
    assert_eq!(after.tunings, 1);

    // As another machine does, but for the choices that it is given.
    let seeded = tempdir().unwrap();
    let [before, after] = in_another_process(seeded.path(), Some(&choices)).unwrap();
    assert_eq!([before.choices, before.speeds], [1, found_out.speeds]);
    assert_eq!(before.tunings, 0);
    assert_eq!(after, before);
}

#[test]
fn choices_that_cannot_be_are_an_error() {
    let flex = device("flex").unwrap();
    let file = NamedTempFile::new().unwrap();
    for error in [
        export_kernel_choices(&flex, file.path()).unwrap_err(),
        import_kernel_choices(&flex, file.path()).unwrap_err(),
    ] {
        let says = error.to_string();
        assert!(says.contains(&file.path().display().to_string()), "{says}");
        let KernelChoicesErrorKind::NothingToChoose = error.kind else {
            panic!("{error}");
        };
    }
}

#[test]
fn a_folder_that_cannot_be_is_an_error() {
    let (file, folder) = (NamedTempFile::new().unwrap(), tempdir().unwrap());
    let mut wrong = vec![file.path().to_path_buf(), file.path().join("below")];
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let not_utf8 = std::ffi::OsStr::from_bytes(b"caf\xe9");
        wrong.push(folder.path().join(not_utf8));
    }
    for folder in wrong {
        let error = kernel_cache(&folder).unwrap_err();
        let says = error.to_string();
        assert!(says.contains(&folder.display().to_string()), "{says}");
        let KernelCacheErrorKind::Folder(_) = error.kind else {
            panic!("{error}");
        };
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}
