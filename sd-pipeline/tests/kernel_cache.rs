//! What one process has measured the next one finds, in the folder that the program names.

use std::path::Path;
use std::process::Command;

use sd_pipeline::burn::cubecl::environment::{self, NamespaceSummary};
use sd_pipeline::burn::tensor::{Distribution, Tensor};
use sd_pipeline::{Device, Error, KernelCacheError, device, kernel_cache};

/// Names the folder to the processes that this program starts of itself.
const FOLDER: &str = "SD_KERNEL_CACHE_TEST_FOLDER";

/// A GPU, or a software adapter that serves as one.
fn gpu() -> Option<Device> {
    let names = ["cuda", "rocm", "metal", "vulkan", "wgpu", "wgpu:cpu"];
    names.iter().find_map(|name| device(name).ok())
}

/// How many choices of kernels are kept in the folder.
fn kept() -> u64 {
    let namespaces = environment::namespaces();
    let tuned = |kept: &&NamespaceSummary| kept.namespace.starts_with("autotune/");
    namespaces.iter().filter(tuned).map(|n| n.entries).sum()
}

/// Not a test: what the other processes do. A product, whose kernel has to be chosen; printed are
/// the choices known before and after.
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
    let other = Path::new(&folder).join("other");
    let error = kernel_cache(&other).unwrap_err();
    let Error::KernelCache {
        source: KernelCacheError::TooLate { in_use },
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(in_use, Path::new(&folder));

    let before = kept();
    let [a, b] = [0, 1].map(|_| Tensor::<2>::random([96, 80], Distribution::Default, &device));
    a.matmul(b.transpose()).try_into_data().unwrap();
    println!("\nkept {before} {}", kept());
}

fn in_another_process(folder: &Path) -> Option<[u64; 2]> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process", "--nocapture"])
        .env(FOLDER, folder)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}{said}");
    if printed.contains("no GPU") {
        return None;
    }
    let kept = printed.lines().find_map(|line| line.strip_prefix("kept "));
    let kept = kept.and_then(|numbers| numbers.split_once(' '));
    let (before, after) = kept.expect("it says what is kept");
    Some([before, after].map(|number| number.parse().unwrap()))
}

#[test]
fn a_second_process_measures_nothing_again() {
    let folder = tempfile::tempdir().unwrap();
    let Some([before, found_out]) = in_another_process(folder.path()) else {
        println!("SKIPPED: no GPU and no software adapter");
        return;
    };
    assert_eq!(before, 0);
    assert!(found_out > 0);
    let second = in_another_process(folder.path()).unwrap();
    assert_eq!(second, [found_out; 2]);
}

#[test]
fn a_folder_that_cannot_be_is_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for folder in [file.path(), &file.path().join("below")] {
        let error = kernel_cache(folder).unwrap_err();
        let says = error.to_string();
        assert!(says.contains(&folder.display().to_string()), "{says}");
        let Error::KernelCache {
            source: KernelCacheError::Folder(_),
            ..
        } = error
        else {
            panic!("{error}");
        };
    }
}
