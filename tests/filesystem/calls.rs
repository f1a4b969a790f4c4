//! How many system calls a file costs, where many files are named.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use daxfile_tests::tools::require;
use daxfile_tests::{Daxfile, Kind, Scratch, on_each};
use libdaxfile::statx;

/// Enough that the calls of a process and of a filesystem do not count, and that no batch ends within.
const FILES: usize = 100;

/// The most calls for a file: `stat`, `check`, `verify` of a pinned file, `pin`, `unpin`.
type Most = [usize; 5];

fn files(scratch: &Scratch) -> Vec<PathBuf> {
    let directory = scratch.path("many");
    fs::create_dir(&directory).unwrap();
    let files: Vec<PathBuf> = (0..FILES).map(|number| directory.join(number.to_string())).collect();
    files.iter().for_each(|file| fs::write(file, [1; 4096]).unwrap());
    fs::File::open(&directory).unwrap().sync_all().unwrap();
    files.iter().for_each(|file| fs::File::open(file).unwrap().sync_all().unwrap());
    files
}

/// Returns the calls of a run, without those that Rust's standard library makes in debug builds alone. A busy machine adds
/// other calls, which are left out as well: waits for other threads, and answers that are read again after 10 ms.
fn calls(verb: &str, files: &[PathBuf], nobody: bool, trace: &Path) -> Vec<String> {
    let words = ["taskset", "-c", "0", "strace", "-f", "-qq", "-e", "signal=none", "-o"];
    let call = Daxfile::new([verb]).args(files);
    let call = if nobody { call.as_nobody() } else { call };
    call.wrap(words.map(std::ffi::OsStr::new).into_iter().chain([trace.as_os_str()])).run().expect(0);
    let trace = fs::read_to_string(trace).unwrap();
    let calls = trace.lines().filter(|line| !["F_GETFD", " futex(", " resumed>"].iter().any(|not| line.contains(not)));
    let calls = calls.map(|line| line.split_once(' ').unwrap().1.trim_start());
    let mut in_swaps = false;
    let of_the_file = |call: &&str| {
        let before = in_swaps;
        in_swaps = call.starts_with("openat(AT_FDCWD, \"/proc/swaps\"") || in_swaps && !call.starts_with("close(");
        !before && !in_swaps && !call.starts_with("quotactl_fd(") && !call.starts_with("fstatfs(")
    };
    calls.filter(of_the_file).map(str::to_owned).collect()
}

/// The usual number of calls between one file's `first` call and the next file's.
fn usual(calls: &[String], first: &str) -> usize {
    let begins: Vec<usize> = (0..calls.len()).filter(|&at| calls[at].starts_with(first)).collect();
    assert!(begins.len() > FILES / 2, "{first}: {calls:#?}");
    let mut lengths: Vec<usize> = begins.windows(2).map(|pair| pair[1] - pair[0]).collect();
    lengths.sort_unstable();
    // On a busy machine, most files come after 10 ms and ask again for what others would share.
    lengths[lengths.len() / 10]
}

/// The calls of one more file, on the average, without those for memory and the ones made every few milliseconds.
fn average(one: &[String], all: &[String]) -> usize {
    const OTHERS: [&str; 8] =
        ["mmap", "munmap", "brk", "mremap", "madvise", "futex", "read", "openat(AT_FDCWD, \"/proc/"];
    let count = |calls: &[String]| {
        let ours = calls.iter().filter(|call| !OTHERS.iter().any(|other| call.starts_with(other)));
        ours.count()
    };
    (count(all) - count(one)).div_ceil(FILES - 1)
}

fn cost(kind: Kind, most: Most) {
    require(&["strace", "taskset"]);
    let scratch = Scratch::new(kind);
    let files = files(&scratch);
    let trace = scratch.path("trace");
    fs::write(&trace, "").unwrap();
    fs::set_permissions(&trace, fs::Permissions::from_mode(0o666)).unwrap();
    let by_handle = |verb: &str| usual(&calls(verb, &files, false, &trace), "name_to_handle_at(");
    let changed = |verb: &str| {
        let one = calls(verb, &files[..1], false, &trace);
        assert!(!one.iter().any(|call| call.starts_with("bpf(")), "{verb} asks for the guard: {one:#?}");
        average(&one, &calls(verb, &files[1..], false, &trace))
    };
    let (stat, check) = (by_handle("stat"), by_handle("check"));
    let pin = changed("pin");
    let verify = by_handle("verify");
    let unpin = changed("unpin");
    let counted = [stat, check, verify, pin, unpin];
    println!("{}: stat, check, verify, pin, unpin: {counted:?}", scratch.kind().name());
    // XFS before Linux 6.14 does not say that a file has no copy-on-write staging, and is asked for it.
    let exact = statx::get(fs::File::open(&files[0]).unwrap()).unwrap().direct_io_is_exact;
    let more = if scratch.kind().name() == "xfs" && !exact { 4 } else { 0 };
    let most = most.map(|most| most + more);
    assert!(counted.iter().zip(most).all(|(counted, most)| *counted <= most), "{counted:?}, at most {most:?}");

    // Without privileges, the names are looked up in another way.
    let nobodys = usual(&calls("stat", &files, true, &trace), "openat2(");
    assert!(nobodys <= most[0] + 4, "{nobodys}");
}

#[test]
fn calls_for_each_file_are_few() {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let most = match kind.name() {
            "xfs" => [7, 8, 8, 60, 45],
            _ => [8, 9, 9, 65, 45],
        };
        cost(kind, most);
    });
}
