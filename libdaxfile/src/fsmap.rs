//! `FS_IOC_GETFSMAP`: who owns which blocks of a filesystem.
//!
//! Reference: ioctl_getfsmap(2); `fs/xfs/xfs_fsmap.c`. XFS names the owners where it was made with rmapbt, and then only
//! to who has CAP_SYS_ADMIN; without either every used block's owner is unknown.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::ioctl::{encode_device, ioctl};

const CALL: &str = "ioctl(FS_IOC_GETFSMAP)";

/// Records fetched by one call.
const BATCH: usize = 1024;

bitflags::bitflags! {
    /// `FMR_OF_*`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct RecordFlags: u32 {
        /// Never written.
        const PREALLOC = 0x1;
        /// Extended attributes.
        const ATTR_FORK = 0x2;
        /// A block of the extent map itself.
        const EXTENT_MAP = 0x4;
        /// Somebody else has the blocks, too.
        const SHARED = 0x8;
        /// The owner is not an inode.
        const SPECIAL_OWNER = 0x10;
        /// The last record.
        const LAST = 0x20;
        const _ = !0;
    }
}

/// A piece of the device and one of its owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Where it starts on the device, in bytes.
    pub physical: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// The owner: an inode number, or under [`RecordFlags::SPECIAL_OWNER`] a code.
    pub owner: u64,
    /// Where it starts in the owner, in bytes; 0 for special owners.
    pub offset: u64,
    /// What is known of it.
    pub flags: RecordFlags,
}

/// The owner that the journal of XFS has (`XFS_FMR_OWN_LOG`).
pub const XFS_FMR_OWN_LOG: u64 = (b'X' as u64) << 32 | 2;
/// The owner that copy-on-write staging blocks of XFS have (`XFS_FMR_OWN_COW`).
pub const XFS_FMR_OWN_COW: u64 = (b'X' as u64) << 32 | 7;
/// The owner of what nobody is known to own (`FMR_OWN_UNKNOWN`).
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

#[doc(hidden)]
#[repr(C)]
pub struct RawQuery {
    pub head: RawHead,
    pub records: [RawRecord; BATCH],
}

/// `_IOWR('X', 59, struct fsmap_head)`
#[doc(hidden)]
pub const FS_IOC_GETFSMAP: u64 = nix::request_code_readwrite!(b'X', 59, size_of::<RawHead>());

/// The records of one of a filesystem's devices, in physical order, fetched 1,024 a call.
///
/// # Errors
/// Each item may be an error, and nothing follows one. `EINVAL` where the device is none of the filesystem's; `ENOTTY` or
/// `EOPNOTSUPP` where the filesystem has no such map.
#[doc(alias = "FS_IOC_GETFSMAP")]
pub struct Records<'fd> {
    fd: BorrowedFd<'fd>,
    query: Box<RawQuery>,
    fetched: VecDeque<Record>,
    done: bool,
}

impl<'fd> Records<'fd> {
    /// Reads the owners of `length` bytes from `physical` on the device `device` (major, minor), which is of the file's
    /// filesystem.
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
        let query = RawQuery { head, records: [RawRecord::default(); BATCH] };
        Records { fd: fd.as_fd(), query: Box::new(query), fetched: VecDeque::new(), done: length == 0 }
    }

    fn fetch(&mut self) -> Result<()> {
        #[expect(clippy::cast_possible_truncation, reason = "BATCH is a small constant")]
        let count = BATCH as u32;
        self.query.head.fmh_count = count;
        let query: *mut RawQuery = &raw mut *self.query;
        // SAFETY: `query` points to a head followed by room for the BATCH records that fmh_count announces, it is borrowed
        // exclusively, and every bit pattern the kernel may write is a valid value of these integer fields.
        unsafe { ioctl(CALL, self.fd, FS_IOC_GETFSMAP, query.cast::<RawHead>()) }?;
        let found = usize::try_from(self.query.head.fmh_entries).unwrap_or(BATCH).min(BATCH);
        let records = &self.query.records[..found];
        self.fetched.extend(records.iter().map(|raw| Record {
            physical: raw.fmr_physical,
            length: raw.fmr_length,
            owner: raw.fmr_owner,
            offset: raw.fmr_offset,
            flags: RecordFlags::from_bits_retain(raw.fmr_flags),
        }));
        match records.last() {
            Some(last) if last.fmr_flags & RecordFlags::LAST.bits() == 0 => {
                if self.query.head.fmh_keys[0].fmr_physical > last.fmr_physical {
                    return Err(Error { call: CALL, errno: Errno::EIO });
                }
                // The next call goes on behind the last record, which its length tells (`fsmap_advance()`).
                self.query.head.fmh_keys[0] = *last;
            }
            _ => self.done = true,
        }
        Ok(())
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.fetched.is_empty()
            && !self.done
            && let Err(error) = self.fetch()
        {
            self.done = true;
            return Some(Err(error));
        }
        self.fetched.pop_front().map(Ok)
    }
}
