//! Detects files that the kernel itself has open for writing: loop devices, and the real files below overlayfs, FUSE
//! and others, if they were opened before the guard could refuse. The guard does not see everything that these write.
//!
//! The kernel refuses a read lease while the file is open for writing anywhere (`check_conflicting_open()` in
//! `fs/locks.c`). If no process explains the refusal, something inside the kernel does. If a process also has the file
//! open for writing, this module finds only a loop device.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use libdaxfile::Errno;
use libdaxfile::lease::{Kind, Lease};
use nix::sys::stat::makedev;

use crate::error::{Error, Result, ResultExt};
use crate::file::target::Target;
use crate::status::Status;

/// A process that closes the file between the lease and the search leaves the refusal unexplained, though nothing in
/// the kernel has the file open.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// Checks whether the kernel itself has the file open for writing, without touching the file. Processes may have it
/// open.
///
/// # Errors
/// Busy if so, with the name if known; an error of F_SETLEASE or of reading /proc.
pub fn probe(target: &Target) -> Result<()> {
    let statx = target.statx()?;
    let file = (makedev(statx.device.0.into(), statx.device.1.into()), statx.inode);
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            sleep(PAUSE);
        }
        match Lease::take(target, Kind::Read).map_err(Error::from) {
            Ok(_) => return Ok(()),
            Err(error) => match error.errno {
                Some(Errno::EAGAIN) => {}
                Some(Errno::EACCES) => return Err(error.because("needs CAP_LEASE on a file of another owner")),
                // Without leases there is nothing to check.
                Some(Errno::EINVAL) => return Ok(()),
                _ => return Err(error),
            },
        }
        if let Some(device) = loop_device(file) {
            return Err(Error::new(
                Status::Busy,
                format!("/dev/{device} is attached to it for writing: detach it with losetup -d /dev/{device}"),
            ));
        }
        if a_process_writes(file)? {
            return Ok(());
        }
    }
    Err(Error::new(
        Status::Busy,
        "no process has it open for writing, but the kernel has: overlayfs, FUSE passthrough, acct(2), an NFS or iSCSI \
         server, a descriptor on its way between processes; the guard would not see all that these write",
    ))
}

type Inode = (u64, u64);

/// Returns a loop device that writes to the file.
fn loop_device(file: Inode) -> Option<String> {
    let devices = fs::read_dir("/sys/block").ok()?;
    devices.filter_map(std::result::Result::ok).find_map(|entry| {
        let at = entry.path();
        let backing = fs::read_to_string(at.join("loop/backing_file")).ok()?;
        let read_only = fs::read_to_string(at.join("ro")).ok()?;
        let metadata = fs::metadata(crate::name::unescape(backing.trim_end_matches('\n').as_bytes())).ok()?;
        let it_is = (metadata.dev(), metadata.ino()) == file && read_only.trim_end() == "0";
        it_is.then(|| entry.file_name().to_string_lossy().into_owned())
    })
}

/// Whether a process has a descriptor of the file that is open for writing, or a mapping made through one.
fn a_process_writes(file: Inode) -> Result<bool> {
    let processes = fs::read_dir("/proc").call("readdir(/proc)")?;
    let processes: Vec<_> = processes
        .filter_map(std::result::Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()))
        .map(|entry| entry.path())
        .collect();
    if processes.iter().any(|process| writes(process, file) || maps(process, file)) {
        return Ok(true);
    }
    // A thread can have its own descriptors.
    let mut threads = processes.iter().filter_map(|process| fs::read_dir(process.join("task")).ok()).flatten();
    Ok(threads.any(|thread| thread.is_ok_and(|thread| writes(&thread.path(), file))))
}

/// A process that has exited has nothing open.
fn writes(task: &Path, file: Inode) -> bool {
    let Ok(descriptors) = fs::read_dir(task.join("fd")) else { return false };
    descriptors.filter_map(std::result::Result::ok).any(|descriptor| {
        // fdinfo answers without a call to the file's filesystem, which may be on a server that does not respond.
        let told = fs::read_to_string(task.join("fdinfo").join(descriptor.file_name())).unwrap_or_default();
        let number = told.lines().find_map(|line| line.strip_prefix("ino:")?.trim().parse::<u64>().ok());
        number.is_none_or(|number| number == file.1) && is_open_for_writing(&descriptor.path(), file)
    })
}

/// The mode of a link below fd/ or map_files/ is the mode of the open file.
fn is_open_for_writing(link: &Path, file: Inode) -> bool {
    const WRITE: u32 = 0o200;
    fs::symlink_metadata(link).is_ok_and(|link| link.mode() & WRITE != 0)
        && fs::metadata(link).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == file)
}

fn maps(process: &Path, file: Inode) -> bool {
    let maps = fs::read(process.join("maps")).unwrap_or_default();
    String::from_utf8_lossy(&maps).lines().any(|line| {
        let mut columns = line.split_ascii_whitespace();
        let range = columns.next().unwrap_or_default();
        columns.nth(3).is_some_and(|number| number.parse() == Ok(file.1))
            && is_open_for_writing(&process.join("map_files").join(range), file)
    })
}
