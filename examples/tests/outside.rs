//! The package `outside`, a workspace of its own, builds against the library as it is and passes
//! its tests: what the library promises to programs holds with public items alone.

use std::path::Path;
use std::process::Command;

#[test]
fn a_package_outside_the_workspace_builds_and_passes_its_tests() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = here.join("outside");
    // The versions and the folder of this build, so that nothing below the library is compiled
    // again: what cargo has downloaded and built for this test is all it needs.
    let lock = std::fs::read(here.join("../Cargo.lock")).unwrap();
    std::fs::write(package.join("Cargo.lock"), lock).unwrap();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let profile = if cfg!(debug_assertions) {
        "dev"
    } else {
        "release"
    };

    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["test", "--offline", "--profile", profile])
        .arg("--manifest-path")
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .output()
        .unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    println!("{err}{out}");
    assert!(output.status.success());
    assert!(out.contains("test result: ok"), "no test was run");
}
