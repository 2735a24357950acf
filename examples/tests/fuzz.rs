//! No reader of files falls for a damaged or forged one: 2,000 of each, as the example `fuzz` makes
//! them, in a process of their own, which must not end before its time either.

use std::process::Command;

#[test]
fn no_reader_falls_for_a_forged_file() {
    // Cargo builds the examples before it runs a package's tests.
    let test = std::env::current_exe().unwrap();
    let examples = test.ancestors().nth(2).unwrap().join("examples");
    let program = examples.join(format!("fuzz{}", std::env::consts::EXE_SUFFIX));
    assert!(program.is_file(), "{program:?}: run all of `cargo test`");
    let output = Command::new(program).args(["--cases", "2000"]).output();
    let output = output.unwrap();
    let [said, complained] = [output.stdout, output.stderr];
    let said = [said, complained].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{}: {said:?}", output.status);
    println!("{}", said[0]);
}
