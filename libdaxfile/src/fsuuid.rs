//! `FS_IOC_GETFSUUID`: the filesystem's UUID, with the older ioctl of ext4 as its fallback. For XFS before 6.9 see
//! [`xfs::geometry`](crate::xfs::geometry).
//!
//! Reference: `ioctl_getfsuuid()` in `fs/ioctl.c` (6.9 and newer), `ext4_ioctl_getuuid()` in `fs/ext4/ioctl.c` (6.0).

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
#[repr(C)]
#[derive(Clone, Copy)]
struct RawExt4Fsuuid {
    len: u32,
    flags: u32,
    uuid: [u8; 16],
}

/// `_IOR(0x15, 0, struct fsuuid2)`
#[doc(hidden)]
pub const FS_IOC_GETFSUUID: u64 = nix::request_code_read!(0x15, 0, size_of::<RawFsuuid2>());
/// `_IOR('f', 44, struct fsuuid)`, where the structure's flexible array counts for nothing.
#[doc(hidden)]
pub const EXT4_IOC_GETFSUUID: u64 = nix::request_code_read!(b'f', 44, 8);

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
    let mut raw = RawExt4Fsuuid { len: 16, flags: 0, uuid: [0; 16] };
    // SAFETY: `len` announces the 16 bytes that follow the two words; the kernel writes no more than these.
    unsafe { ioctl("ioctl(EXT4_IOC_GETFSUUID)", fd, EXT4_IOC_GETFSUUID, &raw mut raw) }?;
    Ok(raw.uuid)
}
