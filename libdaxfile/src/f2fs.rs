//! `F2FS_IOC_SET_PIN_FILE`: makes f2fs leave the blocks of a file where they are and write to them in place.
//!
//! Linux 4.16 and later, on f2fs. Needs a mount that is writable and no privilege.
//!
//! Such a pin protects less than daxfile's holds. The owner of the file can take it away, and can truncate and unlink the
//! file. f2fs drops the pin without notice when its garbage collector has met the file's segments too often.
//!
//! Reference: `include/uapi/linux/f2fs.h`; `f2fs_ioc_set_pin_file()`, `f2fs_pin_file_control()` and `f2fs_fileattr_get()` in
//! `fs/f2fs/file.c`; `Documentation/filesystems/f2fs.rst`.

use std::os::fd::AsFd;

use crate::error::Result;
use crate::ioctl::Ioctl;

/// `_IOW(0xf5, 13, __u32)`
#[doc(hidden)]
pub const F2FS_IOC_SET_PIN_FILE: Ioctl<u32> = Ioctl::write::<u32>("ioctl(F2FS_IOC_SET_PIN_FILE)", 0xf5, 13);
/// `_IOR('f', 1, long)`, but the kernel writes an `int`.
#[doc(hidden)]
pub const FS_IOC_GETFLAGS: Ioctl<u32> = Ioctl::read::<libc::c_long>("ioctl(FS_IOC_GETFLAGS)", b'f', 1);
#[doc(hidden)]
pub const FS_NOCOW_FL: u32 = 0x0080_0000;

/// Pins the file. It must have no blocks yet; kernels before 6.12 also pin most files that have blocks.
///
/// Afterwards, fallocate(2) allocates whole sections of 2 MiB or more, and nothing can be written beyond them.
///
/// # Errors
/// - `EFBIG`: the file has blocks.
/// - `EINVAL`: f2fs never writes in place (mount option `mode=lfs`).
/// - `EROFS`: the mount is read-only.
/// - `ENOTTY`: the filesystem is not f2fs.
#[doc(alias = "F2FS_IOC_SET_PIN_FILE")]
pub fn pin(fd: impl AsFd) -> Result<()> {
    let mut on = 1u32;
    // SAFETY: the kernel reads one __u32, and the pointer is to a live, exclusively borrowed u32.
    unsafe { F2FS_IOC_SET_PIN_FILE.call(fd, &raw mut on) }
}

/// Returns whether a file on f2fs is pinned. Needs no privilege.
///
/// f2fs shows the pin as `FS_NOCOW_FL`. `F2FS_IOC_GET_PIN_FILE` returns a count of garbage collections instead.
///
/// # Errors
/// `ENOTTY`: the filesystem has no inode flags.
#[doc(alias = "FS_IOC_GETFLAGS")]
pub fn is_pinned(fd: impl AsFd) -> Result<bool> {
    let mut flags = 0u32;
    // SAFETY: the kernel writes one int (`ioctl_getflags()`) to a live, exclusively borrowed u32.
    unsafe { FS_IOC_GETFLAGS.call(fd, &raw mut flags) }?;
    Ok(flags & FS_NOCOW_FL != 0)
}
