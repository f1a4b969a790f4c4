//! Counts the extents of files, without fetching them.
//!
//! ```sh
//! target/debug/examples/count /var/log/*
//! ```
//!
//! Dirty pages are written back first. Needs permission to read the files, and no privilege.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::{Write, stdout};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use libdaxfile::fiemap::{self, Request};

fn main() -> ExitCode {
    let paths: Vec<_> = std::env::args_os().skip(1).collect();
    if paths.is_empty() {
        eprintln!("usage: count FILE...");
        return ExitCode::from(2);
    }
    let mut status = ExitCode::SUCCESS;
    for path in &paths {
        let written = match count(path.as_ref()) {
            Ok(extents) => writeln!(stdout(), "{extents} {}", path.display()),
            Err(error) => {
                eprintln!("count: {}: {error}", path.display());
                status = ExitCode::FAILURE;
                Ok(())
            }
        };
        if let Err(error) = written {
            eprintln!("count: standard output: {error}");
            return ExitCode::FAILURE;
        }
    }
    status
}

fn count(path: &Path) -> Result<u32, Box<dyn Error>> {
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    Ok(fiemap::count(&file, 0..u64::MAX, Request::SYNC)?)
}
