//! File leases (`F_SETLEASE`): proof that no other process has the file open, and notice when one opens it.
//!
//! Linux 2.4 and later, on most local filesystems. Needs ownership of the file or `CAP_LEASE`.
//!
//! The kernel grants a read lease only if no process has the file open for writing; a writable mapping and a read-write loop
//! device count as such. It grants a write lease only if no other descriptor has the file open at all. An open(2) or
//! truncation that conflicts with a lease waits until the holder releases it, at most `/proc/sys/fs/lease-break-time`
//! seconds (45 by default); then the kernel breaks the lease. With `O_NONBLOCK`, open(2) fails at once with `EWOULDBLOCK`,
//! and the lease counts as disturbed all the same.
//!
//! Reference: fcntl(2), section "Leases"; `generic_add_lease()` and `__break_lease()` in `fs/locks.c`.

use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

use crate::error::{Error, Result, check};

#[doc(hidden)]
pub const F_SETSIG: libc::c_int = 10;

static SIGNAL_IGNORED: AtomicBool = AtomicBool::new(false);

/// Makes the process ignore `SIGIO`, by which the kernel announces a conflict with a lease. Then [`Lease::take`] need not
/// choose another signal for each descriptor. For programs that use `SIGIO` for nothing else; their children inherit this.
///
/// # Errors
/// None is expected: sigaction(2) cannot fail here.
pub fn ignore_signal() -> Result<()> {
    // SAFETY: SIG_IGN installs no handler, so nothing runs when the signal arrives.
    if unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(Error { call: "sigaction", errno: Errno::last() });
    }
    SIGNAL_IGNORED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Which openers conflict with a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `F_RDLCK`: those that open for writing, and truncation.
    Read,
    /// `F_WRLCK`: all.
    Write,
}

impl Kind {
    fn raw(self) -> libc::c_int {
        match self {
            Kind::Read => libc::F_RDLCK,
            Kind::Write => libc::F_WRLCK,
        }
    }
}

/// A lease on an open file. Dropping it releases the lease.
#[derive(Debug)]
pub struct Lease<'fd> {
    fd: BorrowedFd<'fd>,
    kind: Kind,
}

impl<'fd> Lease<'fd> {
    /// Takes a lease.
    ///
    /// Sets the signal that announces a conflict to `SIGURG`, whose default action is to be ignored; the default signal,
    /// `SIGIO`, would end a process that does not expect it. After [`ignore_signal`] this is not needed.
    ///
    /// # Errors
    /// - `EAGAIN`: the file is open in a way that conflicts with the lease.
    /// - `EACCES`: the caller neither owns the file nor has `CAP_LEASE`; root alone, without the capability, is not enough.
    /// - `EINVAL`: the filesystem has no leases, or the file is not a regular file.
    ///
    /// ```no_run
    /// use libdaxfile::{Errno, lease::{Kind, Lease}};
    ///
    /// let file = std::fs::File::open("/srv/image")?;
    /// match Lease::take(&file, Kind::Read) {
    ///     Ok(lease) => println!("no writer; unbroken so far: {}", lease.is_unbroken()?),
    ///     Err(error) if error.errno == Errno::EAGAIN => println!("open for writing"),
    ///     Err(error) => println!("{error}"),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "F_SETLEASE")]
    pub fn take<F: AsFd + ?Sized>(fd: &'fd F, kind: Kind) -> Result<Self> {
        let fd = fd.as_fd();
        if !SIGNAL_IGNORED.load(Ordering::Relaxed) {
            // SAFETY: fcntl with an integer argument on a descriptor that is open for the borrow's length.
            check("fcntl(F_SETSIG)", unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, libc::SIGURG) })?;
        }
        // SAFETY: fcntl with an integer argument on a descriptor that is open for the borrow's length.
        check("fcntl(F_SETLEASE)", unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, kind.raw()) })?;
        Ok(Lease { fd, kind })
    }

    /// Returns whether nothing has conflicted with the lease yet. `false` means that an opener waits or has given up, or
    /// that the kernel broke the lease.
    ///
    /// # Errors
    /// None is expected: fcntl(2) cannot fail here.
    #[doc(alias = "F_GETLEASE")]
    pub fn is_unbroken(&self) -> Result<bool> {
        // SAFETY: fcntl without argument on a descriptor that is open for the borrow's length.
        let kind = check("fcntl(F_GETLEASE)", unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_GETLEASE) })?;
        Ok(kind == self.kind.raw())
    }

    /// Leaves the release to the kernel, which releases a lease when its file is closed. Saves a call where the caller closes
    /// the file next, and has no duplicate of the descriptor.
    pub fn release_at_close(self) {
        mem::forget(self);
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // SAFETY: fcntl with an integer argument on a descriptor that is open for the borrow's length. It fails only if the
        // kernel broke the lease, and then nothing is left to release.
        unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    }
}
