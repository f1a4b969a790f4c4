//! `MAP_SYNC`: mappings through which a store is durable as soon as its CPU cache lines are flushed.
//!
//! Linux 4.15 and later, on XFS and ext4. The kernel grants such a mapping for a file that it accesses with DAX, on a device
//! that needs nothing but those flushes; virtio-pmem needs more, and gets none. Needs read access to the file.
//!
//! Reference: mmap(2); `daxdev_mapping_supported()` in `include/linux/dax.h`.

use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use nix::errno::Errno;

use crate::error::{Error, Result, check};

/// Returns whether the kernel grants a mapping of the file with `MAP_SYNC`, by mapping one page without access rights and
/// unmapping it.
///
/// The size of the file does not matter. The call changes the access time as read(2) does, unless the descriptor was opened
/// with `O_NOATIME`.
///
/// # Errors
/// - `EACCES`: the descriptor is not open for reading, or a security module refuses.
/// - `ENODEV`: the filesystem cannot map files. `ENOMEM`: the process has too many mappings.
#[doc(alias = "MAP_SYNC")]
pub fn grants_sync(fd: impl AsFd) -> Result<bool> {
    let flags = libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC;
    // SAFETY: a new mapping at an address that the kernel chooses, which replaces nothing.
    let start = unsafe { libc::mmap(ptr::null_mut(), 1, libc::PROT_NONE, flags, fd.as_fd().as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return match Errno::last() {
            Errno::EOPNOTSUPP => Ok(false),
            errno => Err(Error { call: "mmap(MAP_SYNC)", errno }),
        };
    }
    // SAFETY: this unmaps the mapping made above, whose address nothing else has.
    check("munmap", unsafe { libc::munmap(start, 1) })?;
    Ok(true)
}
