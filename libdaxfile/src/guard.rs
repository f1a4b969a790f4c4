//! Asks whether daxfile's guard protects a file. The guard consists of BPF LSM programs that refuse operations that would
//! change extent maps.
//!
//! No filesystem knows this ioctl. The guard's program at the LSM hook `file_ioctl` answers it for guarded files, before the
//! kernel asks the filesystem (`security_file_ioctl()` in `security/security.c`).

use std::os::fd::AsFd;
use std::ptr::null_mut;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::ioctl::Ioctl;

/// `_IO(0xda, 0xf1)`, the same number as in `control()` of the guard's source.
const DAXFILE_GUARDED: Ioctl<()> = Ioctl::none("ioctl(DAXFILE_GUARDED)", 0xda, 0xf1);

/// `_IO(0xda, 0xf2)`, as there.
const DAXFILE_PROBED: Ioctl<()> = Ioctl::none("ioctl(DAXFILE_PROBED)", 0xda, 0xf2);

/// Returns whether the guard protects the file. Needs no privilege; any descriptor serves, except one opened with `O_PATH`.
///
/// # Errors
/// - `EBADF`: the descriptor was opened with `O_PATH`.
/// - `EACCES` or `EPERM`: another LSM refuses an ioctl that it does not know.
#[doc(alias = "DAXFILE_GUARDED")]
pub fn has(fd: impl AsFd) -> Result<bool> {
    ask(&DAXFILE_GUARDED, fd)
}

/// Returns whether the guard's kprobes see writes to a protected file. They are silent while `kernel.ftrace_enabled` is 0,
/// or `kprobes/enabled` in debugfs. Needs no privilege.
///
/// A write through a descriptor that is open for reading only fails, but not before the kprobe at the entry of
/// `vfs_write()` has run. Then the program at `file_ioctl` tells whether it has. Through any other descriptor the answer
/// is `false`.
///
/// # Errors
/// As for [`has`].
#[doc(alias = "DAXFILE_PROBED")]
pub fn sees_writes(fd: impl AsFd) -> Result<bool> {
    // The guard forgets at each ioctl what it knew of a write.
    has(&fd)?;
    let _ = nix::sys::uio::pwrite(&fd, &[], 0);
    ask(&DAXFILE_PROBED, fd)
}

fn ask(question: &Ioctl<()>, fd: impl AsFd) -> Result<bool> {
    // SAFETY: the request has no argument, and the kernel does not follow the pointer.
    match unsafe { question.call(fd, null_mut()) } {
        Err(Error { errno: Errno::ETXTBSY, .. }) => Ok(true),
        Ok(()) | Err(Error { errno: Errno::ENOTTY | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS, .. }) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
