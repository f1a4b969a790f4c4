//! With the feature `guard`: compiles the guard's programs for the kernel.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    const SOURCE: &str = "src/hold/writable/guard.bpf.c";
    println!("cargo::rerun-if-changed={SOURCE}");
    if std::env::var_os("CARGO_FEATURE_GUARD").is_none() {
        return;
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("guard.o");
    // Paths in the object would make it another one in every directory.
    let compiled = Command::new(std::env::var_os("CLANG").unwrap_or("clang".into()))
        .args(["--target=bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", "-Wno-unused-function"])
        .args(["-fdebug-compilation-dir=.", "-c", SOURCE, "-o"])
        .arg(&out)
        .status();
    if !compiled.is_ok_and(|status| status.success()) {
        println!(
            "cargo::error=the feature guard needs clang and the headers of libbpf; on Debian: apt-get install clang libbpf-dev"
        );
    }
}
