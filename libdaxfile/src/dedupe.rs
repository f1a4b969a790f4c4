//! `FIDEDUPERANGE`: makes two files share blocks if, and only if, their contents are equal.
//!
//! Linux 4.5 and later, on XFS with reflink (since 4.9) and btrfs. The kernel compares the contents while it holds the locks
//! of both inodes, so that the call is a compare-and-swap of blocks. Needs a readable source, and a destination that is open
//! for writing or that the caller may write to.
//!
//! Reference: ioctl_fideduperange(2); `vfs_dedupe_file_range()` in `fs/remap_range.c`.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

use crate::error::Result;
use crate::ioctl::Ioctl;

/// `struct file_dedupe_range_info`.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawDestination {
    pub dest_fd: i64,
    pub dest_offset: u64,
    pub bytes_deduped: u64,
    pub status: i32,
    pub reserved: u32,
}

/// `struct file_dedupe_range` without its flexible array.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawDedupe {
    pub src_offset: u64,
    pub src_length: u64,
    pub dest_count: u16,
    pub reserved1: u16,
    pub reserved2: u32,
}

/// `struct file_dedupe_range` and one element of its array.
#[doc(hidden)]
#[repr(C)]
pub struct RawDedupeOne {
    pub dedupe: RawDedupe,
    pub destination: RawDestination,
}

/// `_IOWR(0x94, 54, struct file_dedupe_range)`
#[doc(hidden)]
pub const FIDEDUPERANGE: Ioctl<RawDedupe> = Ioctl::read_write::<RawDedupe>("ioctl(FIDEDUPERANGE)", 0x94, 54);

/// Status of a destination whose contents differ.
#[doc(hidden)]
pub const FILE_DEDUPE_RANGE_DIFFERS: i32 = 1;

/// Makes `length` bytes of `destination` from `destination_offset` share the blocks of `source` from `source_offset`, if both
/// ranges hold the same bytes.
///
/// Returns how many bytes were equal and are shared now; `None` if the contents differ. The kernel may stop early: continue
/// behind those bytes. Offsets and length are in bytes and must be multiples of the block size, except that a range may
/// end where both files end.
///
/// # Errors
/// - `EPERM`: the caller may not write to `destination`, or `destination` is immutable.
/// - `EINVAL`: a range is not aligned or reaches past EOF.
/// - `EXDEV`: the files are on different filesystems.
/// - `EOPNOTSUPP`: the filesystem cannot share blocks.
/// - `ETXTBSY`: a file is an active swapfile.
/// - `EDQUOT`, `ENOSPC`: the quota or the filesystem has no room for the longer map.
#[doc(alias = "FIDEDUPERANGE")]
pub fn dedupe(
    source: impl AsFd,
    source_offset: u64,
    length: u64,
    destination: impl AsFd,
    destination_offset: u64,
) -> Result<Option<u64>> {
    let mut call = RawDedupeOne {
        dedupe: RawDedupe { src_offset: source_offset, src_length: length, dest_count: 1, ..RawDedupe::default() },
        destination: RawDestination {
            dest_fd: destination.as_fd().as_raw_fd().into(),
            dest_offset: destination_offset,
            ..RawDestination::default()
        },
    };
    let call = &raw mut call;
    // SAFETY: dest_count announces the one live destination that follows the head; the kernel reads both and writes
    // integers to the destination. Both descriptors are open for their borrows' length.
    unsafe { FIDEDUPERANGE.call(source, call.cast::<RawDedupe>()) }?;
    // SAFETY: `call` points to a live local that nothing else borrows.
    let RawDestination { bytes_deduped, status, .. } = unsafe { (*call).destination };
    match status {
        0 => Ok(Some(bytes_deduped)),
        FILE_DEDUPE_RANGE_DIFFERS => Ok(None),
        errno => Err(FIDEDUPERANGE.error(Errno::from_raw(errno.saturating_neg()))),
    }
}
