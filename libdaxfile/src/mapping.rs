//! Mappings made with `MAP_SYNC`, through which a store is durable once its CPU cache lines are flushed.
//!
//! Reference: mmap(2); `daxdev_mapping_supported()` in `include/linux/dax.h`. The kernel grants one of a file that is
//! accessed as DAX, on a device that needs nothing but such flushes (of virtio-pmem it does not).

use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use nix::errno::Errno;

use crate::error::{Error, Result, check};

/// Whether the kernel grants a mapping of the file with `MAP_SYNC`: makes one of a page, which allows no access, and takes
/// it away. The file's size does not matter. It needs a descriptor open for reading, and counts as an access: the access
/// time changes as by read(2), unless the descriptor has `O_NOATIME`.
///
/// # Errors
/// `EACCES` without read access, or where a security module refuses; others of mmap(2).
#[doc(alias = "MAP_SYNC")]
pub fn grants_sync(fd: impl AsFd) -> Result<bool> {
    let flags = libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC;
    // SAFETY: a new mapping, at a place of the kernel's choice, over nothing that is there.
    let start = unsafe { libc::mmap(ptr::null_mut(), 1, libc::PROT_NONE, flags, fd.as_fd().as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return match Errno::last() {
            Errno::EOPNOTSUPP => Ok(false),
            errno => Err(Error { call: "mmap(MAP_SYNC)", errno }),
        };
    }
    // SAFETY: it ends the mapping that was just made, and to which nobody else has the address.
    check("munmap", unsafe { libc::munmap(start, 1) })?;
    Ok(true)
}
