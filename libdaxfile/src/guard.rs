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

/// Returns whether the guard protects the file. Needs no privilege; any descriptor serves, except one opened with `O_PATH`.
///
/// # Errors
/// - `EBADF`: the descriptor was opened with `O_PATH`.
/// - `EACCES` or `EPERM`: another LSM refuses an ioctl that it does not know.
#[doc(alias = "DAXFILE_GUARDED")]
pub fn has(fd: impl AsFd) -> Result<bool> {
    // SAFETY: the request has no argument, and the kernel does not follow the pointer.
    match unsafe { DAXFILE_GUARDED.call(fd, null_mut()) } {
        Err(Error { errno: Errno::ETXTBSY, .. }) => Ok(true),
        Ok(()) | Err(Error { errno: Errno::ENOTTY | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS, .. }) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
