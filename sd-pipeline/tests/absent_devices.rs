//! What a program is told that asks for a device which is not there: which cargo feature, which
//! driver, or which other name.

use std::process::Command;

use sd_pipeline::devices;

/// Each backend, the cargo feature that compiles it in, and what its absence says is needed.
/// flex, ndarray, cpu and tch need no more than the machine on which they were built.
const BACKENDS: [(&str, &str, Option<&str>); 11] = [
    ("flex", "flex", None),
    ("ndarray", "ndarray", None),
    (
        "wgpu",
        "wgpu",
        Some(
            "a graphics driver: Vulkan (on Debian mesa-vulkan-drivers or the vendor's), Metal, \
             Direct3D 12 or OpenGL ES 3.1",
        ),
    ),
    (
        "vulkan",
        "wgpu",
        Some("a Vulkan driver (on Debian mesa-vulkan-drivers or the vendor's)"),
    ),
    ("metal", "wgpu", Some("macOS on a computer with Metal")),
    (
        "webgpu",
        "wgpu",
        Some("a browser with WebGPU; outside of one `wgpu` is what you want"),
    ),
    (
        "cuda",
        "cuda",
        Some("an NVIDIA GPU with its driver (libcuda) and CUDA's run-time compiler (libnvrtc)"),
    ),
    ("rocm", "rocm", Some("an AMD GPU with ROCm (libamdhip64)")),
    ("cpu", "cpu", None),
    ("tch", "tch", None),
    (
        "remote:ws://127.0.0.1:1",
        "remote",
        Some("a Burn server that answers at the address"),
    ),
];

/// The words of the error for a device which is not there; no panic gets here.
fn told(name: &str) -> Result<(), String> {
    match devices::open(name) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn each_absent_backend_says_what_it_takes() {
    for (name, feature, needs) in BACKENDS {
        let backend = name.split(':').next().unwrap_or(name);
        let compiled = devices::names().contains(&backend);
        let Err(found) = told(name) else {
            println!("{name} is here");
            continue;
        };
        println!("{found}");
        let expected = match (compiled, needs) {
            (false, _) => format!(
                "device '{name}': not compiled in; build with the cargo feature `{feature}`"
            ),
            (true, Some(needs)) => format!("needed is {needs}"),
            (true, None) => panic!("{found}"),
        };
        let software = format!(
            "device '{name}': this machine has no GPU, only a software adapter; `{name}:cpu` asks \
             for that"
        );
        assert!(found.ends_with(&expected) || found == software, "{found}");
    }
}

/// Of a process of its own that finds no driver: drivers are looked for once.
#[test]
fn without_a_driver_wgpu_says_that_one_is_needed() {
    if !devices::names().contains(&"vulkan") {
        return println!("SKIPPED: wgpu is not compiled in");
    }
    let child = "SD_TEST_WITHOUT_DRIVERS";
    if std::env::var_os(child).is_some() {
        for name in ["vulkan", "vulkan:cpu", "vulkan:3"] {
            let expected = format!(
                "device '{name}': this machine has no such device; needed is a Vulkan driver (on \
                 Debian mesa-vulkan-drivers or the vendor's)"
            );
            assert_eq!(told(name), Err(expected));
        }
        return assert_eq!(told("auto"), Ok(()));
    }
    let test = "without_a_driver_wgpu_says_that_one_is_needed";
    let run = Command::new(std::env::current_exe().expect("this test's program"))
        .args(["--exact", test, "--nocapture"])
        .env(child, "1")
        .env("VK_DRIVER_FILES", "/nowhere.json")
        .env("VK_ICD_FILENAMES", "/nowhere.json")
        .output()
        .expect("it starts");
    let printed = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{printed}");
}
