//! Pages of a file that the kernel holds on to for somebody. Direct I/O, a FUSE server's answer that does not come, RDMA: what
//! was begun while the file could be written may store into such a page later, when flag and lease have long been set. That
//! changes the contents, but neither the map nor the mtime.
//!
//! Asked to forget a clean file, the page cache keeps what is mapped, and what is held. Where nobody else has the file open,
//! nothing is mapped, and what stays is held. Whether to read or to store, nobody tells.

use std::thread::park_timeout;
use std::time::Duration;

use libdaxfile::lease::{Kind, Lease};
use libdaxfile::{Errno, cachestat};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::error::{Error, Result};
use crate::file::target::Target;
use crate::status::Status;

/// Readers bring pages back at any time, and pages just read wait in batches of the processors'.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(5);

/// Looks for such pages of a file that was just synced, and that nobody may open for writing any more. Returns how many stay
/// that may be others' who have it open for reading; 0 on a kernel that does not count pages, as before Linux 6.5.
///
/// # Errors
/// Busy where pages stay that nobody has mapped.
pub(super) fn require_free(target: &Target) -> Result<u64> {
    let mut stay = forget(target);
    for _ in 1..ATTEMPTS {
        if stay == 0 {
            return Ok(0);
        }
        park_timeout(PAUSE);
        stay = forget(target);
    }
    match Lease::take(target, Kind::Write) {
        // Nobody else has it open, and nobody can open it now.
        Ok(_exclusive) => match forget(target) {
            0 => Ok(0),
            held => Err(Error::new(
                Status::Busy,
                format!(
                    "the kernel holds on to {held} of its pages, for I/O that may still store into them; try again when \
                     that has ended"
                ),
            )),
        },
        Err(error) if error.errno == Errno::EAGAIN => Ok(stay),
        Err(error) => Err(error.into()),
    }
}

/// Has the page cache forget the file, and counts the pages that stay.
fn forget(target: &Target) -> u64 {
    // What cannot be forgotten, or counted, is not found; no file is the worse for it.
    let _ = posix_fadvise(target, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    cachestat::count(target, 0..u64::MAX).map_or(0, |pages| pages.cached)
}
