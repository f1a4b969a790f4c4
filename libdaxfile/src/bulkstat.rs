//! `XFS_IOC_BULKSTAT`: the inodes of an XFS filesystem, many in one call, without opening any of them.
//!
//! Linux 5.19 and later on XFS. Needs `CAP_SYS_ADMIN` in the initial user namespace.
//!
//! Reference: ioctl_xfs_bulkstat(2); `xfs_ioc_bulkstat()` in `fs/xfs/xfs_ioctl.c`, `xfs_bulkstat()` in
//! `fs/xfs/xfs_itable.c`.

use std::collections::VecDeque;
use std::fmt::{self, Debug, Formatter};
use std::iter::FusedIterator;
use std::os::fd::{AsFd, BorrowedFd};

use crate::batches::{Batches, Fetch};
use crate::error::Result;
use crate::fsxattr::Xflags;
use crate::ioctl::Ioctl;
use crate::statx::Time;

/// Inodes fetched by one call: a buffer of 192 KiB.
const BATCH: u32 = 1024;

/// `struct xfs_bulk_ireq`.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawBulkRequest {
    pub ino: u64,
    pub flags: u32,
    pub icount: u32,
    pub ocount: u32,
    pub agno: u32,
    pub reserved: [u64; 5],
}

/// `struct xfs_bulkstat`.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawBulkstat {
    pub bs_ino: u64,
    pub bs_size: u64,
    pub bs_blocks: u64,
    pub bs_xflags: u64,
    pub bs_atime: i64,
    pub bs_mtime: i64,
    pub bs_ctime: i64,
    pub bs_btime: i64,
    pub bs_gen: u32,
    pub bs_uid: u32,
    pub bs_gid: u32,
    pub bs_projectid: u32,
    pub bs_atime_nsec: u32,
    pub bs_mtime_nsec: u32,
    pub bs_ctime_nsec: u32,
    pub bs_btime_nsec: u32,
    pub bs_blksize: u32,
    pub bs_rdev: u32,
    pub bs_cowextsize_blks: u32,
    pub bs_extsize_blks: u32,
    pub bs_nlink: u32,
    pub bs_extents: u32,
    pub bs_aextents: u32,
    pub bs_version: u16,
    pub bs_forkoff: u16,
    pub bs_sick: u16,
    pub bs_checked: u16,
    pub bs_mode: u16,
    pub bs_pad2: u16,
    pub bs_extents64: u64,
    pub bs_pad: [u64; 6],
}

/// `struct xfs_bulkstat_req` and the array behind it that one call fills.
#[doc(hidden)]
#[repr(C)]
pub struct RawBulkCall {
    pub request: RawBulkRequest,
    pub inodes: [RawBulkstat; BATCH as usize],
}

/// `_IOR('X', 127, struct xfs_bulkstat_req)`
#[doc(hidden)]
pub const XFS_IOC_BULKSTAT: Ioctl<RawBulkRequest> = Ioctl::read::<RawBulkRequest>("ioctl(XFS_IOC_BULKSTAT)", b'X', 127);
/// Return the count of extents in 64 bits (Linux 5.19); without this flag, the count has 32 bits.
#[doc(hidden)]
pub const XFS_BULK_IREQ_NREXT64: u32 = 1 << 2;

/// The state of an inode, as one record holds it. Sizes are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// Inode number.
    pub inode: u64,
    /// Generation: together with the number it names one file, as [`inode::generation`](crate::inode::generation) does.
    pub generation: u32,
    /// File type and permission bits, as in [`Statx::mode`](crate::statx::Statx::mode).
    pub mode: u16,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Size on disk: less than what stat(2) says while appended bytes wait to be written back.
    pub size: u64,
    /// Space allocated: data, map and attribute blocks, and blocks reserved for delayed allocation.
    pub allocated: u64,
    /// Time of the last change of the contents.
    pub mtime: Time,
    /// Time of the last change of the inode.
    pub ctime: Time,
    /// The flags that [`fsxattr::get`](crate::fsxattr::get) returns for the file, [`Xflags::HASATTR`] included.
    pub xflags: Xflags,
    /// Extents of the data fork.
    pub extents: u64,
}

impl From<&RawBulkstat> for Inode {
    fn from(raw: &RawBulkstat) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the kernel has 32 flags (xfs_ip2xflags())")]
        let xflags = Xflags::from_bits_retain(raw.bs_xflags as u32);
        Inode {
            inode: raw.bs_ino,
            generation: raw.bs_gen,
            mode: raw.bs_mode,
            nlink: raw.bs_nlink,
            uid: raw.bs_uid,
            size: raw.bs_size,
            allocated: raw.bs_blocks.saturating_mul(raw.bs_blksize.into()),
            mtime: Time { seconds: raw.bs_mtime, nanoseconds: raw.bs_mtime_nsec },
            ctime: Time { seconds: raw.bs_ctime, nanoseconds: raw.bs_ctime_nsec },
            xflags,
            extents: raw.bs_extents64,
        }
    }
}

/// Iterates over the inodes in use on the filesystem, by ascending number, 1,024 for each call.
///
/// Any descriptor on the filesystem serves. The filesystem's own inodes (quota, realtime bitmap) are left out. An inode that
/// was unlinked while open has `nlink` 0. The calls together are not atomic: an inode that is created or removed meanwhile
/// may be missing or may still be listed.
///
/// # Errors
/// Each item may be an error, and nothing follows an error.
/// - `EPERM`: the caller lacks `CAP_SYS_ADMIN`.
/// - `ENOTTY`: the filesystem is not XFS.
/// - `EINVAL`: the mount is idmapped, or the kernel is older than 5.19.
/// - `EIO`: the filesystem was shut down. `EUCLEAN` (`EFSCORRUPTED`): the next inode is damaged.
///
/// ```no_run
/// use libdaxfile::{bulkstat::Inodes, fsxattr::Xflags};
///
/// let root = std::fs::File::open("/srv/xfs")?;
/// for inode in Inodes::new(&root, 0) {
///     let inode = inode?;
///     if inode.xflags.contains(Xflags::IMMUTABLE) {
///         println!("inode {} generation {}: {} bytes", inode.inode, inode.generation, inode.size);
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "XFS_IOC_BULKSTAT")]
#[doc(alias = "xfs_bulkstat")]
#[must_use = "iterators do nothing unless consumed"]
pub struct Inodes<'fd>(Batches<Query<'fd>>);

struct Query<'fd> {
    fd: BorrowedFd<'fd>,
    call: Box<RawBulkCall>,
}

impl<'fd> Inodes<'fd> {
    /// Starts at the inode with the number `first`, or at the next one in use.
    pub fn new<F: AsFd + ?Sized>(fd: &'fd F, first: u64) -> Self {
        let request = RawBulkRequest { ino: first, flags: XFS_BULK_IREQ_NREXT64, ..RawBulkRequest::default() };
        let call = Box::new(RawBulkCall { request, inodes: [RawBulkstat::default(); BATCH as usize] });
        Inodes(Batches::new(Query { fd: fd.as_fd(), call }, false))
    }
}

impl Fetch for Query<'_> {
    type Item = Inode;

    fn fetch(&mut self) -> Result<(VecDeque<Inode>, bool)> {
        self.call.request.icount = BATCH;
        let call: *mut RawBulkCall = &raw mut *self.call;
        // SAFETY: `call` points to a request followed by room for the BATCH inodes that icount announces, it is borrowed
        // exclusively, and every bit pattern that the kernel may write is a valid value of these integer fields.
        unsafe { XFS_IOC_BULKSTAT.call(self.fd, call.cast::<RawBulkRequest>()) }?;
        // The kernel has left the inode that the next call begins with in `ino`.
        let found = self.call.request.ocount.min(BATCH) as usize;
        Ok((self.call.inodes[..found].iter().map(Inode::from).collect(), false))
    }
}

impl Iterator for Inodes<'_> {
    type Item = Result<Inode>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl FusedIterator for Inodes<'_> {}

impl Debug for Inodes<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Query { fd, call } = &self.0.source;
        let next = call.request.ino;
        f.debug_struct("Inodes").field("fd", fd).field("next", &next).finish_non_exhaustive()
    }
}
