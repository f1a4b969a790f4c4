//! f2fs's own pin: `F2FS_IOC_SET_PIN_FILE` has it keep a file's blocks where they are, and write to them in place.
//!
//! It is no hold: whoever owns the file may take it away, truncate and unlink, and where garbage collection met the file's
//! segments too often, f2fs drops it without a word.
//!
//! Reference: `include/uapi/linux/f2fs.h`, `f2fs_ioc_set_pin_file()`, `f2fs_pin_file_control()` and `f2fs_fileattr_get()`
//! in `fs/f2fs/file.c`.

use std::os::fd::AsFd;

use crate::error::Result;
use crate::ioctl::ioctl;

/// `_IOW(0xf5, 13, __u32)`
#[doc(hidden)]
pub const F2FS_IOC_SET_PIN_FILE: u64 = nix::request_code_write!(0xf5, 13, size_of::<u32>());
/// `_IOR('f', 1, long)`
#[doc(hidden)]
pub const FS_IOC_GETFLAGS: u64 = nix::request_code_read!(b'f', 1, size_of::<libc::c_long>());
#[doc(hidden)]
pub const FS_NOCOW_FL: u32 = 0x0080_0000;

/// Pins the file, which must have no blocks yet (Linux 6.12; before, most files with blocks may be pinned as well). Then
/// fallocate(2) allocates whole sections, of 2 MiB or more, and beyond these nothing can be written. No privilege is
/// needed but a mount for writing.
///
/// # Errors
/// `EFBIG` where it has blocks; `EINVAL` where the filesystem is mounted to write elsewhere (`mode=lfs`); `ENOTTY` on
/// another filesystem.
#[doc(alias = "F2FS_IOC_SET_PIN_FILE")]
pub fn pin(fd: impl AsFd) -> Result<()> {
    let mut on = 1u32;
    // SAFETY: the kernel reads one __u32, and the pointer is to a live, exclusively borrowed u32.
    unsafe { ioctl("ioctl(F2FS_IOC_SET_PIN_FILE)", fd, F2FS_IOC_SET_PIN_FILE, &raw mut on) }
}

/// Whether a file of f2fs is pinned. `FS_NOCOW_FL` tells; `F2FS_IOC_GET_PIN_FILE` counts failures instead. No privilege
/// is needed.
///
/// # Errors
/// `ENOTTY` on filesystems without flags.
#[doc(alias = "FS_IOC_GETFLAGS")]
pub fn is_pinned(fd: impl AsFd) -> Result<bool> {
    let mut flags = 0u32;
    // SAFETY: declared with `long`, it writes one int (`ioctl_getflags()`) to a live, exclusively borrowed u32.
    unsafe { ioctl("ioctl(FS_IOC_GETFLAGS)", fd, FS_IOC_GETFLAGS, &raw mut flags) }?;
    Ok(flags & FS_NOCOW_FL != 0)
}
