//! fork(2): another process that does the work of this one.
//!
//! A thread that waits for a device or a server that does not answer often cannot be killed, and then its process cannot
//! end, either. A parent that has such a process as its child can.
//!
//! Reference: fork(2).

use nix::errno::Errno;
use nix::unistd::{self, ForkResult, Pid};

use crate::error::{Error, Result};

/// Copies the process. Returns the child's process ID to the parent, and `None` to the child.
///
/// # Errors
/// - `EBUSY`: the process has more than one thread, or /proc is not mounted. Of several threads only the calling one would
///   be in the child, and locks of the others would stay locked there.
/// - `EAGAIN`, `ENOMEM`: limits of processes or memory.
pub fn fork() -> Result<Option<Pid>> {
    let failed = |errno| Error { call: "fork", errno };
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(failed(Errno::EBUSY));
    }
    // SAFETY: the process has one thread, which is this one, so nothing in the child's memory is in the middle of a change.
    match unsafe { unistd::fork() } {
        Ok(ForkResult::Parent { child }) => Ok(Some(child)),
        Ok(ForkResult::Child) => Ok(None),
        Err(errno) => Err(failed(errno)),
    }
}
