//! The users of an open file, as far as /proc and /sys report them: the information that fuser(1), losetup(8) and
//! swapon(8) show.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libdaxfile::statx::Statx;
use nix::sys::stat::makedev;

use super::kernel::text;
use super::swaps;
use crate::name::unescape;

/// The longest time to search: on a machine with many processes, naming some of them must suffice.
const PATIENCE: Duration = Duration::from_millis(500);

/// Most processes to name in a message.
const NAMED: usize = 8;

/// The kind of use to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Any process that has the file open, or mapped.
    Any,
    /// Processes that have it open, or mapped, through a descriptor for writing.
    Writing,
}

/// The users of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Holders {
    /// Process IDs in ascending order, without this process.
    processes: Vec<u32>,
    /// Loop devices.
    loops: Vec<PathBuf>,
    /// Whether the file is an active swapfile.
    swap: bool,
}

impl Holders {
    /// Finds the users of an open file. A caller that may not look into all processes finds fewer.
    pub(crate) fn of(file: impl AsFd, statx: &Statx, usage: Use) -> Self {
        let end = Instant::now() + PATIENCE;
        let (major, minor) = statx.device;
        let inode = (makedev(major.into(), minor.into()), statx.inode);
        let uses = |process: &Path| has_open(process, inode, usage) || maps(process, statx, usage);
        let ourselves = std::process::id();
        let all = processes().into_iter().filter(|process| *process != ourselves);
        let looked_at = all.take_while(|_| Instant::now() < end);
        Holders {
            processes: looked_at.filter(|process| uses(&Path::new("/proc").join(process.to_string()))).collect(),
            loops: loops(file, inode, usage),
            swap: swaps::active(statx).unwrap_or(false),
        }
    }

    /// Names the users, and how to remove them: "by 2 processes (PID 812, 1033); close them".
    pub(crate) fn name(&self) -> String {
        let mut who = Vec::new();
        let mut advice = Vec::new();
        if !self.processes.is_empty() {
            let some: Vec<_> = self.processes.iter().take(NAMED).map(u32::to_string).collect();
            let more = if self.processes.len() > NAMED { ", …" } else { "" };
            let (count, them) = match self.processes.len() {
                1 => ("1 process".to_owned(), "it"),
                several => (format!("{several} processes"), "them"),
            };
            who.push(format!("{count} (PID {}{more})", some.join(", ")));
            advice.push(format!("close {them}"));
        }
        for device in self.loops.iter().map(|device| device.display()) {
            who.push(format!("the loop device {device}"));
            advice.push(format!("losetup -d {device}"));
        }
        if self.swap {
            who.push("the kernel, which uses it for swap (/proc/swaps)".into());
            advice.push("swapoff".into());
        }
        if who.is_empty() {
            return ", but /proc does not show by which process; close it in every process".into();
        }
        format!(" by {}; {}", who.join(" and "), advice.join(" and "))
    }
}

fn processes() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut all: Vec<_> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    all.sort_unstable();
    all
}

/// Whether the process has a descriptor of the file. Reads fdinfo of each descriptor first: following its link could
/// wait for a server that does not answer.
fn has_open(process: &Path, (device, inode): (u64, u64), usage: Use) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fdinfo")) else { return false };
    descriptors.flatten().any(|descriptor| {
        fs::read_to_string(descriptor.path()).is_ok_and(|info| is_of(&info, inode, usage))
            && fs::metadata(process.join("fd").join(descriptor.file_name()))
                .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == (device, inode))
    })
}

/// Whether a descriptor can refer to this inode, according to proc_pid_fdinfo(5).
fn is_of(info: &str, inode: u64, usage: Use) -> bool {
    const O_PATH: u32 = 0o10_000_000;
    let field = |name| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let flags = field("flags:").and_then(|flags| u32::from_str_radix(flags, 8).ok()).unwrap_or(O_PATH);
    let used = flags & O_PATH == 0 && (usage == Use::Any || flags & 0o3 != 0);
    used && field("ino:").and_then(|number| number.parse().ok()) == Some(inode)
}

/// Whether the process maps the file. A mapping made through a descriptor for writing counts as writing, whatever its
/// own protection, and also if it is private or the descriptor was closed. The mode of its link in map_files shows
/// this.
fn maps(process: &Path, statx: &Statx, usage: Use) -> bool {
    let Ok(maps) = fs::read(process.join("maps")) else { return false };
    let (major, minor) = statx.device;
    let (device, inode) = (format!("{major:02x}:{minor:02x}"), statx.inode.to_string());
    maps.split(|&byte| byte == b'\n').any(|line| {
        let line = String::from_utf8_lossy(line);
        let mut fields = line.split_whitespace();
        let (Some(range), Some(protection), Some(_)) = (fields.next(), fields.next(), fields.next()) else {
            return false;
        };
        let here = fields.next() == Some(&device) && fields.next() == Some(&inode);
        here && (usage == Use::Any || protection.starts_with("rw-s") || by_writer(process, range))
    })
}

fn by_writer(process: &Path, range: &str) -> bool {
    // In map_files, the addresses have no leading zeros.
    let ends: Vec<_> = range.split('-').map(|address| address.trim_start_matches('0')).collect();
    fs::symlink_metadata(process.join("map_files").join(ends.join("-")))
        .is_ok_and(|metadata| metadata.mode() & 0o200 != 0)
}

/// The loop devices that use the file.
fn loops(file: impl AsFd, inode: (u64, u64), usage: Use) -> Vec<PathBuf> {
    let Ok(devices) = fs::read_dir("/sys/block") else { return Vec::new() };
    // A backing file in another mount namespace, or a deleted one, has no path to check here, but the kernel gives it
    // the same name.
    let own_name = fs::read_link(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())).ok();
    let is_behind = |device: &Path| {
        let Ok(name) = fs::read(device.join("loop/backing_file")) else { return false };
        let name = PathBuf::from(unescape(name.strip_suffix(b"\n").unwrap_or(&name)));
        match fs::metadata(&name) {
            Ok(metadata) => (metadata.dev(), metadata.ino()) == inode,
            Err(_) => own_name.as_deref() == Some(&name),
        }
    };
    let mut found: Vec<_> = devices
        .flatten()
        .filter(|device| device.file_name().as_bytes().starts_with(b"loop"))
        .filter(|device| usage == Use::Any || text(device.path().join("ro")).as_deref() == Some("0"))
        .filter(|device| is_behind(&device.path()))
        .map(|device| Path::new("/dev").join(device.file_name()))
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_told_apart_by_their_flags() {
        let info = |flags: &str| format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t29\nino:\t77\n");
        assert!(is_of(&info("0100002"), 77, Use::Writing) && is_of(&info("0100001"), 77, Use::Writing));
        assert!(!is_of(&info("0100000"), 77, Use::Writing) && is_of(&info("0100000"), 77, Use::Any));
        assert!(!is_of(&info("012000002"), 77, Use::Any), "O_PATH opens nothing");
        assert!(!is_of(&info("0100002"), 78, Use::Any) && !is_of("pos:\t0\n", 0, Use::Any));
    }

    #[test]
    fn users_are_named_with_what_makes_them_go() {
        let one = Holders { processes: vec![812], ..Holders::default() };
        assert_eq!(one.name(), " by 1 process (PID 812); close it");
        let several = Holders { processes: vec![812, 1033], loops: vec!["/dev/loop3".into()], swap: false };
        let named =
            " by 2 processes (PID 812, 1033) and the loop device /dev/loop3; close them and losetup -d /dev/loop3";
        assert_eq!(several.name(), named);
        assert_eq!(Holders::default().name(), ", but /proc does not show by which process; close it in every process");
    }
}
