//! With the feature `guard`, compiles the guard's programs for the kernel.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    const SOURCE: &str = "src/hold/writable/guard.bpf.c";
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CLANG");
    if std::env::var_os("CARGO_FEATURE_GUARD").is_none() {
        return;
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("guard.o");
    let architecture = match std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("x86_64") => "x86".to_owned(),
        Ok("aarch64") => "arm64".to_owned(),
        other => other.unwrap_or_default().to_owned(),
    };
    // Paths in the object would make it another one in every directory.
    let compiled = Command::new(std::env::var_os("CLANG").unwrap_or("clang".into()))
        .args(["--target=bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", "-Wno-unused-function"])
        .arg(format!("-D__TARGET_ARCH_{architecture}"))
        .args(["-fdebug-compilation-dir=.", "-c", SOURCE, "-o"])
        .arg(&out)
        .status();
    if !compiled.is_ok_and(|status| status.success()) {
        println!(
            "cargo::error=the feature guard needs clang and the headers of libbpf; on Debian: apt-get install clang libbpf-dev"
        );
    }
}
