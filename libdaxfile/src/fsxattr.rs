//! `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR`: the flags, project id and extent-size hints of an inode. They make a file
//! immutable, which fixes its extent map on stock kernels.
//!
//! Linux 4.5 and later (XFS: always), on XFS, ext4, f2fs, btrfs and others. Reading needs no privilege. Writing needs
//! ownership of the file or `CAP_FOWNER`; changing IMMUTABLE or APPEND needs `CAP_LINUX_IMMUTABLE`.
//!
//! Reference: `ioctl_fsgetxattr()` and `ioctl_fssetxattr()` in `fs/ioctl.c` (in `fs/file_attr.c` since 6.17),
//! `vfs_fileattr_set()`; ioctl_xfs_fsgetxattr(2).

use std::os::fd::AsFd;

use crate::error::Result;
use crate::ioctl::Ioctl;

bitflags::bitflags! {
    /// The flags of an inode, `FS_XFLAG_*`. Flags that this crate does not know are kept, so that reading and
    /// writing back changes nothing else.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Xflags: u32 {
        /// The data is on the realtime device (XFS).
        const REALTIME = 0x0000_0001;
        /// Blocks were preallocated past EOF (XFS).
        const PREALLOC = 0x0000_0002;
        /// The file cannot be changed, renamed or removed. XFS does not check this for descriptors that were open for writing
        /// before.
        const IMMUTABLE = 0x0000_0008;
        /// Writes can only append.
        const APPEND = 0x0000_0010;
        /// Writes are synchronous.
        const SYNC = 0x0000_0020;
        /// Reads do not change the access time.
        const NOATIME = 0x0000_0040;
        /// Backup programs such as dump(8) skip the file.
        const NODUMP = 0x0000_0080;
        /// New files in this directory go to the realtime device.
        const RTINHERIT = 0x0000_0100;
        /// New files in this directory get its project id.
        const PROJINHERIT = 0x0000_0200;
        /// No symbolic links can be created in this directory.
        const NOSYMLINKS = 0x0000_0400;
        /// The hint `extsize` is in effect.
        const EXTSIZE = 0x0000_0800;
        /// New files in this directory get its `extsize`.
        const EXTSZINHERIT = 0x0000_1000;
        /// Defragmenters skip the file.
        const NODEFRAG = 0x0000_2000;
        /// The filestream allocator places the file (XFS).
        const FILESTREAM = 0x0000_4000;
        /// DAX is requested.
        const DAX = 0x0000_8000;
        /// The hint `cowextsize` is in effect.
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
    /// Extent-size hint, in bytes.
    pub extsize: u32,
    /// Number of extents of the data fork (XFS; 0 elsewhere). Read only.
    pub nextents: u32,
    /// Project id, for quotas.
    pub projid: u32,
    /// Copy-on-write extent-size hint, in bytes (XFS).
    pub cowextsize: u32,
    pad: [u8; 8],
}

impl Fsxattr {
    /// Returns the flags.
    #[must_use]
    pub fn xflags(&self) -> Xflags {
        Xflags::from_bits_retain(self.xflags)
    }

    /// Returns the same attributes with these flags.
    #[must_use]
    pub fn with_xflags(self, xflags: Xflags) -> Self {
        Fsxattr { xflags: xflags.bits(), ..self }
    }
}

/// `_IOR('X', 31, struct fsxattr)`
#[doc(hidden)]
pub const FS_IOC_FSGETXATTR: Ioctl<Fsxattr> = Ioctl::read::<Fsxattr>("ioctl(FS_IOC_FSGETXATTR)", b'X', 31);
/// `_IOW('X', 32, struct fsxattr)`
#[doc(hidden)]
pub const FS_IOC_FSSETXATTR: Ioctl<Fsxattr> = Ioctl::write::<Fsxattr>("ioctl(FS_IOC_FSSETXATTR)", b'X', 32);

/// Returns the attributes of the inode. Needs no privilege.
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
/// `ENOTTY` or `EOPNOTSUPP`: the filesystem has no such attributes.
#[doc(alias = "FS_IOC_FSGETXATTR")]
pub fn get(fd: impl AsFd) -> Result<Fsxattr> {
    let mut attributes = Fsxattr::default();
    // SAFETY: the pointer is to a live, exclusively borrowed `struct fsxattr` of integers, which the kernel fills.
    unsafe { FS_IOC_FSGETXATTR.call(fd, &raw mut attributes) }?;
    Ok(attributes)
}

/// Writes the attributes of the inode, all of them in one step.
///
/// The change is durable after the next fsync(2). Start from what [`get`] returned, so that nothing else changes. ext4
/// accepts NODEFRAG and drops it: read back what matters.
///
/// # Errors
/// - `EPERM`: the caller neither owns the file nor has `CAP_FOWNER`, or changes IMMUTABLE or APPEND without
///   `CAP_LINUX_IMMUTABLE`. Under IMMUTABLE, ext4 refuses changes of other flags, too.
/// - `EROFS`: the mount or the filesystem is read-only.
/// - `EINVAL`: the filesystem cannot make this change on this file; for example, XFS cannot change `extsize` or REALTIME of
///   a file that has extents.
/// - `ENOTTY` or `EOPNOTSUPP`: the filesystem has no such attributes.
#[doc(alias = "FS_IOC_FSSETXATTR")]
pub fn set(fd: impl AsFd, attributes: &Fsxattr) -> Result<()> {
    // SAFETY: the pointer is to a live `struct fsxattr`, which the kernel only reads.
    unsafe { FS_IOC_FSSETXATTR.call(fd, (&raw const *attributes).cast_mut()) }
}
