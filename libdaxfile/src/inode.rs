//! `FS_IOC_GETVERSION`: the generation number of an inode. `FS_IOC_GETFLAGS`: whether ext4 maps it by extents.
//!
//! On XFS, ext4, f2fs, btrfs and others. Needs no privilege.
//!
//! Reference: `XFS_IOC_GETVERSION` in `fs/xfs/xfs_ioctl.c`, `EXT4_IOC_GETVERSION` in
//! `fs/ext4/ioctl.c`.

use std::os::fd::AsFd;

use crate::error::Result;
use crate::f2fs::FS_IOC_GETFLAGS;
use crate::ioctl::Ioctl;

#[doc(hidden)]
pub const FS_EXTENT_FL: u32 = 0x0008_0000;

/// `_IOR('v', 1, long)`, but the kernel writes an `int`.
#[doc(hidden)]
pub const FS_IOC_GETVERSION: Ioctl<u32> = Ioctl::read::<libc::c_long>("ioctl(FS_IOC_GETVERSION)", b'v', 1);

/// Returns the generation of the inode. It changes when the filesystem gives the inode number to another file, so number
/// and generation together name one file.
///
/// # Errors
/// `ENOTTY`: the filesystem keeps no generations.
#[doc(alias = "FS_IOC_GETVERSION")]
pub fn generation(fd: impl AsFd) -> Result<u32> {
    let mut generation = 0;
    // SAFETY: the kernel writes one int (`put_user(i_generation, (int __user *)arg)`) to a live, exclusively borrowed u32.
    unsafe { FS_IOC_GETVERSION.call(fd, &raw mut generation) }?;
    Ok(generation)
}

/// Returns whether ext4 maps the file by extents and not by block pointers. Needs no privilege.
///
/// # Errors
/// `ENOTTY`: the filesystem has no inode flags.
#[doc(alias = "FS_IOC_GETFLAGS")]
pub fn is_mapped_by_extents(fd: impl AsFd) -> Result<bool> {
    let mut flags = 0u32;
    // SAFETY: the kernel writes one int (`ioctl_getflags()`) to a live, exclusively borrowed u32.
    unsafe { FS_IOC_GETFLAGS.call(fd, &raw mut flags) }?;
    Ok(flags & FS_EXTENT_FL != 0)
}
