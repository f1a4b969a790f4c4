//! Compiles the C programs of attacks/, so that the tests find them where there is neither compiler nor library, too.
#![allow(clippy::expect_used, clippy::disallowed_methods)]

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=attacks");
    let out = std::env::var_os("OUT_DIR").expect("cargo sets it");
    for entry in std::fs::read_dir("attacks").expect("attacks/ is here") {
        let source = entry.expect("a name in attacks/").path();
        if source.extension().is_none_or(|extension| extension != "c") {
            continue;
        }
        let program = Path::new(&out).join(source.file_stem().expect("a name"));
        let compiled =
            Command::new("cc").args(["-O2", "-pthread", "-static", "-o"]).arg(&program).arg(&source).status();
        assert!(
            compiled.is_ok_and(|status| status.success()),
            "cc failed on {}: apt-get install gcc libc6-dev xfslibs-dev (or run tests/run.sh)",
            source.display()
        );
    }
}
