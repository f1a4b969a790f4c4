//! `FS_IOC_GETFSMAP`: the owners of the blocks of a filesystem.
//!
//! Linux 4.12 and later, on XFS and ext4. Needs no privilege, but XFS names owners only if the filesystem has a reverse map
//! (`mkfs.xfs -m rmapbt=1`) and the caller has `CAP_SYS_ADMIN`; otherwise the owner of every used block is
//! [`FMR_OWN_UNKNOWN`]. ext4 names the owners of its own metadata only.
//!
//! Reference: ioctl_getfsmap(2); `xfs_getfsmap()` in `fs/xfs/xfs_fsmap.c`, `ext4_getfsmap()` in `fs/ext4/fsmap.c`.

use std::collections::VecDeque;
use std::fmt::{self, Debug, Formatter};
use std::iter::FusedIterator;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use crate::batches::{Batches, Fetch};
use crate::error::Result;
use crate::ioctl::{Ioctl, encode_device};

/// Records fetched by one call.
const BATCH: u32 = 1024;

bitflags::bitflags! {
    /// The flags of a record, `FMR_OF_*`. Flags that this crate does not know are kept.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct RecordFlags: u32 {
        /// Allocated but never written.
        const PREALLOC = 0x1;
        /// Blocks of extended attributes.
        const ATTR_FORK = 0x2;
        /// Blocks of the owner's extent map itself.
        const EXTENT_MAP = 0x4;
        /// The blocks have other owners, too.
        const SHARED = 0x8;
        /// The owner is a code of the filesystem, not an inode number.
        const SPECIAL_OWNER = 0x10;
        /// The last record of the filesystem.
        const LAST = 0x20;
        const _ = !0;
    }
}

/// A range of the device and one of its owners. Offsets and length are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Offset on the device.
    pub physical: u64,
    /// Length.
    pub length: u64,
    /// The owner: an inode number or, with [`RecordFlags::SPECIAL_OWNER`], a code.
    pub owner: u64,
    /// Offset in the owner; 0 for special owners.
    pub offset: u64,
    /// Flags.
    pub flags: RecordFlags,
}

/// Special owner on XFS: the journal.
pub const XFS_FMR_OWN_LOG: u64 = (b'X' as u64) << 32 | 2;
/// Special owner on XFS: blocks reserved for copy-on-write.
pub const XFS_FMR_OWN_COW: u64 = (b'X' as u64) << 32 | 7;
/// Special owner on every filesystem: the blocks are in use, and the owner is not known.
pub const FMR_OWN_UNKNOWN: u64 = 2;

/// `struct fsmap`.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawRecord {
    pub fmr_device: u32,
    pub fmr_flags: u32,
    pub fmr_physical: u64,
    pub fmr_owner: u64,
    pub fmr_offset: u64,
    pub fmr_length: u64,
    pub fmr_reserved: [u64; 3],
}

/// `struct fsmap_head` without its flexible array.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawHead {
    pub fmh_iflags: u32,
    pub fmh_oflags: u32,
    pub fmh_count: u32,
    pub fmh_entries: u32,
    pub fmh_reserved: [u64; 6],
    pub fmh_keys: [RawRecord; 2],
}

/// `struct fsmap_head` and the array behind it that one call fills.
#[doc(hidden)]
#[repr(C)]
pub struct RawQuery {
    pub head: RawHead,
    pub records: [RawRecord; BATCH as usize],
}

/// `_IOWR('X', 59, struct fsmap_head)`
#[doc(hidden)]
pub const FS_IOC_GETFSMAP: Ioctl<RawHead> = Ioctl::read_write::<RawHead>("ioctl(FS_IOC_GETFSMAP)", b'X', 59);

/// Iterates over the records of one device of a filesystem, in physical order, 1,024 for each call.
///
/// A block with several owners has a record for each. The calls together are not atomic.
///
/// # Errors
/// Each item may be an error, and nothing follows an error.
/// - `EINVAL`: the device does not belong to the filesystem.
/// - `ENOTTY` or `EOPNOTSUPP`: the filesystem has no such map.
/// - `EIO`: the kernel's answer does not advance; also an I/O error of the device.
#[doc(alias = "FS_IOC_GETFSMAP")]
#[must_use = "iterators do nothing unless consumed"]
pub struct Records<'fd>(Batches<Query<'fd>>);

struct Query<'fd> {
    fd: BorrowedFd<'fd>,
    raw: Box<RawQuery>,
}

impl<'fd> Records<'fd> {
    /// Reads the owners of `length` bytes from offset `physical` on a device (major, minor). `fd` is any file on the
    /// filesystem that the device belongs to.
    pub fn new<F: AsFd + ?Sized>(fd: &'fd F, device: (u32, u32), physical: u64, length: u64) -> Self {
        let device = encode_device(device);
        let low = RawRecord { fmr_device: device, fmr_physical: physical, ..RawRecord::default() };
        let high = RawRecord {
            fmr_device: device,
            fmr_flags: u32::MAX,
            fmr_physical: physical.saturating_add(length - u64::from(length > 0)),
            fmr_owner: u64::MAX,
            fmr_offset: u64::MAX,
            ..RawRecord::default()
        };
        let head = RawHead { fmh_keys: [low, high], ..RawHead::default() };
        let raw = Box::new(RawQuery { head, records: [RawRecord::default(); BATCH as usize] });
        Records(Batches::new(Query { fd: fd.as_fd(), raw }, length == 0))
    }
}

impl Fetch for Query<'_> {
    type Item = Record;

    fn fetch(&mut self) -> Result<(VecDeque<Record>, bool)> {
        self.raw.head.fmh_count = BATCH;
        let query: *mut RawQuery = &raw mut *self.raw;
        // SAFETY: `query` points to a head followed by room for the BATCH records that fmh_count announces, it is borrowed
        // exclusively, and every bit pattern that the kernel may write is a valid value of these integer fields.
        unsafe { FS_IOC_GETFSMAP.call(self.fd, query.cast::<RawHead>()) }?;
        let found = self.raw.head.fmh_entries.min(BATCH) as usize;
        let records = &self.raw.records[..found];
        let items = records.iter().map(|raw| Record {
            physical: raw.fmr_physical,
            length: raw.fmr_length,
            owner: raw.fmr_owner,
            offset: raw.fmr_offset,
            flags: RecordFlags::from_bits_retain(raw.fmr_flags),
        });
        let items = items.collect();
        match records.last() {
            Some(last) if last.fmr_flags & RecordFlags::LAST.bits() == 0 => {
                if self.raw.head.fmh_keys[0].fmr_physical > last.fmr_physical {
                    return Err(FS_IOC_GETFSMAP.error(Errno::EIO));
                }
                // With the length of the last record in the key, the kernel continues behind it (`fsmap_advance()`).
                self.raw.head.fmh_keys[0] = *last;
                Ok((items, false))
            }
            _ => Ok((items, true)),
        }
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl FusedIterator for Records<'_> {}

impl Debug for Records<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Query { fd, raw } = &self.0.source;
        let next = raw.head.fmh_keys[0].fmr_physical;
        f.debug_struct("Records").field("fd", fd).field("next", &next).finish_non_exhaustive()
    }
}
