//! No verb leaves partial work, whichever system call it is killed at, or sees fail.
//!
//! strace(1) kills the verb at the entry of the Nth call of one name, when exactly the earlier calls have happened, or
//! makes that call fail. Each verb is taken through all of its calls: a row of [`ROWS`] gives the initial state and the
//! allowed states afterwards.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{ScopedJoinHandle, sleep};
use std::time::{Duration, Instant};

use daxfile_tests::child::spawn;
use daxfile_tests::tools::{Piece, filefrag, require, sh};
use daxfile_tests::{Daxfile, Kind, Run, Scratch, Xfs, generate, on_each};
use nix::libc::{O_APPEND, O_NONBLOCK};
use nix::sys::stat::{major, minor};

const SIZE: &str = "65536";

/// One verb on one sort of file.
struct Row {
    name: &'static str,
    /// The verb and its options; the file follows
    args: &'static [&'static str],
    /// Only where blocks can be shared
    reflinks: bool,
    /// The verb needs the file for itself: every other descriptor, even its own, counts as use by another process
    alone: bool,
    /// The arguments of the `pin` that finishes interrupted work
    pin: &'static [&'static str],
    /// Makes the file that the verb starts from
    set_up: fn(&Bench),
    /// Checks the state after a run without failures
    done: fn(&Bench),
    /// Checks the state after a failed run; returns whether it is unchanged
    failed: fn(&Bench) -> bool,
    /// Checks the state after a killed run; returns which of the possible states it is
    killed: fn(&Bench) -> String,
    /// Ways to finish the work; each gets a killed run of its own
    ways_out: &'static [fn(&Bench)],
    /// Calls of this row alone whose failure does not matter
    harmless: &'static [Harmless],
}

/// A call, the beginning of its arguments as strace shows them (or a part of them), and the reason why its failure does
/// not make the verb fail.
type Harmless = (&'static str, &'static str, &'static str);

/// Where a failed call must leave status 0 and the whole work done.
const HARMLESS: &[Harmless] = &[
    ("mmap", "", "malloc(3) takes the heap instead"),
    ("munmap", "", "the end of the process gives the memory back"),
    ("sigaltstack", "", "the end of the process gives the stack back"),
    ("close", "", "the descriptor is closed all the same, and fsync has told of all that is to be told"),
    ("fcntl", "F_GETFD", "a debugging aid of the standard library"),
    ("fcntl", "F_UNLCK", "a lease ends with its process"),
    ("flock", "LOCK_UN", "a lock ends with its process"),
    ("ioctl", "TCGETS", "what does not answer is no terminal"),
    ("openat", "/proc/self/status", "which signals were ignored from the start: not told, they are caught"),
    ("statx", "/status>", "as above"),
    ("read", "/status>", "as above"),
    ("newfstatat", "AT_FDCWD<", "the opened file is looked at again"),
    ("statx", "AT_FDCWD<", "another test's swap file, named as in that test's mount namespace"),
    ("statx", "/proc/swaps", "it only hints at how much there is to read"),
    ("futex", "", "a wait proves nothing"),
    ("mkdir", "/run/daxfile", "it is there, or the file itself is locked"),
    ("openat", "/run/daxfile", "the file itself is locked instead"),
    ("newfstatat", "/run/daxfile", "the file itself is locked instead"),
    ("flock", "LOCK_EX", "root has a lock of its own; this one keeps other users' daxfiles off"),
    ("openat", "always_cow", "a kernel without that debug setting"),
    ("openat", "uid_map", "a namespace that is not known counts as one of the user's own"),
    ("statx", "uid_map", "as above"),
    ("read", "uid_map", "as above"),
    ("getrandom", "GRND_INSECURE", "the standard library reads /dev/urandom instead"),
    ("openat", "reserved_clusters", "ext4's reserve is not counted then"),
    ("statx", "reserved_clusters", "as above"),
    ("read", "reserved_clusters", "as above"),
    ("fadvise64", "", "pages that stay are looked for as far as the kernel lets us"),
    ("cachestat", "", "as above: where strace knows this call"),
    ("rt_sigaction", "SIGIO", "each lease chooses a harmless signal instead"),
    ("prlimit64", "RLIMIT_NOFILE", "a batch has fewer files then"),
    ("pread64", "4, 1024", "whether it has a swap header: only a note depends on it"),
    ("readlink", "\"/sys", "ext4's reserve is not counted then"),
];

/// Calls that have no way to tell of an error: the C library would take it for a result.
const NEVER_FAIL: [&str; 3] = ["exit_group", "brk", "geteuid"];

const FRESH: Row = Row {
    name: "",
    args: &[],
    reflinks: false,
    alone: false,
    pin: &["pin"],
    set_up: |bench| bench.fresh(),
    done: |_| (),
    failed: |bench| {
        bench.expect_as_before();
        true
    },
    killed: in_known_state,
    ways_out: &[pinned_after_all, unpinned_after_all],
    harmless: &[],
};

const ALLOC: Row = Row {
    set_up: |_| (),
    done: allocated,
    failed: |bench| {
        nothing_allocated(bench);
        true
    },
    killed: allocated_or_nothing,
    ways_out: &[allocated_after_all],
    ..FRESH
};

const ROWS: &[Row] = &[
    Row { name: "alloc", args: &["alloc", "--size", SIZE], ..ALLOC },
    Row { name: "alloc --align", args: &["alloc", "--size", SIZE, "--align", "1M"], ..ALLOC },
    Row { name: "pin", args: &["pin"], done: verified, ..FRESH },
    Row { name: "pin what chattr -i freed", args: &["pin"], set_up: freed, done: verified, ..FRESH },
    Row { name: "pin over a foreign record", args: &["pin"], set_up: with_foreign_record, done: verified, ..FRESH },
    Row {
        name: "pin --hold none",
        args: &["pin", "--hold", "none"],
        pin: &["pin", "--hold", "none"],
        done: verified,
        harmless: &[
            ("fcntl", "F_SETSIG", "a lease is welcome, not needed"),
            ("fcntl", "F_SETLEASE", "a lease is welcome, not needed"),
        ],
        ..FRESH
    },
    Row {
        name: "prepare",
        args: &["prepare"],
        alone: true,
        set_up: |bench| unprepared(bench, true),
        done: prepared,
        failed: same_bytes_as_before,
        killed: same_bytes,
        ways_out: &[prepared_after_all],
        ..FRESH
    },
    Row {
        name: "prepare beside others",
        args: &["prepare"],
        reflinks: true,
        set_up: |bench| {
            unprepared(bench, false);
            bench.other.replace(Some(OpenOptions::new().write(true).open(&bench.file).unwrap()));
        },
        done: prepared,
        failed: same_bytes_as_before,
        killed: same_bytes,
        ways_out: &[prepared_after_all],
        ..FRESH
    },
    Row { name: "unpin", args: &["unpin"], set_up: pinned, done: unpinned, failed: as_before_or_unpinned, ..FRESH },
    Row {
        name: "unpin of hold none",
        args: &["unpin"],
        pin: &["pin", "--hold", "none"],
        set_up: pinned,
        done: unpinned,
        failed: as_before_or_unpinned,
        ..FRESH
    },
];

fn unprepared(bench: &Bench, past_eof: bool) {
    generate::unprepared(&bench.scratch, "file", past_eof);
    bench.remember();
}

/// Contents and size are unchanged, and there are no new files; returns a description of the map.
fn same_bytes(bench: &Bench) -> String {
    let (now, before) = (bench.looks(), bench.before.borrow());
    let size = |looks: &Looks| looks.stat.split_once(' ').unwrap().0.to_owned();
    assert_eq!((size(&now), &now.digest), (size(&before), &before.digest));
    assert_eq!((&now.flags, &now.attributes), (&before.flags, &before.attributes));
    assert!(bench.names().iter().all(|name| ["file", "file.shared"].contains(&name.as_str())), "{:?}", bench.names());
    let inode = format!(":{} ", fs::metadata(&bench.file).unwrap().ino());
    let leases = fs::read_to_string("/proc/locks").unwrap();
    let device = bench.device_number();
    let ours = |line: &&str| line.contains("LEASE") && line.contains(&device) && line.contains(&inode);
    assert_eq!(leases.lines().find(ours), None);
    let kinds = now.map.iter().map(|piece| (piece.logical, piece.length, piece.unwritten, piece.shared));
    format!("{:?}", kinds.collect::<Vec<_>>())
}

fn same_bytes_as_before(bench: &Bench) -> bool {
    same_bytes(bench);
    bench.looks() == *bench.before.borrow()
}

fn prepared(bench: &Bench) {
    same_bytes(bench);
    bench.daxfile(&["check"]).expect(0);
    let map = filefrag(&bench.file);
    assert!(map.iter().all(|piece| !piece.unwritten && !piece.shared), "{map:?}");
    let end = map.iter().try_fold(0, |end, piece| (piece.logical == end).then_some(end + piece.length));
    let size = fs::metadata(&bench.file).unwrap().len();
    assert_eq!(end, Some(size.next_multiple_of(bench.scratch.kind().block_size())), "{map:?}");
}

fn prepared_after_all(bench: &Bench) {
    bench.daxfile(bench.row.args).expect(0);
    prepared(bench);
    bench.remove();
    bench.expect_free_space();
}

fn pinned(bench: &Bench) {
    bench.fresh();
    bench.daxfile(bench.row.pin).expect(0);
    bench.remember();
}

fn freed(bench: &Bench) {
    pinned(bench);
    sh(format!("chattr -i '{}'", bench.file.display()));
    bench.remember();
}

fn with_foreign_record(bench: &Bench) {
    bench.fresh();
    let other = bench.scratch.path("other");
    sh(format!("cp --reflink=never '{}' '{}'", bench.file.display(), other.display()));
    Daxfile::new(["pin"]).arg(&other).run().expect(0);
    sh(format!(
        "record=$(getfattr --absolute-names -e hex -n security.daxfile.pin '{1}' | sed -n 's/^security.daxfile.pin=//p')
         setfattr -n security.daxfile.pin -v \"$record\" '{0}'
         chattr -i '{1}'
         rm '{1}'",
        bench.file.display(),
        other.display()
    ));
    bench.remember();
    assert_eq!(bench.state(), "foreign_record");
}

fn verified(bench: &Bench) {
    bench.expect_same_contents();
    bench.daxfile(&["verify"]).expect(0);
}

fn unpinned(bench: &Bench) {
    bench.expect_clean();
}

fn as_before_or_unpinned(bench: &Bench) -> bool {
    let unpinned = bench.looks() == *bench.clean.borrow();
    if !unpinned {
        bench.expect_as_before();
    }
    !unpinned
}

/// `stat` has a name for the state, which is neither drift nor an unreadable record.
fn in_known_state(bench: &Bench) -> String {
    let looks = bench.expect_same_contents();
    let state = bench.state();
    assert!(["pinned", "not_held", "unpinned", "foreign_record"].contains(&state.as_str()), "state {state}");
    format!("{state} {}", looks.flags)
}

fn pinned_after_all(bench: &Bench) {
    bench.daxfile(bench.row.pin).expect(0);
    verified(bench);
    unpinned_after_all(bench);
}

fn unpinned_after_all(bench: &Bench) {
    bench.daxfile(&["unpin"]).expect(0);
    unpinned(bench);
}

fn allocated(bench: &Bench) {
    let file = bench.file.display();
    bench.daxfile(&["check"]).expect(0);
    assert_eq!(sh(format!("stat --format %s '{file}'")).trim(), SIZE);
    sh(format!("cmp -n {SIZE} '{file}' /dev/zero"));
    assert_eq!(bench.names(), ["file"]);
}

fn nothing_allocated(bench: &Bench) {
    assert_eq!(bench.names(), [""; 0]);
    bench.expect_free_space();
}

fn allocated_or_nothing(bench: &Bench) -> String {
    if bench.file.exists() {
        allocated(bench);
        return "whole".to_owned();
    }
    nothing_allocated(bench);
    "nothing".to_owned()
}

fn allocated_after_all(bench: &Bench) {
    if !bench.file.exists() {
        bench.daxfile(bench.row.args).expect(0);
        allocated(bench);
    }
    bench.remove();
    nothing_allocated(bench);
}

/// Facts about a file from other programs; the program under test reads none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Looks {
    /// Size, mtime, blocks
    stat: String,
    digest: String,
    map: Vec<Piece>,
    /// From lsattr(1), and on XFS also from xfs_io(8)
    flags: String,
    attributes: String,
}

/// A scratch filesystem with the one file that a row is about.
struct Bench<'a> {
    row: &'a Row,
    /// Another process's descriptor of the file; dropped before the filesystem
    other: RefCell<Option<File>>,
    scratch: Scratch,
    file: PathBuf,
    log: PathBuf,
    /// The file without any pin
    clean: RefCell<Looks>,
    /// The file before the verb
    before: RefCell<Looks>,
    /// Free blocks without the file
    free: String,
}

impl<'a> Bench<'a> {
    fn new(row: &'a Row, kind: Kind) -> Bench<'a> {
        require(&["strace", "xfs_io", "lsattr", "chattr", "getfattr", "setfattr", "filefrag"]);
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        // Not on the scratch filesystem, because the test checks its free space.
        let log = scratch.image().with_file_name("strace");
        sh(format!("sync --file-system '{}'", scratch.mount_point().display()));
        let free = free_blocks(&scratch);
        Bench {
            row,
            scratch,
            file,
            log,
            clean: RefCell::default(),
            before: RefCell::default(),
            free,
            other: RefCell::default(),
        }
    }

    fn daxfile(&self, args: &[&str]) -> Run {
        Daxfile::new(args).arg(&self.file).run()
    }

    /// The state from which the verb starts.
    fn reset(&self) {
        self.remove();
        (self.row.set_up)(self);
    }

    /// Remembers the state to which a failure must lead back.
    fn remember(&self) {
        self.before.replace(self.looks());
    }

    fn remove(&self) {
        drop(self.other.take());
        let file = self.file.display();
        sh(format!("if [ -e '{file}' ]; then chattr -i '{file}'; rm '{file}'; fi; rm -f '{file}.shared'"));
    }

    fn fresh(&self) {
        sh(format!(
            "xfs_io -f -c 'pwrite -S 0x5a 0 {SIZE}' -c fsync '{0}' >/dev/null
             touch --date '2020-02-02 02:02:02.020202020' '{0}'",
            self.file.display()
        ));
        self.remember();
        self.clean.replace(self.before.borrow().clone());
    }

    fn looks(&self) -> Looks {
        let text = sh(format!(
            "stat --format '%s %y %b' '{0}'
             cksum <'{0}'
             lsattr '{0}'
             xfs_io -r -c lsattr '{0}'
             getfattr --absolute-names -d -m - -e hex '{0}'",
            self.file.display()
        ));
        let mut lines = text.lines().map(str::to_owned);
        let mut next = || lines.next().unwrap();
        let (stat, digest) = (next(), next());
        let mut flags = || next().split_whitespace().next().unwrap().to_owned();
        // X says only that there are attributes, which may have been stored apart since.
        let flags = flags() + &flags().replace('X', "-");
        Looks { stat, digest, flags, map: filefrag(&self.file), attributes: lines.collect() }
    }

    fn state(&self) -> String {
        let report = self.daxfile(&["stat", "--json"]).expect(0).json();
        report["files"][0]["pin"]["state"].as_str().unwrap().to_owned()
    }

    fn expect_as_before(&self) {
        assert_eq!(self.looks(), *self.before.borrow(), "the state (left) is not the one before (right)");
    }

    fn expect_clean(&self) {
        assert_eq!(self.looks(), *self.clean.borrow(), "the state (left) is not the one without a pin (right)");
    }

    fn expect_same_contents(&self) -> Looks {
        let (now, clean) = (self.looks(), self.clean.borrow());
        let but_for_blocks = |stat: &str| stat.rsplit_once(' ').unwrap().0.to_owned();
        assert_eq!(but_for_blocks(&now.stat), but_for_blocks(&clean.stat));
        assert_eq!((&now.digest, &now.map), (&clean.digest, &clean.map));
        now
    }

    /// In the form of /proc/locks.
    fn device_number(&self) -> String {
        let device = fs::metadata(&self.file).unwrap().dev();
        format!(" {:02x}:{:02x}:", major(device), minor(device))
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.scratch.mount_point()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "lost+found").collect()
    }

    /// XFS frees the blocks of a file without names in the background.
    fn expect_free_space(&self) {
        let start = Instant::now();
        while free_blocks(&self.scratch) != self.free {
            let now = free_blocks(&self.scratch);
            assert!(start.elapsed() < Duration::from_secs(20), "{now} free blocks, {} before", self.free);
            sleep(Duration::from_millis(5));
        }
    }

    fn strace(&self, args: &[&str], options: &[&str]) -> Run {
        let log = self.log.to_str().unwrap();
        // Without --seccomp-bpf, with which strace 6.1 injects no signals.
        let strace = ["strace", "-f", "-y", "-o", log].into_iter().chain(options.iter().copied());
        // Searching cargo's library directories would only add to the traced calls.
        Daxfile::new(args).arg(&self.file).wrap(strace).env("LD_LIBRARY_PATH", "").run()
    }

    /// The output of strace: call and rest of the line.
    fn log(&self) -> Vec<(String, String)> {
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned();
        text.lines()
            .filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('('))
            .filter(|(call, _)| call.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
            .map(|(call, rest)| (call.to_owned(), rest.to_owned()))
            .collect()
    }

    /// The calls that the verb makes, each with the number of calls of that name that come before its own work.
    fn calls(&self) -> Vec<(String, usize)> {
        // The file counts as an argument of --version.
        self.strace(&["--version"], &[]).expect(0);
        let bare = self.log();
        self.reset();
        self.strace(self.row.args, &[]).expect(0);
        (self.row.done)(self);
        let all = self.log();
        let start = all.iter().zip(&bare).take_while(|(a, b)| a.0 == b.0).count();
        assert!(start > 20 && start < all.len(), "the verb's own work begins with call {start} of {}", all.len());
        let mut skipped: HashMap<&str, usize> = HashMap::new();
        for (call, _) in &all[..start] {
            *skipped.entry(call).or_default() += 1;
        }
        let mut calls: Vec<(String, usize)> = Vec::new();
        for (call, _) in &all[start..] {
            if !calls.iter().any(|(known, _)| known == call) {
                calls.push((call.clone(), skipped.get(call.as_str()).copied().unwrap_or(0)));
            }
        }
        calls
    }
}

fn free_blocks(scratch: &Scratch) -> String {
    sh(format!("stat --file-system --format %f '{}'", scratch.mount_point().display())).trim().to_owned()
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// The process is killed at its entry
    Kill,
    /// It fails
    Error(&'static str),
    /// It fails, and so do all later calls of its name: those with which the verb would undo its changes
    Errors(&'static str),
}

/// A row's way through all its calls.
struct Sweep<'a> {
    bench: &'a Bench<'a>,
    fault: Fault,
    /// Every way out of every state, not only once for states that look the same
    thorough: bool,
    /// The result of [`Row::killed`] in the verb's initial state
    start: String,
    /// Which ways out were tried from which states
    finished: HashSet<(usize, String)>,
    faults: usize,
    wrong: Vec<String>,
}

impl<'a> Sweep<'a> {
    fn new(bench: &'a Bench<'a>, fault: Fault, thorough: bool) -> Sweep<'a> {
        bench.reset();
        let start = (bench.row.killed)(bench);
        Sweep { bench, fault, thorough, start, finished: HashSet::new(), faults: 0, wrong: Vec::new() }
    }

    fn run(&mut self) {
        for (call, skipped) in self.bench.calls() {
            if self.fault != Fault::Kill && NEVER_FAIL.contains(&call.as_str()) {
                continue;
            }
            // strace(1) can do nothing to a call that is newer than it. The calls before and after it are taken.
            if call.starts_with("syscall_0x") {
                continue;
            }
            self.bench.reset();
            let right = self.wrong.len();
            for nth in skipped + 1.. {
                assert!(nth < 1000 && self.wrong.len() < right + 20, "{call}: no end: {}", self.wrong.join("\n\n"));
                match catch_unwind(AssertUnwindSafe(|| self.at(&call, nth))) {
                    Ok(true) => self.faults += 1,
                    Ok(false) => break,
                    Err(panic) => {
                        let (name, fault, text) = (self.bench.row.name, self.fault, message(&*panic));
                        self.wrong.push(format!("{name}: {call} number {nth}, {fault:?}: {text}"));
                        self.bench.reset();
                    }
                }
            }
        }
    }

    /// Returns whether the verb got to that call.
    fn at(&mut self, call: &str, nth: usize) -> bool {
        match self.fault {
            Fault::Error(_) => self.fail_at(call, nth),
            Fault::Kill | Fault::Errors(_) => self.break_off_at(call, nth),
        }
    }

    /// Gives the call as strace shows it, if the verb got there.
    fn inject(&self, call: &str, nth: usize) -> (Run, Option<String>) {
        let what = match self.fault {
            Fault::Kill => format!("signal=KILL:when={nth}"),
            Fault::Error(errno) => format!("error={errno}:when={nth}"),
            Fault::Errors(errno) => format!("error={errno}:when={nth}+"),
        };
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{what}"));
        let run = self.bench.strace(self.bench.row.args, &["-e", &trace, "-e", &inject]);
        let hit =
            |line: &(String, String)| line.1.ends_with("(INJECTED)") || run.status == 137 && line.1.ends_with("?");
        let hit = self.bench.log().into_iter().find(hit).map(|(_, rest)| rest);
        (run, hit)
    }

    fn break_off_at(&mut self, call: &str, nth: usize) -> bool {
        let bench = self.bench;
        let mut state = None;
        for (index, way_out) in bench.row.ways_out.iter().enumerate() {
            if state.clone().is_some_and(|state| !self.thorough && self.finished.contains(&(index, state))) {
                continue;
            }
            let (run, hit) = self.inject(call, nth);
            if hit.is_none() {
                run.expect(0);
                return false;
            }
            if run.status == 0 {
                (bench.row.done)(bench);
            }
            let left = (bench.row.killed)(bench);
            let finish = self.finished.insert((index, left.clone())) || self.thorough;
            if finish {
                way_out(bench);
            }
            if finish || left != self.start {
                bench.reset();
            }
            state = Some(left);
        }
        true
    }

    fn fail_at(&self, call: &str, nth: usize) -> bool {
        let bench = self.bench;
        let (run, Some(hit)) = self.inject(call, nth) else {
            return false;
        };
        let harmless = |(name, argument, _): &Harmless| *name == call && hit.contains(argument);
        let check = || {
            // A call that strace makes fail is not made: here, nothing was closed.
            if call == "close" && bench.row.alone && run.status == 5 {
                return !(bench.row.failed)(bench);
            }
            if HARMLESS.iter().chain(bench.row.harmless).any(harmless) {
                run.expect(0);
                (bench.row.done)(bench);
                return true;
            }
            let run = run.expect(2);
            assert!(run.stderr.starts_with("daxfile"), "no error on stderr: {run}");
            assert!(names_of(call).iter().any(|name| run.stderr.contains(name)), "the call is not named: {run}");
            // All work is done, and only the output is lost.
            let unsaid = call == "write" && hit.starts_with("1<");
            if unsaid {
                (bench.row.done)(bench);
            }
            unsaid || !(bench.row.failed)(bench)
        };
        match catch_unwind(AssertUnwindSafe(check)) {
            Ok(true) => bench.reset(),
            Ok(false) => {}
            Err(panic) => resume_unwind(Box::new(format!("{call}({hit}: {}", message(&*panic)))),
        }
        true
    }
}

/// The names that errors may use for the call.
fn names_of(call: &str) -> Vec<&str> {
    match call {
        "openat" => vec!["open", "read(/proc/"],
        "openat2" => vec!["open"],
        "fstatfs" => vec!["fstatfs", "fstatvfs"],
        "pread64" => vec!["pread"],
        "faccessat2" => vec!["faccessat"],
        "rt_sigaction" => vec!["sigaction"],
        "write" => vec!["standard output"],
        same => vec![same],
    }
}

/// Takes every row through all its calls, each on a filesystem of its own.
fn sweep(kind: &Kind, faults: &[Fault], thorough: bool) {
    let sweep_row = |row: &'static Row| {
        let bench = Bench::new(row, kind.clone());
        let mut wrong = Vec::new();
        for &fault in faults {
            let mut sweep = Sweep::new(&bench, fault, thorough);
            sweep.run();
            println!("{} on {}, {fault:?}: {} faults", row.name, kind.name(), sweep.faults);
            wrong.extend(sweep.wrong);
        }
        wrong
    };
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let rows = ROWS.iter().filter(|row| !row.reflinks || matches!(kind, Kind::Xfs(Xfs { reflink: true, .. })));
        let threads: Vec<_> = rows.map(|row| (row, scope.spawn(|| sweep_row(row)))).collect();
        let join = |(row, thread): (&Row, ScopedJoinHandle<'_, Vec<String>>)| {
            thread.join().unwrap_or_else(|panic| vec![format!("{}: {}", row.name, message(&*panic))])
        };
        threads.into_iter().flat_map(join).collect()
    });
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}

fn message(panic: &dyn Any) -> &str {
    let literal = || panic.downcast_ref::<&str>().copied();
    panic.downcast_ref::<String>().map(String::as_str).or_else(literal).unwrap_or("a panic without a message")
}

#[test]
fn kill_at_any_call_leaves_a_known_state_on_xfs() {
    sweep(&Kind::xfs(), &[Fault::Kill], false);
}

#[test]
fn kill_at_any_call_leaves_a_known_state_on_ext4() {
    sweep(&Kind::ext4(), &[Fault::Kill], false);
}

#[test]
fn failed_call_leaves_a_known_state_on_xfs() {
    sweep(&Kind::xfs(), &[Fault::Error("EIO")], false);
}

#[test]
fn failed_call_leaves_a_known_state_on_ext4() {
    sweep(&Kind::ext4(), &[Fault::Error("ENOSPC")], false);
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn call_that_fails_with_another_errno_leaves_a_known_state_on_xfs() {
    sweep(&Kind::xfs(), &[Fault::Error("ENOSPC")], false);
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn call_that_fails_with_another_errno_leaves_a_known_state_on_ext4() {
    sweep(&Kind::ext4(), &[Fault::Error("EIO")], false);
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn killed_work_can_be_finished_on_xfs() {
    sweep(&Kind::xfs(), &[Fault::Kill], true);
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn killed_work_can_be_finished_on_ext4() {
    sweep(&Kind::ext4(), &[Fault::Kill], true);
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn call_that_keeps_failing_leaves_a_known_state_on_xfs() {
    sweep(&Kind::xfs(), &[Fault::Errors("EIO")], false);
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn call_that_keeps_failing_leaves_a_known_state_on_ext4() {
    sweep(&Kind::ext4(), &[Fault::Errors("EIO")], false);
}

/// Attempts to pin a file in use.
const ATTEMPTS: usize = 100;

/// A program that keeps the file open, writes to it, and opens it again and again.
fn application(file: &Path, rounds: &AtomicUsize, stop: &AtomicBool) -> std::io::Result<()> {
    let held = OpenOptions::new().read(true).write(true).open(file)?;
    while !stop.load(Ordering::Relaxed) {
        held.write_all_at(&[0x33; 4096], 8192)?;
        for flags in [0, O_NONBLOCK, O_APPEND] {
            let again = OpenOptions::new().write(true).custom_flags(flags).open(file)?;
            again.write_all_at(&[0x44; 512], 4096)?;
            again.set_len(65536)?;
        }
        File::open(file)?.read_exact_at(&mut [0; 4096], 0)?;
        rounds.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn leaves_a_writer_alone(kind: Kind) {
    let bench = Bench::new(&FRESH, kind);
    bench.reset();
    let (rounds, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let attempts = std::thread::scope(|scope| {
        let application = scope.spawn(|| application(&bench.file, &rounds, &stop));
        let attempts: Vec<Run> = (0..ATTEMPTS)
            .map(|_| {
                // The application works between any two attempts.
                let before = rounds.load(Ordering::Relaxed);
                while rounds.load(Ordering::Relaxed) == before && !application.is_finished() {
                    sleep(Duration::from_millis(1));
                }
                bench.daxfile(&["pin"])
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        application.join().unwrap().expect("the application must see no failure");
        attempts
    });
    all_refused(&bench, attempts);
}

/// A program that has no descriptor of the file any more, and stores to its mapping.
fn leaves_a_mapping_alone(kind: Kind) {
    let bench = Bench::new(&FRESH, kind);
    bench.reset();
    let mut application = spawn(Command::new("xfs_io").arg(&bench.file).stdin(Stdio::piped()));
    let mut commands = application.stdin.take().unwrap();
    commands.write_all(b"mmap -rw 0 64k\nclose\n").unwrap();
    let maps = format!("/proc/{}/maps", application.id());
    while !fs::read_to_string(&maps).unwrap().contains(bench.file.to_str().unwrap()) {
        assert!(application.try_wait().unwrap().is_none());
        sleep(Duration::from_millis(1));
    }
    let mut attempts = Vec::new();
    for _ in 0..ATTEMPTS {
        // A signal would have ended it, and this would fail.
        commands.write_all(b"mwrite -S 0x77 0 64k\n").unwrap();
        attempts.push(bench.daxfile(&["pin"]));
    }
    drop(commands);
    assert!(application.wait().unwrap().success(), "the application must see no failure");
    all_refused(&bench, attempts);
}

#[test]
fn a_refused_pin_leaves_a_writer_alone() {
    on_each(Kind::xfs_and_ext4(), leaves_a_writer_alone);
}

#[test]
fn a_refused_pin_leaves_a_mapping_alone() {
    on_each(Kind::xfs_and_ext4(), leaves_a_mapping_alone);
}

fn all_refused(bench: &Bench, attempts: Vec<Run>) {
    assert_eq!(attempts.len(), ATTEMPTS);
    attempts.into_iter().for_each(|attempt| drop(attempt.expect(5)));
    let (now, clean) = (bench.looks(), bench.clean.borrow());
    assert_eq!((&now.flags, &now.attributes), (&clean.flags, &clean.attributes));
    // Nothing else stood against it.
    bench.daxfile(&["pin"]).expect(0);
}

/// The filesystem stops at once, and loses everything that was not made durable.
fn crash(bench: &mut Bench) {
    sh(format!("xfs_io -r -x -c shutdown '{}'", bench.scratch.mount_point().display()));
    bench.scratch.remount();
}

/// A pin that was killed before its last fsync, and then finished, outlives a crash.
#[test]
fn a_finished_pin_is_durable() {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let row = ROWS.iter().find(|row| row.name == "pin").unwrap();
        let mut bench = Bench::new(row, kind);
        bench.reset();
        bench.strace(&["pin"], &["-e", "trace=fsync", "-e", "inject=fsync:signal=KILL:when=2"]).expect(137);
        assert_eq!(bench.state(), "pinned");
        bench.daxfile(&["pin"]).expect(0);
        crash(&mut bench);
        verified(&bench);
    });
}

/// An unpin whose fsync failed, and that was then finished, outlives a crash.
#[test]
fn a_finished_unpin_is_durable() {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let row = ROWS.iter().find(|row| row.name == "unpin").unwrap();
        let mut bench = Bench::new(row, kind);
        bench.reset();
        bench.strace(&["unpin"], &["-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1"]).expect(2);
        bench.daxfile(&["unpin"]).expect(0);
        crash(&mut bench);
        bench.expect_clean();
    });
}
