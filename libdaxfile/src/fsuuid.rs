//! `FS_IOC_GETFSUUID`: the filesystem's UUID, with the older ioctl of ext4 as its fallback. For XFS before 6.9 see
//! [`xfs::geometry`](crate::xfs::geometry).
//!
//! Reference: `ioctl_getfsuuid()` in `fs/ioctl.c` (6.9 and newer), `ext4_ioctl_getuuid()` in `fs/ext4/ioctl.c` (6.0).

use std::mem::offset_of;
use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::ioctl::ioctl;

/// `struct fsuuid2`.
#[doc(hidden)]
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct RawFsuuid2 {
    pub len: u8,
    pub uuid: [u8; 16],
}

/// ext4's `struct fsuuid` with room for its UUID.
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
pub const FS_IOC_GETFSUUID: u64 = nix::request_code_read!(0x15, 0, size_of::<RawFsuuid2>());
/// `_IOR('f', 44, struct fsuuid)`, where the structure's flexible array counts for nothing.
#[doc(hidden)]
pub const EXT4_IOC_GETFSUUID: u64 = nix::request_code_read!(b'f', 44, offset_of!(RawExt4Fsuuid, fsu_uuid));

/// Reads the UUID of the filesystem that holds the file. No privilege is needed.
///
/// # Errors
/// `ENOTTY` where neither the kernel nor the filesystem tells it.
#[doc(alias = "FS_IOC_GETFSUUID")]
pub fn get(fd: impl AsFd) -> Result<[u8; 16]> {
    const CALL: &str = "ioctl(FS_IOC_GETFSUUID)";
    let mut raw = RawFsuuid2::default();
    // SAFETY: the pointer is to a live, exclusively borrowed `struct fsuuid2` of bytes, which the kernel fills.
    match unsafe { ioctl(CALL, &fd, FS_IOC_GETFSUUID, &raw mut raw) } {
        Ok(()) if raw.len == 16 => Ok(raw.uuid),
        Ok(()) => Err(Error { call: CALL, errno: Errno::ENOTTY }),
        Err(Error { errno: Errno::ENOTTY, .. }) => ext4(fd),
        Err(error) => Err(error),
    }
}

fn ext4(fd: impl AsFd) -> Result<[u8; 16]> {
    let mut raw = RawExt4Fsuuid { fsu_len: 16, fsu_flags: 0, fsu_uuid: [0; 16] };
    // SAFETY: `fsu_len` announces the 16 bytes that follow the two words; the kernel writes no more than these.
    unsafe { ioctl("ioctl(EXT4_IOC_GETFSUUID)", fd, EXT4_IOC_GETFSUUID, &raw mut raw) }?;
    Ok(raw.fsu_uuid)
}
