//! File leases: being told before, and while, somebody else opens the file.
//!
//! Reference: fcntl(2), "Leases"; `generic_add_lease()` and `__break_lease()` in `fs/locks.c`. A read lease is granted
//! only while nobody has the file open for writing, which a writable mapping and a read-write loop device count as; a
//! write lease only while nobody else has it open at all. Whoever then comes into conflict waits until the lease is
//! released, or for `/proc/sys/fs/lease-break-time` seconds (45), after which the kernel breaks it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::error::{Result, check};

#[doc(hidden)]
pub const F_SETSIG: libc::c_int = 10;

/// What a lease guards against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `F_RDLCK`: openers for writing, and truncation.
    Read,
    /// `F_WRLCK`: all openers.
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

/// A lease on an open file, released when dropped.
#[derive(Debug)]
pub struct Lease<'fd> {
    fd: BorrowedFd<'fd>,
    kind: Kind,
}

impl<'fd> Lease<'fd> {
    /// Takes a lease.
    ///
    /// The signal that announces a conflict is set to SIGURG, which is ignored by default; the usual SIGIO would end a
    /// process that did not expect it.
    ///
    /// # Errors
    /// `EAGAIN` while somebody is in conflict with it, `EACCES` for who neither owns the file nor has CAP_LEASE,
    /// `EINVAL` where the filesystem has no leases.
    #[doc(alias = "F_SETLEASE")]
    pub fn take<F: AsFd + ?Sized>(fd: &'fd F, kind: Kind) -> Result<Self> {
        let fd = fd.as_fd();
        // SAFETY: fcntl with an integer argument on a descriptor that is open for the borrow's length.
        check("fcntl(F_SETSIG)", unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, libc::SIGURG) })?;
        // SAFETY: as above.
        check("fcntl(F_SETLEASE)", unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, kind.raw()) })?;
        Ok(Lease { fd, kind })
    }

    /// Whether the lease still stands, undisturbed. `false` means that somebody is waiting for it, or that it was broken.
    ///
    /// # Errors
    /// Those of fcntl(2); none is expected.
    #[doc(alias = "F_GETLEASE")]
    pub fn undisturbed(&self) -> Result<bool> {
        // SAFETY: fcntl without argument on a descriptor that is open for the borrow's length.
        let kind = check("fcntl(F_GETLEASE)", unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_GETLEASE) })?;
        Ok(kind == self.kind.raw())
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // SAFETY: fcntl with an integer argument on a descriptor that is open for the borrow's length. It fails only where
        // the lease was broken by force, and then nothing is left to release.
        unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    }
}
