//! Says whether a process has a file open for writing. If none has, waits for the first that tries.
//!
//! ```sh
//! target/debug/examples/lease image.raw
//! ```
//!
//! Needs ownership of the file or `CAP_LEASE`. The process that tries waits until this program ends.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::{Write, stdout};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use libdaxfile::Errno;
use libdaxfile::lease::{Kind, Lease};

fn main() -> ExitCode {
    let [_, path] = &std::env::args_os().collect::<Vec<_>>()[..] else {
        eprintln!("usage: lease FILE");
        return ExitCode::from(2);
    };
    match watch(path.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lease: {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

fn watch(path: &Path) -> Result<(), Box<dyn Error>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let lease = match Lease::take(&file, Kind::Read) {
        Err(error) if error.errno == Errno::EAGAIN => return Err("a process has it open for writing".into()),
        lease => lease?,
    };
    writeln!(stdout(), "no process has it open for writing; waiting for the first")?;
    // The kernel also sends SIGURG, which a program with a signal handler would rather wait for.
    while lease.is_unbroken()? {
        sleep(Duration::from_millis(10));
    }
    writeln!(stdout(), "a process opens it for writing")?;
    Ok(())
}
