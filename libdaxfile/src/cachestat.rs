//! cachestat(2): how many pages of a file are in the page cache.
//!
//! Linux 6.5 and later, on every filesystem but hugetlbfs.
//!
//! Reference: cachestat(2); `SYSCALL_DEFINE4(cachestat)` and `can_do_cachestat()` in `mm/filemap.c`,
//! `include/uapi/linux/mman.h`.

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

use crate::error::{Error, Result};

/// `struct cachestat_range`.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawRange {
    pub off: u64,
    pub len: u64,
}

/// `struct cachestat`.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawCachestat {
    pub nr_cache: u64,
    pub nr_dirty: u64,
    pub nr_writeback: u64,
    pub nr_evicted: u64,
    pub nr_recently_evicted: u64,
}

/// libc does not name the call on all architectures. From 424 on, a call's number has the same distance to openat2(2)
/// (437) on every one of them.
#[doc(hidden)]
pub const SYS_CACHESTAT: libc::c_long = libc::SYS_openat2 - 437 + 451;

/// Counts of pages, each of `sysconf(_SC_PAGESIZE)` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pages {
    /// In the page cache.
    pub cached: u64,
    /// Of these, not yet written back.
    pub dirty: u64,
    /// Of these, being written back now.
    pub writeback: u64,
}

/// Counts the pages of a file that hold bytes of `range`, in bytes; an empty range has none.
///
/// The kernel counts under RCU, without locks: while other tasks read, write or evict pages, the counts are estimates.
///
/// Since Linux 6.14, and in stable kernels with the same fix, the call needs a descriptor open for writing, or ownership of
/// the file, or `CAP_FOWNER`, or permission to write to the file. Before, any descriptor serves.
///
/// # Errors
/// - `ENOSYS`: the kernel is older than 6.5.
/// - `EPERM`: the caller has none of the rights above.
/// - `EOPNOTSUPP`: the file is on hugetlbfs.
/// - `EBADF`: the descriptor was opened with `O_PATH`.
///
/// ```
/// use libdaxfile::{cachestat, Errno};
///
/// let file = std::fs::File::open("/proc/self/exe")?;
/// match cachestat::count(&file, 0..u64::MAX) {
///     Ok(pages) => println!("{} pages cached, {} of them dirty", pages.cached, pages.dirty),
///     Err(error) => assert_eq!(error.errno, Errno::ENOSYS),
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "cachestat")]
pub fn count(fd: impl AsFd, range: Range<u64>) -> Result<Pages> {
    if range.is_empty() {
        return Ok(Pages::default()); // To the kernel, a length of 0 means "to the end of the file".
    }
    let raw_range = RawRange { off: range.start, len: range.end - range.start };
    let mut raw = RawCachestat::default();
    let no_flags: libc::c_uint = 0;
    // SAFETY: both structures live through the call, the kernel reads the first and fills the second, which is borrowed
    // exclusively and consists of integers.
    let returned =
        unsafe { libc::syscall(SYS_CACHESTAT, fd.as_fd().as_raw_fd(), &raw const raw_range, &raw mut raw, no_flags) };
    Errno::result(returned).map_err(|errno| Error { call: "cachestat", errno })?;
    Ok(Pages { cached: raw.nr_cache, dirty: raw.nr_dirty, writeback: raw.nr_writeback })
}
