//! Compiles the C programs of attacks/, so that the tests also find them on a machine without compiler or library.
#![allow(clippy::expect_used, clippy::disallowed_methods)]

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=attacks");
    let out = std::env::var_os("OUT_DIR").expect("cargo sets it");
    // Set where the linker is not the host's: a compiler for the target's processor.
    let compiler = std::env::var_os("RUSTC_LINKER").unwrap_or("cc".into());
    let x86 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    for entry in std::fs::read_dir("attacks").expect("attacks/ is here") {
        let source = entry.expect("a name in attacks/").path();
        if source.extension().is_none_or(|extension| extension != "c") {
            continue;
        }
        // It flushes by x86 instructions.
        if !x86 && source.ends_with("flush.c") {
            continue;
        }
        let program = Path::new(&out).join(source.file_stem().expect("a name"));
        let compiled =
            Command::new(&compiler).args(["-O2", "-pthread", "-static", "-o"]).arg(&program).arg(&source).status();
        assert!(
            compiled.is_ok_and(|status| status.success()),
            "{} failed on {}: apt-get install gcc libc6-dev xfslibs-dev (or run tests/run.sh)",
            compiler.display(),
            source.display()
        );
    }
}
