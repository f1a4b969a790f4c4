//! Locks that only root can take: byte ranges of files in a directory of root's own.
//!
//! A lock on the file itself, flock(2), is to be had by every user who may read it, and would hold root up for as long as
//! that user likes. A lock that takes write access is none for a file that is immutable, and a descriptor open for writing
//! would refuse root's own lease. So root locks the byte whose offset is the inode number, in a file whose name is the
//! device's number.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;

use libdaxfile::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open, openat};
use nix::libc;
use nix::sys::stat::{Mode, fstat};
use nix::unistd::geteuid;

use crate::error::{Error, Result};

/// It goes away with the machine, as locks do.
const DIRECTORY: &str = "/run/daxfile";

/// Locks an inode, until what is returned is dropped. `None` where this is not root, or has no such directory.
///
/// # Errors
/// Busy where another process has it.
pub(crate) fn lock((major, minor): (u32, u32), inode: u64) -> Result<Option<File>> {
    let Some(file) = file(&format!("{major}:{minor}")) else { return Ok(None) };
    #[expect(clippy::cast_possible_truncation, reason = "the two constants are 1 and 0")]
    let range = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        // Of numbers above the largest offset, none is known to be used; two that fell together would only wait for each other.
        l_start: i64::try_from(inode & (i64::MAX as u64 >> 1)).unwrap_or(0),
        l_len: 1,
        l_pid: 0,
    };
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&range)) {
        Ok(_) => Ok(Some(file)),
        Err(Errno::EAGAIN | Errno::EACCES) => {
            Err(Error::call("fcntl(F_OFD_SETLK)", Errno::EAGAIN).because("another daxfile is at work on it"))
        }
        Err(errno) => Err(Error::call("fcntl(F_OFD_SETLK)", errno)),
    }
}

/// Opens a file of locks in root's directory, which is made first.
fn file(name: &str) -> Option<File> {
    if !geteuid().is_root() {
        return None;
    }
    // That it is there already is no failure; every other shows at the next call.
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
