//! Detects pages of a file that the kernel holds for another user. Direct I/O, a FUSE server's pending answer or RDMA
//! may have begun while the file was still writable, and may store into such a page long after flag and lease are set.
//! Such a store changes the contents, but neither the map nor the mtime.
//!
//! When asked to drop a clean file's pages, the page cache keeps the pages that are mapped or held. If no other process
//! has the file open, nothing is mapped, and every page that stays is held. The kernel does not report whether the
//! holder reads or stores.

use std::thread::park_timeout;
use std::time::Duration;

use libdaxfile::lease::{Kind, Lease};
use libdaxfile::{Errno, cachestat};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::error::{Error, Result};
use crate::file::target::Target;
use crate::status::Status;

/// Readers bring pages back at any time, and pages just read wait in per-processor batches.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(5);

/// Looks for such pages of a file that was just synced and that no process can open for writing any more. Returns the
/// number of pages that stay, and that may belong to processes with the file open for reading. Returns 0 on a kernel
/// that does not count pages, that is, before Linux 6.5.
///
/// # Errors
/// Busy if pages stay that no process has mapped.
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
        // No other process has the file open, and none can open it now.
        Ok(_exclusive) => match forget(target) {
            0 => Ok(0),
            held => Err(Error::new(
                Status::Busy,
                format!(
                    "busy: the kernel holds {held} of its pages for I/O that may still store into them; try again when \
                     that I/O has ended"
                ),
            )),
        },
        Err(error) if error.errno == Errno::EAGAIN => Ok(stay),
        Err(error) => Err(error.into()),
    }
}

/// Asks the page cache to drop the file, and counts the pages that stay.
fn forget(target: &Target) -> u64 {
    // Pages that the kernel cannot drop or count stay undetected. That does the file no harm.
    let _ = posix_fadvise(target, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    cachestat::count(target, 0..u64::MAX).map_or(0, |pages| pages.cached)
}
