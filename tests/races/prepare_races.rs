//! `daxfile prepare` while other processes use the file: it must lose no acknowledged write.
//!
//! The programs of attacks/ write, and log the acknowledged writes. Before and after they end, the file must have
//! exactly these contents. The same harness sees the writes that obvious ways of preparing a file lose.
// Sizes of files of some MiB.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use daxfile_tests::child::{self, spawn};
use daxfile_tests::tools::{attack, require, sh};
use daxfile_tests::{Daxfile, Kind, Run, Scratch, Xfs};
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};

/// Words of the log's head, as attacks/attack.h has them.
const WRITES: u64 = 0;
const REFUSED: u64 = 1;
const LOST: u64 = 2;
const SIZE: u64 = 3;
const FROM: u64 = 4;
const FAILED: u64 = 5;
const HEAD: u64 = 8;

/// Races of each writer on each of three filesystems: 6 in all, or some 50.
const RACES: u64 = 2;
const LONG: u64 = 17;
/// Runs of `prepare` in a race.
const ROUNDS: u64 = 4;
/// The number of races in which the obvious ways must have lost something.
const CONTROL: u64 = 60;

/// The concurrent writer, and its way to write.
#[derive(Clone, Copy)]
struct Writer {
    program: &'static str,
    mode: &'static str,
    /// `held` throughout; or opened and closed for each write: `reopen` waits for leases, `nonblock` does not
    opens: &'static str,
    /// The appender sometimes starts from an empty file again.
    truncates: bool,
    /// Another process has it open read-only throughout, and reads.
    reader: bool,
    /// Blockers that it makes itself
    makes: &'static [&'static str],
}

const fn stamper(mode: &'static str, opens: &'static str) -> Writer {
    Writer { program: "stamp", mode, opens, truncates: false, reader: false, makes: &[] }
}

const fn appender(mode: &'static str, opens: &'static str) -> Writer {
    let makes = &["hole", "unwritten", "delalloc", "staging", "past_eof"];
    Writer { program: "append", mode, opens, truncates: false, reader: false, makes }
}

struct Random(u64);

impl Random {
    fn new() -> Random {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Random(mix(now.as_secs() ^ u64::from(now.subsec_nanos()) << 32))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0) % limit
    }
}

/// The same as in attacks/attack.h.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// The data that attacks/stamp.c puts into a block; counter 0 means zeros.
fn stamped(number: u64, counter: u64, block: u64) -> Vec<u8> {
    let word = |i| match (counter, i) {
        (0, _) => 0,
        (_, 0) => counter,
        _ => mix(counter << 40 ^ number << 16 ^ i),
    };
    (0..block / 8).flat_map(|i| word(i).to_ne_bytes()).collect()
}

/// The data that attacks/append.c puts between two offsets.
fn appended(from: u64, to: u64) -> Vec<u8> {
    let words = from / 8..to.div_ceil(8);
    let mut bytes: Vec<u8> = words.flat_map(|word| mix(word).to_le_bytes()).collect();
    bytes.truncate((to - from / 8 * 8) as usize);
    bytes.split_off((from % 8) as usize)
}

fn filesystems() -> Vec<Kind> {
    vec![Kind::xfs(), Xfs { block_size: 1024, ..Xfs::default() }.into(), Kind::ext4()]
}

/// A file with all work for `prepare`, and the log of acknowledged writes.
struct Subject {
    path: PathBuf,
    /// The file that has the shared blocks, and its contents
    origin: PathBuf,
    original: Vec<u8>,
    log: PathBuf,
    size: u64,
    block: u64,
    initial: Vec<u8>,
}

impl Subject {
    fn new(scratch: &Scratch, writer: &Writer, random: &mut Random) -> Subject {
        #[derive(Clone, Copy, PartialEq)]
        enum Sort {
            Hole,
            Unwritten,
            Written,
            Shared,
        }
        let block = scratch.kind().block_size();
        let blocks = (4 + random.below(5)) * (1 << 20) / block;
        let tail = if writer.mode == "direct" && writer.program == "append" { 0 } else { random.below(block) };
        let size = blocks * block + tail;
        let name = format!("file{}", random.below(u64::MAX));
        let (path, origin) = (scratch.path(&name), scratch.path(name.clone() + ".origin"));

        let mut sorts = Vec::new();
        while (sorts.len() as u64) < size.div_ceil(block) {
            let sort = [Sort::Hole, Sort::Unwritten, Sort::Written, Sort::Shared][random.below(4) as usize];
            sorts.extend(vec![sort; 1 + random.below(96) as usize]);
        }
        sorts.truncate(size.div_ceil(block) as usize);
        let counter = |sort| u64::from(matches!(sort, Sort::Written | Sort::Shared));
        let counters = sorts.iter().map(|&sort| counter(sort));
        let mut initial: Vec<u8> = (0..).zip(counters).flat_map(|(b, c)| stamped(b, c, block)).collect();
        initial.truncate(size as usize);
        let write = |file: &File, wanted: Sort| {
            for (number, _) in (0u64..).zip(&sorts).filter(|(_, sort)| **sort == wanted) {
                let length = block.min(size - number * block) as usize;
                file.write_all_at(&stamped(number, 1, block)[..length], number * block).unwrap();
            }
        };
        let shared = File::create(&origin).unwrap();
        shared.set_len(size).unwrap();
        write(&shared, Sort::Shared);
        drop(shared);
        let reflink = if matches!(scratch.kind(), Kind::Xfs(_)) { "always" } else { "never" };
        sh(format!("cp --reflink={reflink} --sparse=auto '{}' '{}'", origin.display(), path.display()));
        let file = File::options().read(true).write(true).open(&path).unwrap();
        write(&file, Sort::Written);
        let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        for (number, _) in (0i64..).zip(&sorts).filter(|(_, sort)| **sort == Sort::Unwritten) {
            let block = block as i64;
            fallocate(&file, keep, number * block, block).unwrap();
        }
        if writer.opens != "held" && random.below(2) == 0 {
            fallocate(&file, keep, (size.next_multiple_of(block)) as i64, 20 * block as i64).unwrap();
        }
        file.sync_all().unwrap();
        assert!(fs::read(&path).unwrap() == initial);

        let log = PathBuf::from(format!("{}.{name}", attack(writer.program).display()));
        let mut words = vec![0u64; HEAD as usize];
        (words[SIZE as usize], words[FROM as usize]) = (size, size);
        words.extend(sorts.iter().map(|&sort| counter(sort)));
        fs::write(&log, words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>()).unwrap();
        let original = fs::read(&origin).unwrap();
        Subject { path, origin, original, log, size, block, initial }
    }

    fn word(&self, index: u64) -> u64 {
        let mut word = [0; 8];
        File::open(&self.log).unwrap().read_exact_at(&mut word, index * 8).unwrap();
        u64::from_ne_bytes(word)
    }

    /// The expected contents after the writer has ended.
    fn acknowledged(&self, writer: &Writer) -> Vec<u8> {
        if writer.program == "append" {
            let (from, size) = (self.word(FROM), self.word(SIZE));
            return [&self.initial[..from as usize], &appended(from, size)].concat();
        }
        let blocks = self.size.div_ceil(self.block);
        let mut bytes: Vec<u8> = (0..blocks).flat_map(|b| stamped(b, self.word(HEAD + b), self.block)).collect();
        bytes.truncate(self.size as usize);
        bytes
    }

    /// The differences from the acknowledged writes, in the page cache and on the device; and the losses that the
    /// writer saw.
    fn losses(&self, expected: &[u8]) -> Vec<String> {
        let mut losses = Vec::new();
        if self.word(LOST) > 0 {
            losses.push(format!("the writer missed {} of its writes", self.word(LOST)));
        }
        let mut file = File::open(&self.path).unwrap();
        for place in ["cached", "on the device"] {
            let mut found = Vec::new();
            file.read_to_end(&mut found).unwrap();
            if found.len() != expected.len() {
                losses.push(format!("{place}: {} bytes instead of {}", found.len(), expected.len()));
            }
            let block = self.block as usize;
            let differ = expected.chunks(block).zip(found.chunks(block)).enumerate();
            let differ: Vec<usize> = differ.filter(|(_, (e, f))| e != f).map(|(number, _)| number).collect();
            if !differ.is_empty() {
                losses.push(format!("{place}: {} blocks differ: {:?}", differ.len(), &differ[..differ.len().min(8)]));
            }
            // Where a direct write collided with a dirty page it fails, whether or not something was lost.
            let _ = file.sync_all();
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
            file = File::open(&self.path).unwrap();
        }
        if fs::read(&self.origin).unwrap() != self.original {
            losses.push("the other owner of its blocks was changed".to_owned());
        }
        losses
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        for file in [&self.path, &self.origin, &self.log] {
            let _ = fs::remove_file(file);
        }
    }
}

/// A running writer.
struct Attacker<'a> {
    subject: &'a Subject,
    child: Child,
}

impl Attacker<'_> {
    fn start<'a>(subject: &'a Subject, writer: &Writer, random: &mut Random) -> Attacker<'a> {
        let mut command = Command::new(attack(writer.program));
        command
            .args([&subject.path, &subject.log])
            .args([&subject.block.to_string(), writer.mode, writer.opens, &random.below(u64::MAX).to_string()])
            .args(writer.truncates.then_some("truncate"));
        let child = spawn(command.stdin(Stdio::piped()).stderr(Stdio::piped()));
        let mut attacker = Attacker { subject, child };
        attacker.goes_on();
        attacker
    }

    /// Waits until the writer has written some more; it must not fail or hang. A writer that has seen a loss may end.
    fn goes_on(&mut self) {
        let (start, before) = (Instant::now(), self.subject.word(WRITES));
        while self.subject.word(WRITES) < before + 8 && self.subject.word(LOST) == 0 {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the writer ended: {status}: {}", self.complaints());
            }
            assert!(start.elapsed() < Duration::from_secs(30), "the writer hangs");
            sleep(Duration::from_millis(1));
        }
    }

    fn complaints(&mut self) -> String {
        let stderr = BufReader::new(self.child.stderr.take().unwrap());
        stderr.lines().map_while(Result::ok).collect::<Vec<_>>().join("\n")
    }

    fn stop(mut self) -> String {
        drop(self.child.stdin.take());
        let complaints = self.complaints();
        let status = self.child.wait().unwrap();
        let expected = i32::from(self.subject.word(LOST) > 0);
        assert!(status.code() == Some(expected), "the writer ended: {status}: {complaints}");
        complaints
    }
}

/// The result of a race.
struct Outcome {
    /// The expected contents
    expected: Vec<u8>,
    losses: Vec<String>,
}

/// Runs a writer during `meanwhile`.
fn race(writer: &Writer, subject: &Subject, random: &mut Random, meanwhile: impl FnOnce(&mut Attacker)) -> Outcome {
    let ended = AtomicBool::new(false);
    let complaints = scope(|threads| {
        let _ended = Ended(&ended);
        if writer.reader {
            let reader = File::open(&subject.path).unwrap();
            let ended = &ended;
            threads.spawn(move || {
                let mut bytes = vec![0; 1 << 16];
                while !ended.load(Ordering::Relaxed) {
                    for offset in (0..subject.size).step_by(1 << 16) {
                        reader.read_at(&mut bytes, offset).unwrap();
                    }
                    sleep(Duration::from_millis(1));
                }
            });
        }
        let mut attacker = Attacker::start(subject, writer, random);
        meanwhile(&mut attacker);
        attacker.stop()
    });
    let expected = subject.acknowledged(writer);
    let mut losses = subject.losses(&expected);
    losses.extend(complaints.lines().map(str::to_owned));
    Outcome { expected, losses }
}

/// Ends the reader, on a panic too: the scope waits for it.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// `prepare`, every other time slowed down at its calls by strace, to widen the gaps between a look and an act.
fn prepare(path: &Path, random: &mut Random, slow: bool) -> Run {
    let prepare = Daxfile::new(["prepare", "--json"]).arg(path);
    if !slow {
        return prepare.run();
    }
    require(&["strace"]);
    let calls = "fcntl,ioctl,statx,fsync,fallocate,ftruncate,pwrite64";
    let (first, step) = (1 + random.below(5), 1 + random.below(16));
    let inject = format!("inject={calls}:delay_enter={}:when={first}+{step}", 200 + random.below(2000));
    prepare.wrap(["strace", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e", &inject]).run()
}

/// The result of a run of `prepare`; panics if it is not allowed.
fn judge(run: &Run, writer: &Writer) -> String {
    let json = run.json();
    let file = &json["files"][0];
    let kinds: Vec<&str> = file["blockers"].as_array().into_iter().flatten().flat_map(|b| b["kind"].as_str()).collect();
    match run.status {
        0 if file["map"]["staging"]["state"] == "cannot_tell" => "prepared, staging unknown".to_owned(),
        0 => "prepared".to_owned(),
        5 => {
            let message = file["error"]["message"].as_str().unwrap();
            assert!(!message.is_empty(), "busy without a reason: {run}");
            message.split(['(', ';']).next().unwrap().to_owned()
        }
        1 if !kinds.is_empty() && kinds.iter().all(|kind| writer.makes.contains(kind)) => format!("{kinds:?}"),
        _ => panic!("{run}"),
    }
}

fn races(writer: Writer, races: u64) {
    // The counts of the answers of `prepare`, and of refused openers.
    let (mut tally, mut refused) = (BTreeMap::<String, u64>::new(), 0);
    for kind in filesystems() {
        let scratch = Scratch::new(kind);
        for _ in 0..races {
            let mut random = Random::new();
            let subject = Subject::new(&scratch, &writer, &mut random);
            let mut sayings = Vec::new();
            let mut timing = Random::new();
            let outcome = race(&writer, &subject, &mut random, |attacker| {
                for round in 0..ROUNDS {
                    let run = prepare(&subject.path, &mut timing, round % 2 == 1);
                    sayings.push(judge(&run, &writer));
                    // Without a lease, no opener may wait or be refused.
                    attacker.goes_on();
                }
            });
            let said = format!("{:?}: {sayings:#?}", scratch.kind());
            assert!(outcome.losses.is_empty(), "lost: {:#?}\n{said}", outcome.losses);
            assert_eq!(subject.word(FAILED), 0, "the writer's fdatasync failed: {said}");
            if writer.makes.is_empty() && sayings.iter().any(|saying| saying == "prepared") {
                unless_busy(Daxfile::new(["check"]).arg(&subject.path)).expect(0);
            }
            finish(&subject, &outcome.expected);
            refused += subject.word(REFUSED);
            for saying in sayings {
                *tally.entry(format!("{}: {saying}", scratch.kind().name())).or_default() += 1;
            }
        }
    }
    eprintln!("{} {} {}: {refused} opens refused, {tally:#?}", writer.program, writer.mode, writer.opens);
    if writer.opens != "held" {
        assert!(tally.keys().any(|said| said.ends_with("another process waits to open it")), "no lease was broken");
        assert_eq!(refused > 0, writer.opens == "nonblock");
    }
}

/// When no other process has the file open, it can be prepared, and then pinned, with the same contents.
fn finish(subject: &Subject, contents: &[u8]) {
    if !contents.is_empty() {
        unless_busy(Daxfile::new(["prepare", "-v"]).arg(&subject.path)).expect(0);
        unless_busy(Daxfile::new(["check"]).arg(&subject.path)).expect(0);
        assert_eq!(subject.losses(contents), [""; 0]);
    }
}

/// Another test's child holds copies of our descriptors between fork and exec.
fn unless_busy(daxfile: Daxfile) -> Run {
    let start = Instant::now();
    loop {
        let run = daxfile.run();
        if run.status != 5 || start.elapsed() > Duration::from_secs(20) {
            return run;
        }
        sleep(Duration::from_millis(5));
    }
}

macro_rules! races {
    ($($name:ident, $long:ident: $writer:expr;)*) => {$(
        #[test]
        fn $name() {
            races($writer, RACES);
        }

        #[test]
        #[ignore = "long: tests/run.sh --full"]
        fn $long() {
            races($writer, LONG);
        }
    )*};
}

races! {
    prepare_keeps_writes, prepare_keeps_writes_long: stamper("buffered", "held");
    prepare_keeps_mapped_stores, prepare_keeps_mapped_stores_long: stamper("mmap", "held");
    prepare_keeps_direct_writes, prepare_keeps_direct_writes_long: stamper("direct", "held");
    prepare_keeps_direct_writes_beside_a_reader, prepare_keeps_direct_writes_beside_a_reader_long:
        Writer { reader: true, ..stamper("direct", "held") };
    prepare_keeps_writes_of_reopened_files, prepare_keeps_writes_of_reopened_files_long: stamper("buffered", "reopen");
    prepare_keeps_mapped_stores_of_reopened_files, prepare_keeps_mapped_stores_of_reopened_files_long: stamper("mmap", "reopen");
    prepare_keeps_direct_writes_of_reopened_files, prepare_keeps_direct_writes_of_reopened_files_long: stamper("direct", "nonblock");
    prepare_keeps_appends, prepare_keeps_appends_long: appender("buffered", "held");
    prepare_keeps_direct_appends, prepare_keeps_direct_appends_long: appender("direct", "held");
    prepare_keeps_appends_of_reopened_files, prepare_keeps_appends_of_reopened_files_long: appender("buffered", "reopen");
    prepare_keeps_direct_appends_of_reopened_files, prepare_keeps_direct_appends_of_reopened_files_long: appender("direct", "nonblock");
    prepare_keeps_appends_after_truncation, prepare_keeps_appends_after_truncation_long: Writer {
        truncates: true,
        makes: &["hole", "unwritten", "delalloc", "staging", "past_eof", "empty"],
        ..appender("buffered", "reopen")
    };
}

#[test]
fn prepare_without_writers_keeps_contents() {
    let nobody = stamper("direct", "reopen");
    for kind in filesystems() {
        let scratch = Scratch::new(kind);
        for _ in 0..3 {
            let subject = Subject::new(&scratch, &nobody, &mut Random::new());
            finish(&subject, &subject.initial);
        }
    }
}

/// Slows `prepare` down at the nth of these calls.
fn delayed(subject: &Subject, call: &str, nth: usize, delay: &str, seconds: u64) -> Daxfile {
    require(&["strace"]);
    let inject = format!("inject={call}:{delay}={}:when={nth}", seconds * 1_000_000);
    let strace = ["strace", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject];
    Daxfile::new(["prepare", "--json"]).arg(&subject.path).wrap(strace)
}

#[test]
fn file_emptied_before_the_lease_stays_empty() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        for others in [false, true] {
            let subject = Subject::new(&scratch, &stamper("direct", "held"), &mut Random::new());
            let reader = others.then(|| File::open(&subject.path).unwrap());
            // It locks the file after it has examined it.
            let prepare = delayed(&subject, "flock", 1, "delay_enter", 2);
            let run = scope(|threads| {
                let run = threads.spawn(|| prepare.run());
                sleep(Duration::from_secs(1));
                File::create(&subject.path).unwrap();
                run.join().unwrap()
            });
            drop(reader);
            if run.status == 1 {
                assert_eq!(run.json()["files"][0]["blockers"][0]["kind"], "empty", "{run}");
            } else {
                run.expect(5);
            }
            assert_eq!(fs::metadata(&subject.path).unwrap().size(), 0);
        }
    }
}

/// Waits until a process has a lease on the file.
fn await_lease(path: &Path) {
    let inode = format!(":{} ", fs::metadata(path).unwrap().ino());
    let start = Instant::now();
    let held = |line: &str| line.contains(" LEASE ") && line.contains(&inode);
    while !fs::read_to_string("/proc/locks").unwrap().lines().any(held) {
        assert!(start.elapsed() < Duration::from_secs(30), "no lease");
        sleep(Duration::from_millis(1));
    }
}

/// Stops `prepare` at a call for longer than its lease lasts against an opener, which then writes.
fn broken_by_force(subject: &Subject, call: &str, nth: usize, write: impl FnOnce(&File) + Send) {
    let patience: u64 = fs::read_to_string("/proc/sys/fs/lease-break-time").unwrap().trim().parse().unwrap();
    let prepare = delayed(subject, call, nth, "delay_exit", patience + 10);
    let run = scope(|threads| {
        let run = threads.spawn(|| prepare.run());
        await_lease(&subject.path);
        // An opener that came before the call would end it there.
        sleep(Duration::from_secs(3));
        write(&File::options().write(true).open(&subject.path).unwrap());
        assert!(!run.is_finished(), "the lease was not broken by force");
        run.join().unwrap()
    });
    assert_eq!(judge(&run, &stamper("buffered", "reopen")), "busy: another process waits to open it");
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn prepare_writes_no_zeros_after_its_lease_was_broken() {
    for kind in [Kind::ext4(), Kind::xfs()] {
        let scratch = Scratch::new(kind);
        let subject = Subject::new(&scratch, &appender("direct", "held"), &mut Random::new());
        File::create(&subject.path).unwrap().set_len(subject.size).unwrap();
        let contents = appended(0, subject.size);
        // After the allocation of the hole, before the zeros.
        broken_by_force(&subject, "fallocate", 1, |file| file.write_all_at(&contents, 0).unwrap());
        assert_eq!(subject.losses(&contents), [""; 0]);
    }
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn prepare_cuts_nothing_after_its_lease_was_broken() {
    let scratch = Scratch::new(Kind::ext4());
    let contents = appended(0, 1 << 20);
    let make = || {
        let subject = Subject::new(&scratch, &appender("direct", "held"), &mut Random::new());
        fs::write(&subject.path, &contents).unwrap();
        let file = File::options().write(true).open(&subject.path).unwrap();
        fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, 2 << 20).unwrap();
        file.sync_all().unwrap();
        subject
    };
    // Which statx(2) it is that follows the first fsync(2), a twin tells.
    let twin = make();
    let trace = scratch.path("trace");
    let strace = ["strace", "-qq", "-e", "trace=statx,fsync", "-o"];
    Daxfile::new(["prepare"]).arg(&twin.path).wrap(strace.iter().copied().chain(trace.to_str())).run().expect(0);
    let trace = fs::read_to_string(trace).unwrap();
    let nth = 1 + trace.lines().take_while(|line| !line.contains("fsync(")).count();
    let subject = make();
    broken_by_force(&subject, "statx", nth, |file| file.write_all_at(&appended(1 << 20, 3 << 20), 1 << 20).unwrap());
    assert_eq!(subject.losses(&appended(0, 3 << 20)), [""; 0]);
}

/// Races until the naive way has lost something of the writer's; panics if it never does.
fn control(writer: Writer, kind: Kind, way: &str) {
    let scratch = Scratch::new(kind);
    for number in 0..CONTROL {
        let mut random = Random::new();
        let subject = Subject::new(&scratch, &writer, &mut random);
        let outcome = race(&writer, &subject, &mut random, |attacker| {
            for _ in 0..ROUNDS {
                let status = child::finish(Command::new(attack("naive")).arg(&subject.path).arg(way)).status;
                assert!(status.success(), "{status}");
                attacker.goes_on();
            }
        });
        if !outcome.losses.is_empty() {
            eprintln!("{way}: race {number}: {:#?}", outcome.losses);
            return;
        }
    }
    panic!("{way}: nothing lost in {CONTROL} races: the harness would not see a loss");
}

#[test]
fn control_touching_pages_loses_direct_writes() {
    control(stamper("direct", "held"), Kind::xfs(), "touch");
}

#[test]
fn control_populating_pages_loses_direct_writes() {
    control(stamper("direct", "held"), Kind::xfs(), "populate");
}

#[test]
fn control_cutting_loses_appended_records() {
    control(appender("buffered", "held"), Kind::xfs(), "cut");
}
