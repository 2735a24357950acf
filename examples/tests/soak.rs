//! A pipeline that serves for long takes no more memory, and draws what it drew: a short form of
//! the example `soak`, in a process of its own.

use std::process::Command;

#[test]
fn a_pipeline_serves_for_long() {
    // Cargo builds the examples before it runs a package's tests.
    let test = std::env::current_exe().unwrap();
    let examples = test.ancestors().nth(2).unwrap().join("examples");
    let program = examples.join(format!("soak{}", std::env::consts::EXE_SUFFIX));
    assert!(program.is_file(), "{program:?}: run all of `cargo test`");
    let output = Command::new(program)
        .args(["--generations", "150", "--warm", "75"])
        .output();
    let output = output.unwrap();
    let [said, complained] = [output.stdout, output.stderr];
    let said = [said, complained].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{}: {said:?}", output.status);
    println!("{}", said[0]);
}
