//! Lists the immutable files of an XFS filesystem: inode number, size in bytes, path.
//!
//! ```sh
//! sudo target/debug/examples/immutable /srv/xfs
//! ```
//!
//! No directory is read: the inodes come from XFS_IOC_BULKSTAT, and the paths from the parent pointers of
//! XFS_IOC_GETPARENTS. On a filesystem without parent pointers it prints "-" for each
//! path.

use std::error::Error;
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use libdaxfile::bulkstat::{Inode, Inodes};
use libdaxfile::fsxattr::Xflags;
use libdaxfile::parents::Parents;
use libdaxfile::{Errno, statx};

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

fn list(mount_point: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let root = File::open(mount_point)?;
    let root_inode = statx::get(&root)?.inode;
    for inode in Inodes::new(&root, 0) {
        let inode = inode?;
        if inode.xflags.contains(Xflags::IMMUTABLE) {
            let path = path(&root, root_inode, &inode)?.map(|path| mount_point.join(path));
            println!("{} {} {}", inode.inode, inode.size, path.unwrap_or_else(|| "-".into()).display());
        }
    }
    Ok(())
}

/// The path of an inode below the root; `None` if it has no name or the filesystem has no parent pointers.
fn path(root: &File, root_inode: u64, inode: &Inode) -> Result<Option<PathBuf>, libdaxfile::Error> {
    let mut names = Vec::new();
    let (mut number, mut generation) = (inode.inode, inode.generation);
    while number != root_inode {
        // A file with several hard links has several paths: any of them will do.
        match Parents::of_inode(root, number, generation).next() {
            Some(Ok(parent)) => {
                names.push(parent.name);
                (number, generation) = (parent.inode, parent.generation);
            }
            Some(Err(error)) if error.errno != Errno::EOPNOTSUPP && error.errno != Errno::ENOTTY => return Err(error),
            Some(Err(_)) | None => return Ok(None),
        }
    }
    Ok(Some(names.into_iter().rev().collect()))
}
