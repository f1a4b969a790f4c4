//! `FS_IOC_GETFLAGS` and `FS_IOC_GETVERSION`: the inode flags of ext2 and its heirs, and the generation number.
//!
//! Reference: `include/uapi/linux/fs.h`; ioctl_iflags(2). Both ioctls are declared with `long` and move an `int`.

use std::os::fd::AsFd;

use crate::error::Result;
use crate::ioctl::ioctl;

bitflags::bitflags! {
    /// `FS_*_FL`, those that bear on an extent map; the others are kept as raw bits.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct InodeFlags: u32 {
        /// `FS_COMPR_FL`: contents are compressed.
        const COMPRESSED = 0x0000_0004;
        /// `FS_IMMUTABLE_FL`
        const IMMUTABLE = 0x0000_0010;
        /// `FS_APPEND_FL`
        const APPEND = 0x0000_0020;
        /// `FS_ENCRYPT_FL`: contents are encrypted (fscrypt).
        const ENCRYPTED = 0x0000_0800;
        /// `FS_EXTENT_FL`: blocks are mapped by extents; without it, on the ext family, by block pointers.
        const EXTENTS = 0x0008_0000;
        /// `FS_VERITY_FL`
        const VERITY = 0x0010_0000;
        /// `FS_NOCOW_FL`
        const NOCOW = 0x0080_0000;
        /// `FS_DAX_FL`
        const DAX = 0x0200_0000;
        /// `FS_INLINE_DATA_FL`: contents are in the inode.
        const INLINE_DATA = 0x1000_0000;
        const _ = !0;
    }
}

/// `_IOR('f', 1, long)`
#[doc(hidden)]
pub const FS_IOC_GETFLAGS: u64 = nix::request_code_read!(b'f', 1, size_of::<libc::c_long>());
/// `_IOR('v', 1, long)`
#[doc(hidden)]
pub const FS_IOC_GETVERSION: u64 = nix::request_code_read!(b'v', 1, size_of::<libc::c_long>());

/// Reads the inode flags. No privilege is needed.
///
/// # Errors
/// `ENOTTY` or `EOPNOTSUPP` where the filesystem has none.
#[doc(alias = "FS_IOC_GETFLAGS")]
pub fn flags(fd: impl AsFd) -> Result<InodeFlags> {
    let mut flags = 0;
    // SAFETY: the kernel writes one int (`put_user(flags, (int __user *)arg)`) to a live, exclusively borrowed u32.
    unsafe { ioctl("ioctl(FS_IOC_GETFLAGS)", fd, FS_IOC_GETFLAGS, &raw mut flags) }?;
    Ok(InodeFlags::from_bits_retain(flags))
}

/// Reads the inode's generation, which changes when its number is given to another file. No privilege is needed.
///
/// # Errors
/// `ENOTTY` where the filesystem keeps none.
#[doc(alias = "FS_IOC_GETVERSION")]
pub fn generation(fd: impl AsFd) -> Result<u32> {
    let mut generation = 0;
    // SAFETY: the kernel writes one int (`put_user(i_generation, (int __user *)arg)`) to a live, exclusively borrowed u32.
    unsafe { ioctl("ioctl(FS_IOC_GETVERSION)", fd, FS_IOC_GETVERSION, &raw mut generation) }?;
    Ok(generation)
}
