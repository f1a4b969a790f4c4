//! `FS_IOC_GETFSUUID`: the UUID of a filesystem.
//!
//! Linux 6.9 and later, on every filesystem that has a UUID; on ext4 since 6.0, by ext4's own ioctl. For XFS before 6.9, use
//! [`xfs::geometry`](crate::xfs::geometry). Needs no privilege.
//!
//! Reference: `ioctl_getfsuuid()` in `fs/ioctl.c`, `ext4_ioctl_getuuid()` in `fs/ext4/ioctl.c`.

use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::ioctl::Ioctl;

/// `struct fsuuid2`.
#[doc(hidden)]
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct RawFsuuid2 {
    pub len: u8,
    pub uuid: [u8; 16],
}

/// ext4's `struct fsuuid` and, as its flexible array, a UUID.
#[doc(hidden)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RawExt4Fsuuid {
    pub fsu_len: u32,
    pub fsu_flags: u32,
    pub fsu_uuid: [u8; 16],
}

/// `_IOR(0x15, 0, struct fsuuid2)`
#[doc(hidden)]
pub const FS_IOC_GETFSUUID: Ioctl<RawFsuuid2> = Ioctl::read::<RawFsuuid2>("ioctl(FS_IOC_GETFSUUID)", 0x15, 0);
/// `_IOR('f', 44, struct fsuuid)`: a flexible array adds nothing to the size, which leaves the two words before it.
#[doc(hidden)]
pub const EXT4_IOC_GETFSUUID: Ioctl<RawExt4Fsuuid> = Ioctl::read::<[u32; 2]>("ioctl(EXT4_IOC_GETFSUUID)", b'f', 44);

/// Returns the UUID of the filesystem that holds the file.
///
/// # Errors
/// `ENOTTY`: neither the kernel nor the filesystem has such a call, or the filesystem has no UUID.
#[doc(alias = "FS_IOC_GETFSUUID")]
#[doc(alias = "EXT4_IOC_GETFSUUID")]
pub fn get(fd: impl AsFd) -> Result<[u8; 16]> {
    let mut raw = RawFsuuid2::default();
    // SAFETY: the pointer is to a live, exclusively borrowed `struct fsuuid2` of bytes, which the kernel fills.
    match unsafe { FS_IOC_GETFSUUID.call(&fd, &raw mut raw) } {
        Ok(()) if raw.len == 16 => Ok(raw.uuid),
        Ok(()) => Err(FS_IOC_GETFSUUID.error(Errno::ENOTTY)),
        Err(Error { errno: Errno::ENOTTY, .. }) => ext4(fd),
        Err(error) => Err(error),
    }
}

fn ext4(fd: impl AsFd) -> Result<[u8; 16]> {
    let mut raw = RawExt4Fsuuid { fsu_len: 16, fsu_flags: 0, fsu_uuid: [0; 16] };
    // SAFETY: the structure is live and exclusively borrowed, `fsu_len` announces the 16 bytes that follow the two words,
    // and the kernel writes no more than these.
    unsafe { EXT4_IOC_GETFSUUID.call(fd, &raw mut raw) }?;
    Ok(raw.fsu_uuid)
}
