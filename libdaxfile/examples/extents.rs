//! Lists the extents of a file: offset in the file, offset on the device, length, all in bytes, and flags.
//!
//! ```sh
//! target/debug/examples/extents /boot/vmlinuz
//! ```
//!
//! Dirty pages are written back first. Needs permission to read the file, and no privilege.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write, stdout};
use std::path::Path;
use std::process::ExitCode;

use libdaxfile::fiemap::{Extents, Request};

fn main() -> ExitCode {
    let [_, path] = &std::env::args_os().collect::<Vec<_>>()[..] else {
        eprintln!("usage: extents FILE");
        return ExitCode::from(2);
    };
    match list(path.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("extents: {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

fn list(path: &Path) -> Result<(), Box<dyn Error>> {
    let file = File::open(path)?;
    let mut out = BufWriter::new(stdout().lock());
    for extent in Extents::new(&file, 0..u64::MAX, Request::SYNC) {
        let extent = extent?;
        // Flags that the crate does not know have no name, but a number.
        let mut flags: Vec<String> = extent.flags.iter_names().map(|(name, _)| name.to_lowercase()).collect();
        let unnamed = extent.flags.bits() & !extent.flags.iter_names().fold(0, |known, (_, flag)| known | flag.bits());
        flags.extend((unnamed != 0).then(|| format!("{unnamed:#x}")));
        writeln!(out, "{} {} {} {}", extent.logical, extent.physical, extent.length, flags.join(","))?;
    }
    out.flush()?;
    Ok(())
}
