//! Lists the owners of a range of a filesystem's device: offset on the device, length, owner.
//!
//! ```sh
//! target/debug/examples/extents /srv/xfs/image        # prints "0 8192 4096 last"
//! sudo target/debug/examples/owners /srv/xfs 8192 4096 # prints "8192 4096 inode 131 at 0"
//! ```
//!
//! Offset and length are in bytes; without a length, the range is one byte. XFS names the inodes if it was made with
//! `rmapbt=1` and the caller has `CAP_SYS_ADMIN`. `find MOUNT-POINT -xdev -inum 131` finds the name of an inode.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write, stdout};
use std::path::Path;
use std::process::ExitCode;

use libdaxfile::fsmap::{FMR_OWN_UNKNOWN, Record, RecordFlags, Records, XFS_FMR_OWN_COW, XFS_FMR_OWN_LOG};
use libdaxfile::statx;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let number = |index: usize, default| match arguments.get(index) {
        Some(argument) => argument.to_str().and_then(|text| text.parse().ok()),
        None => default,
    };
    let (Some(path), Some(offset), Some(length), ..=3) =
        (arguments.first(), number(1, None), number(2, Some(1)), arguments.len())
    else {
        eprintln!("usage: owners MOUNT-POINT OFFSET [LENGTH]");
        return ExitCode::from(2);
    };
    match list(path.as_ref(), offset, length) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("owners: {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

fn list(mount_point: &Path, offset: u64, length: u64) -> Result<(), Box<dyn Error>> {
    let directory = File::open(mount_point)?;
    let device = statx::get(&directory)?.device;
    let mut out = BufWriter::new(stdout().lock());
    for record in Records::new(&directory, device, offset, length) {
        let record = record?;
        let shared = if record.flags.contains(RecordFlags::SHARED) { ", shared" } else { "" };
        writeln!(out, "{} {} {}{shared}", record.physical, record.length, owner(&record))?;
    }
    out.flush()?;
    Ok(())
}

fn owner(record: &Record) -> String {
    let Record { owner, offset, flags, .. } = record;
    if !flags.contains(RecordFlags::SPECIAL_OWNER) {
        let fork = match () {
            () if flags.contains(RecordFlags::EXTENT_MAP) => ", extent map",
            () if flags.contains(RecordFlags::ATTR_FORK) => ", extended attributes",
            () if flags.contains(RecordFlags::PREALLOC) => ", unwritten",
            () => "",
        };
        return format!("inode {owner} at {offset}{fork}");
    }
    match *owner {
        FMR_OWN_UNKNOWN => "unknown".to_owned(),
        XFS_FMR_OWN_LOG => "journal".to_owned(),
        XFS_FMR_OWN_COW => "copy-on-write reservation".to_owned(),
        // include/uapi/linux/fsmap.h and fs/xfs/libxfs/xfs_fs.h list the others.
        code => format!("filesystem ({code:#x})"),
    }
}
