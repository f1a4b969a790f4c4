//! `pin` and `unpin` while four hostile threads open, truncate, write, extend, map and clone: a pin that reports
//! success must not have missed a writer.
//!
//! attacks/hostile.c continues after the pin's success, with the descriptors and mappings that it still has. `verify`
//! must report every later change that independent programs see, and every process that still has the file open for
//! writing. The same harness sees the writers that an obvious way of pinning misses.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use daxfile_tests::child::{Killed, finish, spawn};
use daxfile_tests::generate::Random;
use daxfile_tests::tools::{attack, looks, on, require, sh};
use daxfile_tests::{Daxfile, Kind, Run, Scratch};

/// Words of the log, as attacks/hostile.c has them.
const NUMBER: u64 = 8;
const ORDER: u64 = 9;
const TEMPER: u64 = 10;
const PAUSE: u64 = 11;
const POUNCERS: u64 = 12;
const INSIDE: u64 = 13;
const LATE: u64 = 14;
const THROUGH: u64 = 15;
const OPENED: u64 = 16;
const SEEN: u64 = 17;
const THREADS: u64 = 4;

/// Pins of each run.
const FEW: u64 = 100;
const MANY: u64 = 5000;
/// In an emulated machine with one processor, which other tasks mostly use.
const HOGGED: u64 = 20;
/// Pins on one file before it is given up as busy.
const TRIES: u64 = 5;
/// Files made at once.
const BATCH: u64 = 100;

const HANGS: Duration = Duration::from_secs(60);

/// The order to the hostile threads.
#[derive(Clone, Copy)]
enum Order {
    Rest,
    Attack,
    Persist,
    Freeze,
}

/// How files are pinned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Daxfile,
    /// attacks/lease_first.c; the flag alone shows the pin.
    LeaseFirst,
    /// The same under a record that `daxfile` made, and compares
    LeaseFirstRecorded,
}

impl Way {
    fn prepare(self, file: &Path) {
        if self == Way::LeaseFirstRecorded {
            Daxfile::new(["pin"]).arg(file).run().expect(0);
            sh(on(file, "chattr -i $F"));
        }
    }

    fn pin(self, file: &Path) -> Run {
        match self {
            Way::Daxfile => Daxfile::new(["pin", "--json"]).arg(file).run(),
            Way::LeaseFirstRecorded => run_program(Command::new(attack("lease_first")).arg(file).arg("recorded")),
            Way::LeaseFirst => run_program(Command::new(attack("lease_first")).arg(file).arg("record")),
        }
    }

    fn verify(self, file: &Path) -> Run {
        match self {
            Way::Daxfile | Way::LeaseFirstRecorded => Daxfile::new(["verify", "--json"]).arg(file).run(),
            Way::LeaseFirst => {
                run_program(Command::new("bash").args(["-c", &on(file, "[[ $(lsattr $F) == *i*' '* ]]")]))
            }
        }
    }

    fn unpin(self, file: &Path) -> Run {
        match self {
            Way::Daxfile | Way::LeaseFirstRecorded => Daxfile::new(["unpin", "--json"]).arg(file).run(),
            Way::LeaseFirst => run_program(
                Command::new("bash").args(["-c", &on(file, "chattr -i $F && setfattr -x security.daxfile.pin $F")]),
            ),
        }
    }
}

/// Four hostile threads, and the files of a filesystem that they are sent against.
struct Siege {
    scratch: Scratch,
    log: File,
    hostile: Child,
    orders: u64,
    number: u64,
}

impl Siege {
    fn new(kind: Kind, random: &mut Random) -> Siege {
        require(&["filefrag", "lsattr", "getfattr", "setfattr", "chattr", "split"]);
        let scratch = Scratch::new(kind);
        let log = scratch.image().with_file_name("log");
        fs::write(&log, [0; 8 * 32]).unwrap();
        sh(on(scratch.path("donor"), "head -c 65536 /dev/urandom > $F; sync -f $F"));
        let mut hostile = Command::new(attack("hostile"));
        hostile.args([scratch.mount_point(), &log]).arg(random.below(u64::MAX).to_string());
        let hostile = spawn(hostile.stdin(Stdio::piped()));
        let log = File::options().read(true).write(true).open(log).unwrap();
        Siege { scratch, log, hostile, orders: 0, number: 0 }
    }

    fn word(&self, index: u64) -> u64 {
        let mut word = [0; 8];
        self.log.read_exact_at(&mut word, index * 8).unwrap();
        u64::from_ne_bytes(word)
    }

    fn set(&self, index: u64, word: u64) {
        self.log.write_all_at(&word.to_ne_bytes(), index * 8).unwrap();
    }

    fn order(&mut self, order: Order) {
        self.orders += 1;
        self.set(ORDER, self.orders << 8 | order as u64);
    }

    /// Waits until each thread has taken up the last order.
    fn obeyed(&mut self) {
        let (start, order) = (Instant::now(), self.word(ORDER));
        while (0..THREADS).any(|thread| self.word(SEEN + thread) != order) {
            let ended = self.hostile.try_wait().unwrap();
            assert!(ended.is_none(), "the hostile threads ended: {ended:?}");
            assert!(start.elapsed() < HANGS, "a hostile thread hangs");
            sleep(Duration::from_micros(200));
        }
    }

    /// The next fresh file: 64 KiB, written back.
    fn next_file(&mut self) -> PathBuf {
        if self.number.is_multiple_of(BATCH) {
            let script = format!(
                "cd $F; head -c {} /dev/urandom | split -b 64K -a 6 --numeric-suffixes={} - f; sync -f .",
                BATCH * 65536,
                self.number
            );
            sh(on(self.scratch.mount_point(), &script));
        }
        let file = self.scratch.path(format!("f{:06}", self.number));
        self.set(NUMBER, self.number);
        self.number += 1;
        file
    }
}

impl Drop for Siege {
    fn drop(&mut self) {
        drop(self.hostile.stdin.take());
        let _ = self.hostile.kill();
        let _ = self.hostile.wait();
    }
}

fn run_program(command: &mut Command) -> Run {
    let out = finish(command);
    Run {
        command: format!("{command:?}"),
        status: out.status.code().expect("not killed"),
        stdout: out.stdout,
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// There must be no flag and no record left.
#[track_caller]
fn expect_free(file: &Path) {
    let left = sh(on(file, "lsattr $F | cut -d' ' -f1 | tr -d e-; getfattr -d -m pin --absolute-names $F"));
    assert!(left.trim().is_empty(), "{}: left behind: {left}", file.display());
}

#[derive(Default, Debug)]
struct Tally {
    pins: u64,
    succeeded: u64,
    busy: u64,
    /// Changed before the pin, so that it cannot be pinned
    unfit: u64,
    opened_for_writing: u64,
    /// Pins that succeeded with a writer inside, or changed afterwards
    let_in: u64,
    /// The part of these that verify reports
    seen: u64,
    /// The part of these that verify does not report
    unseen: u64,
    /// Seen by verify alone
    seen_alone: u64,
    why_busy: BTreeMap<String, u64>,
    unseen_ones: Vec<String>,
}

impl Tally {
    /// After a pin's success: has the file changed, or can it, and does verify report that?
    fn judge(&mut self, way: Way, siege: &mut Siege, file: &Path, random: &mut Random) {
        siege.order(Order::Persist);
        let before = looks(file);
        siege.obeyed();
        sleep(Duration::from_micros(random.below(8000)));
        siege.set(INSIDE, 0);
        siege.order(Order::Freeze);
        siege.obeyed();
        let (inside, late, through) = (siege.word(INSIDE), siege.word(LATE), siege.word(THROUGH));
        assert_eq!(through, 0, "opened or cut by path after it was pinned: {}", file.display());
        let verify = way.verify(file);
        let after = looks(file);
        let changed = before != after || late > 0;
        let said = format!("{inside} inside, {late} late changes, {before:?} -> {after:?}: {verify}");
        assert!(verify.status <= 1, "{said}");
        if changed || inside > 0 {
            self.let_in += 1;
            if verify.status == 1 {
                self.seen += 1;
            } else {
                self.unseen += 1;
                self.unseen_ones.push(said.clone());
            }
            eprintln!(
                "{}: let in: {inside} inside, {late} late changes; verify: {}",
                siege.scratch.kind().name(),
                verify.status
            );
        } else if verify.status == 1 {
            self.seen_alone += 1;
        }
        if changed && way != Way::LeaseFirst {
            // The change still shows when no process is inside any more.
            siege.order(Order::Rest);
            siege.obeyed();
            let verify = way.verify(file);
            assert!(verify.status == 1 && verify.file()["pin"]["state"] == "drifted", "{said}, then {verify}");
        }
    }

    fn round(&mut self, way: Way, siege: &mut Siege, random: &mut Random) {
        let file = siege.next_file();
        siege.set(LATE, 0);
        siege.set(THROUGH, 0);
        let pick = |random: &mut Random, of: &[u64]| of[usize::try_from(random.below(of.len() as u64)).unwrap()];
        way.prepare(&file);
        // Changes before the control sets the flag would show anyway, and its record is no sign to wait for.
        let recorded = way == Way::LeaseFirstRecorded;
        let (tempers, pouncers): (&[u64], &[u64]) =
            if recorded { (&[0], &[0]) } else { (&[0, 0, 0, 5, 30, 300], &[0, 2, 4, 4]) };
        siege.set(TEMPER, pick(random, tempers));
        siege.set(POUNCERS, pick(random, pouncers));
        siege.set(PAUSE, pick(random, &[500, 3000, 10_000, 30_000]));
        siege.order(Order::Attack);
        siege.obeyed();
        for _ in 0..TRIES {
            sleep(Duration::from_micros(random.below(2000)));
            let pin = way.pin(&file);
            match pin.status {
                0 => {
                    self.pins += 1;
                    self.succeeded += 1;
                    self.judge(way, siege, &file, random);
                    // They attack while it is unpinned, too, or every other time have gone away.
                    siege.order(if random.percent(50) { Order::Attack } else { Order::Rest });
                    siege.obeyed();
                    way.unpin(&file).expect(0);
                    break;
                }
                5 => {
                    self.pins += 1;
                    self.busy += 1;
                    if way == Way::Daxfile {
                        let message = pin.file()["error"]["message"].as_str().unwrap().to_owned();
                        *self.why_busy.entry(message).or_default() += 1;
                    }
                }
                1 => {
                    self.unfit += 1;
                    break;
                }
                _ => panic!("{pin}"),
            }
        }
        siege.order(Order::Rest);
        siege.obeyed();
        if recorded {
            way.unpin(&file).expect(0);
        }
        expect_free(&file);
        self.opened_for_writing = siege.word(OPENED);
        fs::remove_file(&file).unwrap();
    }
}

fn besiege(way: Way, kind: Kind, until: impl Fn(&Tally) -> bool) -> Tally {
    let mut random = Random::new("pin_races");
    let (mut siege, mut tally, start) = (Siege::new(kind, &mut random), Tally::default(), Instant::now());
    while !until(&tally) {
        tally.round(way, &mut siege, &mut random);
    }
    eprintln!("{}: {tally:#?} in {} s", siege.scratch.kind().name(), start.elapsed().as_secs());
    tally
}

fn pins(kind: Kind, pins: u64) -> Tally {
    let tally = besiege(Way::Daxfile, kind, |tally| tally.pins >= pins || tally.unseen > 0);
    assert_eq!(tally.unseen, 0, "let in unseen: {:#?}", tally.unseen_ones);
    assert!(tally.succeeded >= pins / 10, "too few succeeded for this to say much");
    assert!(tally.busy >= pins / 10, "too few were disturbed for this to say much");
    tally
}

fn thousands(kind: Kind) {
    let tally = pins(kind, MANY);
    assert!(tally.busy >= 500, "too few were busy");
    // Before the flag was set, and after it.
    assert!(tally.why_busy.len() > 1, "all were busy for one reason");
}

#[test]
fn pins_under_attack_on_xfs() {
    pins(Kind::xfs(), FEW);
}

#[test]
fn pins_under_attack_on_ext4() {
    pins(Kind::ext4(), FEW);
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn thousands_of_pins_under_attack_on_xfs() {
    thousands(Kind::xfs());
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn thousands_of_pins_under_attack_on_ext4() {
    thousands(Kind::ext4());
}

/// One processor, on which a real-time thread interrupts other tasks between a check and the action that depends on it.
fn hogged(kind: Kind) {
    let debugfs = "mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug";
    let preemption = format!("{debugfs}; cat /sys/kernel/debug/sched/preempt");
    assert!(sh(preemption).contains("(full)"), "this needs preempt=full");
    sh("echo 0 >/sys/devices/system/cpu/cpu1/online");
    let hog = Killed(spawn(&mut Command::new(attack("hog"))));
    let tally = besiege(Way::Daxfile, kind, |tally| tally.pins >= HOGGED || tally.unseen > 0);
    drop(hog);
    sh("echo 1 >/sys/devices/system/cpu/cpu1/online");
    assert_eq!(tally.unseen, 0, "let in unseen: {:#?}", tally.unseen_ones);
    assert!(tally.succeeded > 0, "none succeeded");
}

#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL races pin_races"]
fn pins_beside_a_real_time_hog_in_the_lab() {
    hogged(Kind::xfs());
    hogged(Kind::ext4());
}

/// The same harness must see the writers that the obvious way lets in.
fn control(kind: Kind) {
    let tally = besiege(Way::LeaseFirst, kind, |tally| tally.pins >= FEW || tally.unseen > 5);
    assert!(tally.unseen > 0, "lease first: nobody got in: the harness would not see it");
}

#[test]
fn control_lease_first_lets_writers_in_on_xfs() {
    control(Kind::xfs());
}

#[test]
fn control_lease_first_lets_writers_in_on_ext4() {
    control(Kind::ext4());
}

/// `verify` sees a writer that was let in, however it got in.
fn control_seen(kind: Kind) {
    let tally = besiege(Way::LeaseFirstRecorded, kind, |tally| tally.pins >= FEW || tally.let_in > 5);
    assert!(tally.seen > 0, "nobody got in");
    assert_eq!(tally.unseen, 0, "let in unseen: {:#?}", tally.unseen_ones);
}

#[test]
fn control_verify_reports_admitted_writers_on_xfs() {
    control_seen(Kind::xfs());
}

#[test]
fn control_verify_reports_admitted_writers_on_ext4() {
    control_seen(Kind::ext4());
}
