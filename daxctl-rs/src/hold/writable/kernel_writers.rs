//! Detects files that the kernel itself has open for writing: loop devices, and the real files below overlayfs, FUSE
//! and others, if they were opened before the guard could refuse. The guard does not see everything that these write.
//! Detects also calls that copy into the file and were checked before the guard had it.
//!
//! The kernel refuses a read lease while the file is open for writing anywhere (`check_conflicting_open()` in
//! `fs/locks.c`). If no process explains the refusal, something inside the kernel does. If a process also has the file
//! open for writing, this module finds only a loop device.

use std::thread::sleep;
use std::time::Duration;

use libdaxfile::Errno;

use crate::error::{Error, Result};
use crate::file::target::Target;
use crate::hold::frozen;
use crate::status::Status;
use crate::system::holders::Holders;

/// A process that closes the file between the lease and the search leaves the refusal unexplained, though nothing in
/// the kernel has the file open.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// Checks whether the kernel itself has the file open for writing, without touching the file. Processes may have it
/// open.
///
/// # Errors
/// Busy if so, with the name if known; an error of statx(2) or F_SETLEASE.
pub fn probe(target: &Target) -> Result<()> {
    let statx = target.statx()?;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            sleep(PAUSE);
        }
        match frozen::probe(target) {
            Ok(()) => return Ok(()),
            Err(error) => match error.errno {
                Some(Errno::EAGAIN) => {}
                // Without leases there is nothing to check.
                Some(Errno::EINVAL) => return Ok(()),
                _ => return Err(error),
            },
        }
        let holders = Holders::writing(target, &statx);
        if let Some(reason) = reason(&holders) {
            return Err(Error::new(Status::Busy, reason));
        }
        if !holders.processes.is_empty() {
            return Ok(());
        }
    }
    Err(Error::new(
        Status::Busy,
        "no process has it open for writing, but the kernel has: overlayfs, FUSE passthrough, acct(2), an NFS or iSCSI \
         server, a splice(2) or sendfile(2) that waits though its descriptor is closed, or a descriptor on its way \
         between processes; the guard would not see all that these write",
    ))
}

/// Returns why the guard would not see all writes of these users.
fn reason(holders: &Holders) -> Option<String> {
    if let Some(device) = holders.loops.first().map(|device| device.display()) {
        return Some(format!("{device} is attached to it for writing: detach it with losetup -d {device}"));
    }
    if let Some((process, call)) = holders.copiers.first() {
        return Some(format!(
            "process {process} is inside {call}(2) into it, which the kernel checks only when it begins: end that call, \
             or use --wait"
        ));
    }
    (!holders.complete).then(|| {
        "it is open for writing, and the search of /proc for its writers did not end: a process in it does not answer"
            .into()
    })
}
