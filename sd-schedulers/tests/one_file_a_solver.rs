//! A solver's file has need of no other solver's: what two of them share is in `solver/` or
//! `levels/`.

use std::fs;
use std::path::Path;

#[test]
fn no_solver_imports_another() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/solvers");
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("mod.rs") {
            continue;
        }
        files += 1;
        let text = fs::read_to_string(&path).unwrap();
        let code = text.lines().filter(|line| !line.trim().starts_with("//"));
        for line in code.filter(|line| line.contains("crate::") || line.contains("super::")) {
            let shared = ["config", "levels", "solver"];
            let allowed = shared.map(|room| format!("use crate::{room}::"));
            assert!(
                allowed.iter().any(|start| line.starts_with(start)),
                "{}: {line}",
                path.display()
            );
        }
    }
    assert!(files >= 30);
}
