//! fork(2): a copy of this process, for work that may hang; and whether standard output was open at the start.
//!
//! A thread that waits for a device or a server that does not answer often cannot be killed, and then its process
//! cannot end. If a child does such work, its parent can still end.
//!
//! Reference: fork(2).

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::STDOUT_FILENO;
use nix::unistd::{self, ForkResult, Pid};

use crate::error::{Error, Result};

/// Copies the process. Returns the child's process ID to the parent, and `None` to the child.
///
/// # Errors
/// - `EBUSY`: the process has more than one thread, or /proc is not mounted. The child would have only the calling
///   thread, and locks that other threads hold would stay locked in it.
/// - `EAGAIN`, `ENOMEM`: limits of processes or memory.
pub fn fork() -> Result<Option<Pid>> {
    let failed = |errno| Error { call: "fork", errno };
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(failed(Errno::EBUSY));
    }
    // SAFETY: the process has one thread, which is this one, so nothing in the child's memory is in the middle of a
    // change.
    match unsafe { unistd::fork() } {
        Ok(ForkResult::Parent { child }) => Ok(Some(child)),
        Ok(ForkResult::Child) => Ok(None),
        Err(errno) => Err(failed(errno)),
    }
}

static STDOUT_WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether standard output was closed when the program started. Before main(), the Rust runtime opens /dev/null in its
/// place, so that afterwards nothing shows it.
#[must_use]
pub fn stdout_was_closed() -> bool {
    STDOUT_WAS_CLOSED.load(Ordering::Relaxed)
}

// SAFETY: the section contains pointers to functions, which the C library calls before main(). This one takes nothing from
// the Rust runtime, which has not started by then.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_AT_STDOUT: extern "C" fn() = look_at_stdout;

extern "C" fn look_at_stdout() {
    // SAFETY: the descriptor is only asked about; if it is not open, fcntl(2) fails.
    let stdout = unsafe { BorrowedFd::borrow_raw(STDOUT_FILENO) };
    let closed = fcntl(stdout, FcntlArg::F_GETFD) == Err(Errno::EBADF);
    STDOUT_WAS_CLOSED.store(closed, Ordering::Relaxed);
}
