//! `FIDEDUPERANGE`: makes two files share blocks if, and only if, their contents are equal.
//!
//! Reference: ioctl_fideduperange(2); `vfs_dedupe_file_range()` in `fs/remap_range.c`. The kernel compares under the locks
//! of both inodes: it is a compare-and-swap of blocks.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::ioctl::ioctl;

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

#[doc(hidden)]
#[repr(C)]
pub struct RawDedupeOne {
    pub dedupe: RawDedupe,
    pub destination: RawDestination,
}

/// `_IOWR(0x94, 54, struct file_dedupe_range)`
#[doc(hidden)]
pub const FIDEDUPERANGE: u64 = nix::request_code_readwrite!(0x94, 54, size_of::<RawDedupe>());

/// The status of a destination whose contents differ.
#[doc(hidden)]
pub const FILE_DEDUPE_RANGE_DIFFERS: i32 = 1;

/// Makes `length` bytes of `destination` from `destination_offset` share the blocks of `source` from `source_offset`.
/// Returns how many bytes were equal and are shared now, or `None` where contents differ. Offsets and length are
/// multiples of the block size, but for a length that reaches the end of both files.
///
/// # Errors
/// `EPERM` for who may not write `destination`, or where it is immutable; `EINVAL` for unaligned ranges and past EOF;
/// `EXDEV` across filesystems; `EOPNOTSUPP` where the filesystem cannot share; `ETXTBSY`, `EDQUOT`, `ENOSPC`.
#[doc(alias = "FIDEDUPERANGE")]
pub fn dedupe(
    source: impl AsFd,
    source_offset: u64,
    length: u64,
    destination: impl AsFd,
    destination_offset: u64,
) -> Result<Option<u64>> {
    const CALL: &str = "ioctl(FIDEDUPERANGE)";
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
    unsafe { ioctl(CALL, source, FIDEDUPERANGE, call.cast::<RawDedupe>()) }?;
    // SAFETY: `call` points to a live local that nothing else borrows.
    let RawDestination { bytes_deduped, status, .. } = unsafe { (*call).destination };
    match status {
        0 => Ok(Some(bytes_deduped)),
        FILE_DEDUPE_RANGE_DIFFERS => Ok(None),
        errno => Err(Error { call: CALL, errno: Errno::from_raw(errno.saturating_neg()) }),
    }
}
