//! Locks that only root can take: byte ranges of files in a directory that belongs to root.
//!
//! Every user who can read a file can flock(2) it, and could block root for any length of time. A lock that needs write
//! access does not work on an immutable file, and a descriptor open for writing would make the kernel refuse root's own
//! lease. So root locks the byte at the offset of the inode number, in a file named after the device number.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;

use libdaxfile::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open, openat};
use nix::libc;
use nix::sys::stat::{Mode, fstat};
use nix::unistd::geteuid;

use crate::error::{Error, Result};

/// The directory disappears when the machine goes down, as locks do.
const DIRECTORY: &str = "/run/daxfile";

/// Locks an inode until the returned file is dropped. Returns `None` if this process is not root's, or has no such
/// directory.
///
/// # Errors
/// Busy if another process holds the lock.
pub(crate) fn lock((major, minor): (u32, u32), inode: u64) -> Result<Option<File>> {
    let Some(file) = file(&format!("{major}:{minor}")) else { return Ok(None) };
    #[expect(clippy::cast_possible_truncation, reason = "the two constants are 1 and 0")]
    let range = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        // No inode number above the largest offset is known to be in use. Two numbers that map to the same offset would
        // only wait for each other.
        l_start: i64::try_from(inode & (i64::MAX as u64 >> 1)).unwrap_or(0),
        l_len: 1,
        l_pid: 0,
    };
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&range)) {
        Ok(_) => Ok(Some(file)),
        Err(Errno::EAGAIN | Errno::EACCES) => {
            Err(Error::call("fcntl(F_OFD_SETLK)", Errno::EAGAIN).because("another daxfile works on it"))
        }
        Err(errno) => Err(Error::call("fcntl(F_OFD_SETLK)", errno)),
    }
}

/// Opens a file for locks in root's directory, and makes that directory first.
fn file(name: &str) -> Option<File> {
    if !geteuid().is_root() {
        return None;
    }
    // The directory may already exist; any other failure shows at the next call.
    let _ = DirBuilder::new().mode(0o700).create(DIRECTORY);
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = open(DIRECTORY, flags, Mode::empty()).ok()?;
    let stat = fstat(&directory).ok()?;
    if stat.st_uid != 0 || stat.st_mode & 0o022 != 0 {
        return None;
    }
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    openat(&directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from).ok()
}
