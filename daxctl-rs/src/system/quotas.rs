//! Files that store disk quotas: the kernel writes to them and extends them, whatever their flags.

use std::os::fd::AsFd;

use libdaxfile::quota;
use nix::sys::uio::pread;

use crate::error::{Result, ResultExt};

/// The first bytes of such a file, for users, groups and projects: `V2_INITQMAGICS` in `fs/quota/quotaio_v2.h`.
const MAGIC: [u32; 3] = [0xd9c0_1f11, 0xd9c0_1927, 0xd9c0_3f14];

/// No device that Linux supports has larger sectors.
const SECTOR: usize = 4096;

/// `V2_DQBLKSIZE_BITS`
const BLOCK: u64 = 1024;

/// Whether quotas are on, and this inode of the filesystem stores them.
///
/// # Errors
/// An error of quotactl_fd(2).
pub(crate) fn kept_in(fd: impl AsFd, inode: u64) -> Result<bool> {
    Ok(quota::files(fd)?.contains(&inode))
}

/// Whether a file of `size` bytes has the format of a quota file, so that quotaon(8) would accept it.
///
/// # Errors
/// An error of pread(2).
pub(crate) fn has_form(file: impl AsFd, size: u64) -> Result<bool> {
    if size < 2 * BLOCK || !size.is_multiple_of(BLOCK) {
        return Ok(false);
    }
    // alloc and prepare have the file open for direct I/O, which reads whole sectors into aligned memory.
    let mut buffer = vec![0; 2 * SECTOR];
    let start = buffer.as_ptr().align_offset(SECTOR).min(SECTOR);
    let sector = &mut buffer[start..start + SECTOR];
    let read = pread(file, sector, 0).call("pread")?;
    let magic = sector[..read].first_chunk().map(|magic| u32::from_le_bytes(*magic));
    Ok(magic.is_some_and(|magic| MAGIC.contains(&magic)))
}
