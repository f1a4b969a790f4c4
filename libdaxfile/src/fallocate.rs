//! fallocate(2): changes of a file's allocation.
//!
//! Reference: fallocate(2); `vfs_fallocate()` in `fs/open.c`.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

use crate::error::{Error, Result, check};

bitflags::bitflags! {
    /// `FALLOC_FL_*`; no flag at all allocates, unwritten, and extends the file where the range passes its end.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Mode: i32 {
        /// The size stays.
        const KEEP_SIZE = 0x01;
        /// Blocks are given back; goes with `KEEP_SIZE`.
        const PUNCH_HOLE = 0x02;
        /// The range is taken out and what follows moves down.
        const COLLAPSE_RANGE = 0x08;
        /// The range becomes unwritten.
        const ZERO_RANGE = 0x10;
        /// What follows moves up.
        const INSERT_RANGE = 0x20;
        /// Shared blocks are copied, holes are filled with unwritten blocks.
        const UNSHARE_RANGE = 0x40;
        /// Allocates *written* zeros: Linux 6.17, and only over devices that can unmap and write zeros.
        const WRITE_ZEROES = 0x80;
    }
}

/// Changes the allocation of `length` bytes from `offset`; an interrupted call is made again.
///
/// # Errors
/// `EOPNOTSUPP` where filesystem or device does not know the mode, `ENOSPC`, `EPERM` on an immutable file, `EFBIG`,
/// `EINVAL` for an offset or length that the mode cannot take. The descriptor must be open for writing (`EBADF`).
pub fn fallocate(fd: impl AsFd, mode: Mode, offset: u64, length: u64) -> Result<()> {
    const CALL: &str = "fallocate";
    let too_big = |_| Error { call: CALL, errno: Errno::EFBIG };
    let offset = libc::off64_t::try_from(offset).map_err(too_big)?;
    let length = libc::off64_t::try_from(length).map_err(too_big)?;
    loop {
        // SAFETY: plain integers and a descriptor that is open for the borrow's length.
        let returned = unsafe { libc::fallocate64(fd.as_fd().as_raw_fd(), mode.bits(), offset, length) };
        match check(CALL, returned) {
            Err(Error { errno: Errno::EINTR, .. }) => {}
            result => return result.map(drop),
        }
    }
}
