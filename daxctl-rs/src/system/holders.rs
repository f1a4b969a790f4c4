//! The users of an open file, as far as /proc and /sys report them: the information that fuser(1), losetup(8) and
//! swapon(8) show.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use libdaxfile::statx::Statx;
use nix::libc;
use nix::sys::stat::makedev;

use super::kernel::text;
use super::swaps;
use crate::name::unescape;

/// How long a search may take.
#[derive(Clone, Copy)]
struct Patience {
    whole: Duration,
    /// The longest time in which the search looks at nothing new: it waits for something that does not answer.
    stalled: Duration,
}

/// On a machine with many processes, naming some must suffice.
const BRIEF: Patience = Patience { whole: Duration::from_secs(2), stalled: Duration::from_secs(2) };

/// For a search whose answer decides about a pin: a slow machine, or one with many open files, takes its time.
const THOROUGH: Patience = Patience { whole: Duration::from_secs(600), stalled: Duration::from_secs(30) };

/// The shortest patience with devices.
const DEVICES: Duration = Duration::from_secs(30);

/// Most processes to name in a message.
const NAMED: usize = 8;

/// The system calls that copy into a file through a descriptor, and which of their arguments that descriptor is. The
/// kernel checks such a call once, at its start, and the call may wait for its source afterwards.
const COPIES: [(libc::c_long, &str, usize); 3] = [
    (libc::SYS_splice, "splice", 2),
    (libc::SYS_sendfile, "sendfile", 0),
    (libc::SYS_copy_file_range, "copy_file_range", 2),
];

/// The same for programs of 32 bits: `arch/x86/entry/syscalls/syscall_32.tbl`. /proc does not say which table a number
/// belongs to.
#[cfg(target_arch = "x86_64")]
const COPIES_OF_32_BITS: [(libc::c_long, &str, usize); 4] =
    [(313, "splice", 2), (187, "sendfile", 0), (239, "sendfile", 0), (377, "copy_file_range", 2)];
#[cfg(not(target_arch = "x86_64"))]
const COPIES_OF_32_BITS: [(libc::c_long, &str, usize); 0] = [];

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
    pub(crate) processes: Vec<u32>,
    /// Processes with a thread that is inside a system call which copies into the file, and the name of the call.
    pub(crate) copiers: Vec<(u32, &'static str)>,
    /// Loop devices.
    pub(crate) loops: Vec<PathBuf>,
    /// Whether the file is an active swapfile.
    pub(crate) swap: bool,
    /// Whether the search looked at everything.
    pub(crate) complete: bool,
}

/// What one thread looks at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Loop devices and swapfiles.
    Devices,
    Processes,
}

/// What a search finds.
enum Found {
    Process(u32),
    Copier(u32, &'static str),
    Loop(PathBuf),
    Swap,
    /// A thread goes on to the next item.
    Progress,
    /// A thread has looked at everything of its part.
    End(Part),
}

impl Holders {
    /// Finds the users of an open file. A caller that may not look into all processes finds fewer, and so does a search
    /// that takes more than two seconds.
    pub(crate) fn of(file: impl AsFd, statx: &Statx, usage: Use) -> Self {
        Holders::within(BRIEF, file, statx, usage)
    }

    /// Finds the users of an open file that write to it. Ends early after 30 seconds without progress.
    pub(crate) fn writing(file: impl AsFd, statx: &Statx) -> Self {
        Holders::within(THOROUGH, file, statx, Use::Writing)
    }

    /// Other threads search: /proc/PID/maps waits for a process in a page fault, and a loop device's file may be on a
    /// server that does not answer. A thread that still waits when the time is over is left behind.
    fn within(patience: Patience, file: impl AsFd, statx: &Statx, usage: Use) -> Self {
        let (found, finds) = channel();
        let search = Arc::new(Search::new(file, statx, usage, found));
        for part in [Part::Devices, Part::Processes] {
            let search = Arc::clone(&search);
            // Without the thread, its end is missing, too.
            let _ = thread::Builder::new().spawn(move || {
                let whole = match part {
                    Part::Devices => search.look_at_devices(),
                    Part::Processes => search.look_at_processes(),
                };
                if whole {
                    search.report(Found::End(part));
                }
            });
        }
        drop(search);
        Holders::collect(&finds, patience)
    }

    fn collect(finds: &Receiver<Found>, patience: Patience) -> Self {
        let mut holders = Holders::default();
        let mut left = vec![Part::Devices, Part::Processes];
        let start = Instant::now();
        while !left.is_empty() {
            let limit = |limit: Duration| if left.contains(&Part::Devices) { limit.max(DEVICES) } else { limit };
            let rest = limit(patience.whole).saturating_sub(start.elapsed());
            match finds.recv_timeout(rest.min(limit(patience.stalled))) {
                Ok(Found::Process(process)) => holders.processes.push(process),
                Ok(Found::Copier(process, call)) => holders.copiers.push((process, call)),
                Ok(Found::Loop(device)) => holders.loops.push(device),
                Ok(Found::Swap) => holders.swap = true,
                Ok(Found::Progress) if rest.is_zero() => break,
                Ok(Found::Progress) => {}
                Ok(Found::End(part)) => left.retain(|left| *left != part),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        holders.processes.sort_unstable();
        holders.processes.dedup();
        holders.loops.sort();
        holders.complete = left.is_empty();
        holders
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

/// A search for the users of one file.
struct Search {
    statx: Statx,
    /// Device and inode number, as stat(2) reports them.
    inode: (u64, u64),
    /// The kernel's name of the file.
    name: Option<PathBuf>,
    usage: Use,
    found: Sender<Found>,
}

impl Search {
    fn new(file: impl AsFd, statx: &Statx, usage: Use, found: Sender<Found>) -> Self {
        let (major, minor) = statx.device;
        let inode = (makedev(major.into(), minor.into()), statx.inode);
        let name = fs::read_link(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())).ok();
        Search { statx: *statx, inode, name, usage, found }
    }

    /// Returns whether somebody still waits for the results.
    fn report(&self, found: Found) -> bool {
        self.found.send(found).is_ok()
    }

    /// Returns whether it looked at all of them.
    fn look_at_devices(&self) -> bool {
        if swaps::active(&self.statx).unwrap_or(false) {
            self.report(Found::Swap);
        }
        let Ok(devices) = fs::read_dir("/sys/block") else { return true };
        let devices = devices.flatten().filter(|device| device.file_name().as_bytes().starts_with(b"loop"));
        for device in devices {
            let writes = || text(device.path().join("ro")).as_deref() == Some("0");
            if (self.usage == Use::Any || writes()) && self.is_behind(&device.path()) {
                self.report(Found::Loop(Path::new("/dev").join(device.file_name())));
            }
        }
        true
    }

    /// Whether a loop device uses the file. A backing file in another mount namespace, or a deleted one, has no path to
    /// check here, but the kernel gives it the same name.
    fn is_behind(&self, device: &Path) -> bool {
        let Ok(name) = fs::read(device.join("loop/backing_file")) else { return false };
        let name = PathBuf::from(unescape(name.strip_suffix(b"\n").unwrap_or(&name)));
        match fs::metadata(&name) {
            Ok(metadata) => (metadata.dev(), metadata.ino()) == self.inode,
            Err(_) => self.name.as_deref() == Some(&name),
        }
    }

    /// Returns whether it looked at all of them before the time was over.
    fn look_at_processes(&self) -> bool {
        let ourselves = std::process::id();
        let others: Vec<_> = processes().into_iter().filter(|process| *process != ourselves).collect();
        let mut any = false;
        for process in &others {
            if !self.report(Found::Progress) {
                return false;
            }
            let at = Path::new("/proc").join(process.to_string());
            if self.is_open_in(&at) || self.is_mapped_in(&at) {
                any = true;
                self.report(Found::Process(*process));
            }
        }
        // A thread can have its own descriptors.
        for process in &others {
            let Ok(tasks) = fs::read_dir(Path::new("/proc").join(process.to_string()).join("task")) else { continue };
            for task in tasks.flatten() {
                if !self.report(Found::Progress) {
                    return false;
                }
                let copies = match self.usage {
                    Use::Writing => self.call_into_file(&task.path()),
                    Use::Any => None,
                };
                if let Some(call) = copies {
                    self.report(Found::Copier(*process, call));
                }
                if copies.is_some() || !any && self.is_open_in(&task.path()) {
                    self.report(Found::Process(*process));
                }
            }
        }
        true
    }

    /// Whether a process or thread has a descriptor of the file. One that has exited has nothing open.
    fn is_open_in(&self, task: &Path) -> bool {
        let Ok(descriptors) = fs::read_dir(task.join("fdinfo")) else { return false };
        descriptors.flatten().any(|descriptor| {
            self.report(Found::Progress);
            self.is_descriptor(task, Path::new(&descriptor.file_name()))
        })
    }

    /// Reads fdinfo first: following the link could wait for a server that does not answer.
    fn is_descriptor(&self, task: &Path, number: &Path) -> bool {
        fs::read_to_string(task.join("fdinfo").join(number)).is_ok_and(|info| is_of(&info, self.inode.1, self.usage))
            && fs::metadata(task.join("fd").join(number))
                .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode)
    }

    /// The name of the call if the thread is inside one that copies into the file.
    fn call_into_file(&self, task: &Path) -> Option<&'static str> {
        let called = text(task.join("syscall"))?;
        let (call, descriptor) = copies_to(&called)?;
        self.is_descriptor(task, Path::new(&descriptor.to_string())).then_some(call)
    }

    /// Whether the process maps the file. A mapping made through a descriptor for writing counts as writing, whatever
    /// its own protection, and also if it is private or the descriptor was closed. The mode of its link in map_files
    /// shows this.
    fn is_mapped_in(&self, process: &Path) -> bool {
        let Ok(maps) = fs::read(process.join("maps")) else { return false };
        let (major, minor) = self.statx.device;
        let (device, inode) = (format!("{major:02x}:{minor:02x}"), self.inode.1.to_string());
        maps.split(|&byte| byte == b'\n').any(|line| {
            let line = String::from_utf8_lossy(line);
            let mut fields = line.split_whitespace();
            let (Some(range), Some(protection), Some(_)) = (fields.next(), fields.next(), fields.next()) else {
                return false;
            };
            let here = fields.next() == Some(&device) && fields.next() == Some(&inode);
            here && (self.usage == Use::Any || protection.starts_with("rw-s") || by_writer(process, range))
        })
    }
}

fn processes() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut all: Vec<_> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    all.sort_unstable();
    all
}

/// The call and the descriptor that it copies into, from a thread's /proc/PID/task/TID/syscall: a number in decimal, and
/// six arguments in hexadecimal.
fn copies_to(called: &str) -> Option<(&'static str, i32)> {
    let mut fields = called.split_ascii_whitespace();
    let number: libc::c_long = fields.next()?.parse().ok()?;
    let (_, call, argument) = COPIES.iter().chain(&COPIES_OF_32_BITS).find(|(copies, ..)| *copies == number)?;
    let descriptor = u64::from_str_radix(fields.nth(*argument)?.strip_prefix("0x")?, 16).ok()?;
    // The kernel looks at the lower half.
    let descriptor = i32::try_from(descriptor & u64::from(u32::MAX)).ok()?;
    Some((call, descriptor))
}

/// Whether a descriptor can refer to this inode, according to proc_pid_fdinfo(5).
fn is_of(info: &str, inode: u64, usage: Use) -> bool {
    const O_PATH: u32 = 0o10_000_000;
    let field = |name| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let flags = field("flags:").and_then(|flags| u32::from_str_radix(flags, 8).ok()).unwrap_or(O_PATH);
    let used = flags & O_PATH == 0 && (usage == Use::Any || flags & 0o3 != 0);
    used && field("ino:").and_then(|number| number.parse().ok()) == Some(inode)
}

fn by_writer(process: &Path, range: &str) -> bool {
    // In map_files, the addresses have no leading zeros.
    let ends: Vec<_> = range.split('-').map(|address| address.trim_start_matches('0')).collect();
    fs::symlink_metadata(process.join("map_files").join(ends.join("-")))
        .is_ok_and(|metadata| metadata.mode() & 0o200 != 0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

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
    fn calls_that_copy_into_a_descriptor_are_recognised() {
        let called =
            |number: libc::c_long| format!("{number} 0x3 0x0 0xffffffff00000005 0x0 0x1000 0x0 0x7ffe 0x7f01\n");
        assert_eq!(copies_to(&called(libc::SYS_splice)), Some(("splice", 5)));
        assert_eq!(copies_to(&called(libc::SYS_sendfile)), Some(("sendfile", 3)));
        assert_eq!(copies_to(&called(libc::SYS_copy_file_range)), Some(("copy_file_range", 5)));
        for other in [called(libc::SYS_tee), "running\n".into(), "-1 0x7ffe 0x7f01\n".into(), String::new()] {
            assert_eq!(copies_to(&other), None, "{other}");
        }
    }

    #[test]
    fn a_search_ends_when_it_stalls_and_not_while_it_advances() {
        let many = "n=$(ulimit -Hn); ((n < 50000)) || n=50000; ulimit -n $n; \
                    for ((i = 10; i < n; i++)); do eval \"exec $i</dev/null\"; done; echo; read";
        let (input, output) = (Stdio::piped(), Stdio::piped());
        let mut child = Command::new("bash").args(["-c", many]).stdin(input).stdout(output).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let file = fs::File::open("/proc/self/exe").unwrap();
        let statx = libdaxfile::statx::get(&file).unwrap();
        let search = |patience| Holders::within(patience, &file, &statx, Use::Writing).complete;
        let start = Instant::now();
        assert!(search(THOROUGH));
        let stalled = start.elapsed() / 2;
        assert!(search(Patience { stalled, ..THOROUGH }), "it advanced");
        assert!(!search(Patience { whole: Duration::ZERO, stalled }), "its time was over");
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn users_are_named_with_what_makes_them_go() {
        let one = Holders { processes: vec![812], ..Holders::default() };
        assert_eq!(one.name(), " by 1 process (PID 812); close it");
        let several = Holders { processes: vec![812, 1033], loops: vec!["/dev/loop3".into()], ..Holders::default() };
        let named =
            " by 2 processes (PID 812, 1033) and the loop device /dev/loop3; close them and losetup -d /dev/loop3";
        assert_eq!(several.name(), named);
        assert_eq!(Holders::default().name(), ", but /proc does not show by which process; close it in every process");
    }
}
