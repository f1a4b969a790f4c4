//! Checks whether the guard has a file: one ioctl and a look at the guard's pins, which need neither BPF nor
//! privileges.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::park_timeout;
use std::time::Duration;

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::error::{Result, ResultExt};
use crate::file::target::Target;

/// The guard's pins.
pub(crate) const PINS: &str = "/sys/fs/bpf/daxfile";

pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// What the tool reports on a file when [`holds`] cannot decide.
pub(crate) const UNSEEN: &str = "the guard has it, but only root can see whether the guard is intact";

/// The note on a file that the guard has, though it has no record.
pub(crate) const UNRECORDED: &str = "held by the guard, but without a record";

/// The kernel passes over a kprobe while a change of a BPF map is preempted on the same processor. Probes that see a write
/// at none of these looks are silent.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(5);

/// Whether the guard has the file, is complete and running, and f2fs keeps the file's blocks in place. `None` if the
/// guard has the file, but this process cannot look at the guard's pins.
///
/// # Errors
/// An error of the ioctls that query guard and f2fs, or of reading the guard's pins.
pub fn is_held(target: &Target) -> Result<Option<bool>> {
    if !target.filesystem.keeps_blocks(target)? || !is_listed(target)? || !sees_writes(target)? {
        return Ok(Some(false));
    }
    is_complete()
}

/// Whether the guard has the file, even if only part of the guard is left.
///
/// # Errors
/// An error of the ioctl that queries the guard.
pub fn is_listed(target: &Target) -> Result<bool> {
    Ok(libdaxfile::guard::has(target)?)
}

fn sees_writes(target: &Target) -> Result<bool> {
    for look in 0..LOOKS {
        if look > 0 {
            park_timeout(PAUSE);
        }
        if libdaxfile::guard::sees_writes(target)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Directories of links, each with the number of links that its name states.
pub(crate) fn directories_of_links() -> io::Result<Vec<(PathBuf, usize)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(PINS)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(number) = name.strip_prefix("links-").and_then(|rest| rest.rsplit('-').next()?.parse().ok()) {
            found.push((path, number));
        }
    }
    Ok(found)
}

pub(crate) fn has_all(path: &Path, number: usize) -> bool {
    number > 0 && fs::read_dir(path).is_ok_and(|entries| entries.count() == number)
}

/// Whether only root can have made a directory and its contents. If bpffs is mounted with default options, every user
/// may make one.
pub(crate) fn belongs_to_root(directory: &Metadata) -> bool {
    directory.is_dir() && directory.uid() == 0 && directory.mode() & 0o022 == 0
}

/// Whether no link is missing.
fn is_complete() -> Result<Option<bool>> {
    let found =
        fs::symlink_metadata(PINS).and_then(|metadata| Ok((belongs_to_root(&metadata), directories_of_links()?)));
    match found {
        Ok((of_root, found)) => Ok(Some(of_root && found.iter().any(|(path, number)| has_all(path, *number)))),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        // The pins are gone, unless they are in another mount namespace.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let bpffs = statfs(BPFFS).is_ok_and(|statfs| statfs.filesystem_type() == BPF_FS_MAGIC);
            Ok(bpffs.then_some(false))
        }
        Err(error) => Err(error).call("readdir(/sys/fs/bpf/daxfile)"),
    }
}
