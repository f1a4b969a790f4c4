//! The question whether daxfile's guard, BPF LSM programs that refuse what would change extent maps, has a file.
//!
//! No filesystem knows this ioctl. The guard's program at the hook `file_ioctl` (`security_file_ioctl()` in
//! `security/security.c`) answers it for the files that it guards, before any filesystem is asked.

use std::os::fd::AsFd;
use std::ptr::null_mut;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::ioctl::ioctl;

/// `_IO(0xda, 0xf1)`, as `control()` in the guard's source has it.
const DAXFILE_GUARDED: u64 = nix::request_code_none!(0xda, 0xf1);

/// Whether the file is guarded. Any descriptor serves but one of `O_PATH`; no privilege is needed.
///
/// # Errors
/// Whatever another LSM makes of an ioctl that it does not know.
#[doc(alias = "DAXFILE_GUARDED")]
pub fn has(fd: impl AsFd) -> Result<bool> {
    // SAFETY: the request takes no argument, and nobody follows the pointer.
    match unsafe { ioctl("ioctl(DAXFILE_GUARDED)", fd, DAXFILE_GUARDED, null_mut::<()>()) } {
        Err(Error { errno: Errno::ETXTBSY, .. }) => Ok(true),
        Ok(()) | Err(Error { errno: Errno::ENOTTY | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS, .. }) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
