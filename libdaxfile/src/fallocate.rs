//! fallocate(2): allocates, frees and unshares blocks of a file.
//!
//! Linux 2.6.23 and later; which modes exist depends on filesystem and kernel. Needs a descriptor open for writing.
//!
//! Reference: fallocate(2); `vfs_fallocate()` in `fs/open.c`.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

use crate::error::{Error, Result, check};

bitflags::bitflags! {
    /// What to do, `FALLOC_FL_*`. Without any flag, fallocate(2) allocates unwritten blocks, and extends the file if the
    /// range reaches past its end.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Mode: i32 {
        /// Keep the size, also if the range reaches past the end.
        const KEEP_SIZE = 0x01;
        /// Free the blocks of the range. Needs `KEEP_SIZE`.
        const PUNCH_HOLE = 0x02;
        /// Remove the range, so that what follows moves down (XFS, ext4, f2fs).
        const COLLAPSE_RANGE = 0x08;
        /// Copy shared blocks, and fill holes with unwritten blocks (XFS).
        const UNSHARE_RANGE = 0x40;
        /// Allocate *written* zeros: Linux 6.17 and later, on devices that can unmap and write zeros.
        const WRITE_ZEROES = 0x80;
    }
}

/// Changes the allocation of `length` bytes from `offset`. Repeats a call that a signal interrupts.
///
/// # Errors
/// - `EOPNOTSUPP`: the filesystem or the device does not support the mode.
/// - `ENOSPC`: no space is left. ext4 may have allocated all that was left.
/// - `EDQUOT`: the quota has no room.
/// - `EPERM`: the file is immutable.
/// - `EFBIG`: the range ends past the largest size that a file can have.
/// - `EINVAL`: `length` is 0, or the mode cannot work with this offset or length.
/// - `EBADF`: the descriptor is not open for writing.
/// - `ETXTBSY`: the file is an active swapfile.
pub fn fallocate(fd: impl AsFd, mode: Mode, offset: u64, length: u64) -> Result<()> {
    const CALL: &str = "fallocate";
    let too_big = |_| Error { call: CALL, errno: Errno::EFBIG };
    let offset = libc::off64_t::try_from(offset).map_err(too_big)?;
    let length = libc::off64_t::try_from(length).map_err(too_big)?;
    loop {
        // SAFETY: integers, and a descriptor that is open for the borrow's length.
        let returned = unsafe { libc::fallocate64(fd.as_fd().as_raw_fd(), mode.bits(), offset, length) };
        match check(CALL, returned) {
            Err(Error { errno: Errno::EINTR, .. }) => {}
            result => return result.map(drop),
        }
    }
}
