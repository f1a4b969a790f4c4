//! Lists the immutable files of an XFS filesystem: inode number, size in bytes. find(1) with -inum finds their names.
//!
//! ```sh
//! sudo target/debug/examples/immutable /srv/xfs
//! ```
//!
//! It opens no file: the inodes come from XFS_IOC_BULKSTAT.

use std::error::Error;
use std::fs::File;
use std::io::{Write, stdout};
use std::path::Path;
use std::process::ExitCode;

use libdaxfile::bulkstat::Inodes;
use libdaxfile::fsxattr::Xflags;

fn main() -> ExitCode {
    let [_, mount_point] = &std::env::args_os().collect::<Vec<_>>()[..] else {
        eprintln!("usage: immutable MOUNT-POINT");
        return ExitCode::from(2);
    };
    match list(mount_point.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("immutable: {}: {error}", mount_point.display());
            ExitCode::FAILURE
        }
    }
}

fn list(mount_point: &Path) -> Result<(), Box<dyn Error>> {
    let root = File::open(mount_point)?;
    for inode in Inodes::new(&root, 0) {
        let inode = inode?;
        if inode.xflags.contains(Xflags::IMMUTABLE) {
            writeln!(stdout(), "{} {}", inode.inode, inode.size)?;
        }
    }
    Ok(())
}
