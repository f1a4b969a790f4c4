//! `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR`: the inode's flags, project and hints; on stock kernels this is the
//! ioctl that sets up a daxfile.
//!
//! Reference: `fs/ioctl.c` (`ioctl_fsgetxattr`, `ioctl_fssetxattr`; `fs/file_attr.c` since 6.17); ioctl_xfs_fsgetxattr(2).

use std::os::fd::AsFd;

use crate::error::Result;
use crate::ioctl::ioctl;

bitflags::bitflags! {
    /// `FS_XFLAG_*`; unknown bits are kept, so that writing back what was read changes nothing else.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Xflags: u32 {
        /// The data is on the realtime device.
        const REALTIME = 0x0000_0001;
        /// Blocks were preallocated past EOF.
        const PREALLOC = 0x0000_0002;
        /// The file cannot be modified.
        const IMMUTABLE = 0x0000_0008;
        /// Writes must append.
        const APPEND = 0x0000_0010;
        /// Writes are synchronous.
        const SYNC = 0x0000_0020;
        /// Access times stay.
        const NOATIME = 0x0000_0040;
        /// Backup programs skip the file.
        const NODUMP = 0x0000_0080;
        /// New files in this directory go to the realtime device.
        const RTINHERIT = 0x0000_0100;
        /// New files in this directory take its project.
        const PROJINHERIT = 0x0000_0200;
        /// No symbolic links in this directory.
        const NOSYMLINKS = 0x0000_0400;
        /// `extsize` holds.
        const EXTSIZE = 0x0000_0800;
        /// New files in this directory take its `extsize`.
        const EXTSZINHERIT = 0x0000_1000;
        /// Defragmenters leave the file alone.
        const NODEFRAG = 0x0000_2000;
        /// The filestream allocator is used.
        const FILESTREAM = 0x0000_4000;
        /// DAX is asked for.
        const DAX = 0x0000_8000;
        /// `cowextsize` holds.
        const COWEXTSIZE = 0x0001_0000;
        /// fs-verity is on (read only).
        const VERITY = 0x0002_0000;
        /// The inode has room for extended attributes, and may have some (read only). XFS makes that room for each new
        /// file where a security module labels files.
        const HASATTR = 0x8000_0000;
        const _ = !0;
    }
}

/// `struct fsxattr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fsxattr {
    xflags: u32,
    /// Extent-size hint in bytes.
    pub extsize: u32,
    /// Extents of the data fork (XFS; 0 elsewhere). Read only.
    pub nextents: u32,
    /// Project id.
    pub projid: u32,
    /// Copy-on-write extent-size hint in bytes (XFS).
    pub cowextsize: u32,
    pad: [u8; 8],
}

impl Fsxattr {
    /// The flags.
    #[must_use]
    pub fn xflags(&self) -> Xflags {
        Xflags::from_bits_retain(self.xflags)
    }

    /// The same attributes with other flags.
    #[must_use]
    pub fn with_xflags(self, xflags: Xflags) -> Self {
        Fsxattr { xflags: xflags.bits(), ..self }
    }
}

/// `_IOR('X', 31, struct fsxattr)`
#[doc(hidden)]
pub const FS_IOC_FSGETXATTR: u64 = nix::request_code_read!(b'X', 31, size_of::<Fsxattr>());
/// `_IOW('X', 32, struct fsxattr)`
#[doc(hidden)]
pub const FS_IOC_FSSETXATTR: u64 = nix::request_code_write!(b'X', 32, size_of::<Fsxattr>());

/// Reads the inode's attributes. No privilege is needed.
///
/// ```
/// use libdaxfile::fsxattr::{self, Xflags};
/// use libdaxfile::Errno;
///
/// let file = std::fs::File::open("/proc/self/exe")?;
/// match fsxattr::get(&file) {
///     Ok(attributes) => println!("immutable: {}", attributes.xflags().contains(Xflags::IMMUTABLE)),
///     Err(error) => assert!([Errno::ENOTTY, Errno::EOPNOTSUPP].contains(&error.errno), "{error}"),
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// `ENOTTY` or `EOPNOTSUPP` where the filesystem has none.
#[doc(alias = "FS_IOC_FSGETXATTR")]
pub fn get(fd: impl AsFd) -> Result<Fsxattr> {
    let mut attributes = Fsxattr::default();
    // SAFETY: the pointer is to a live, exclusively borrowed `struct fsxattr` of integers, which the kernel fills.
    unsafe { ioctl("ioctl(FS_IOC_FSGETXATTR)", fd, FS_IOC_FSGETXATTR, &raw mut attributes) }?;
    Ok(attributes)
}

/// Writes the inode's attributes, all of them in one step. Durable after the next fsync(2).
///
/// # Errors
/// `EPERM` for who neither owns the file nor has CAP_FOWNER, or changes IMMUTABLE or APPEND without
/// CAP_LINUX_IMMUTABLE; `EROFS`; `EINVAL` for what the filesystem cannot do on this file.
#[doc(alias = "FS_IOC_FSSETXATTR")]
pub fn set(fd: impl AsFd, attributes: &Fsxattr) -> Result<()> {
    // SAFETY: the pointer is to a live `struct fsxattr`, which the kernel only reads.
    unsafe { ioctl("ioctl(FS_IOC_FSSETXATTR)", fd, FS_IOC_FSSETXATTR, (&raw const *attributes).cast_mut()) }?;
    Ok(())
}
