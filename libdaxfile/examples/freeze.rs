//! Makes a file immutable without letting a writer slip in, or mutable again.
//!
//! ```sh
//! sudo target/debug/examples/freeze image.raw
//! sudo target/debug/examples/freeze --thaw image.raw
//! ```
//!
//! Needs `CAP_LINUX_IMMUTABLE`, and ownership of the file or `CAP_LEASE` and `CAP_FOWNER`.
//!
//! On XFS, a descriptor that was open for writing keeps its access under the flag, and a program that is just opening the
//! file may be past the check. Two read leases tell: one before the flag, so that the file of a busy writer stays untouched,
//! and one after it. `daxfile pin` does more: it settles, compares the map and the contents' time, and keeps a record.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use libdaxfile::fsxattr::{self, Xflags};
use libdaxfile::lease::{Kind, Lease};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let (thaws, path) = match &arguments[..] {
        [path] if path != "--thaw" => (false, path),
        [option, path] if option == "--thaw" => (true, path),
        _ => {
            eprintln!("usage: freeze [--thaw] FILE");
            return ExitCode::from(2);
        }
    };
    match open(path.as_ref()).and_then(|file| if thaws { thaw(&file) } else { freeze(&file) }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("freeze: {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

/// Opens the file itself: no symbolic link, and a FIFO does not block.
fn open(path: &Path) -> Result<File, Box<dyn Error>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err("not a regular file".into());
    }
    Ok(file)
}

fn freeze(file: &File) -> Result<(), Box<dyn Error>> {
    if fsxattr::get(file)?.xflags().contains(Xflags::IMMUTABLE) {
        return Ok(());
    }
    drop(Lease::take(file, Kind::Read)?);
    set_immutable(file, true)?;
    if let Err(error) = Lease::take(file, Kind::Read) {
        set_immutable(file, false)?;
        return Err(format!("{error}: opened for writing meanwhile").into());
    }
    // A crash before this would bring the file back without the flag.
    file.sync_all()?;
    Ok(())
}

fn thaw(file: &File) -> Result<(), Box<dyn Error>> {
    set_immutable(file, false)?;
    file.sync_all()?;
    Ok(())
}

fn set_immutable(file: &File, on: bool) -> libdaxfile::Result<()> {
    let before = fsxattr::get(file)?;
    let mut flags = before.xflags();
    flags.set(Xflags::IMMUTABLE, on);
    fsxattr::set(file, &before.with_xflags(flags))
}
