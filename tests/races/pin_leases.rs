//! One event at a time between two calls of a pin: whatever another process does there, the pin must not succeed
//! without noticing it.
//!
//! attacks/halt.c holds the program at the entry of its Nth system call. Meanwhile attacks/intruder.c opens the file,
//! if necessary by breaking a lease by force; or another `daxfile` works on the same file.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use daxfile_tests::child::spawn;
use daxfile_tests::generate::Random;
use daxfile_tests::tools::{attack, checksum, looks, on, require, sh};
use daxfile_tests::{Daxfile, Kind, Run, Scratch, on_each};
use nix::errno::Errno;

const HANGS: Duration = Duration::from_secs(60);

/// The intruder's time to open the file. An opener that waits for a lease does not succeed in that time, unless the
/// lease is to be broken.
const MOMENT: Duration = Duration::from_millis(50);

/// Ways of attacks/intruder.c.
const WAYS: [&str; 5] = ["map", "write", "append", "empty", "cut"];

/// A `daxfile` that is stopped at a call.
pub(super) struct Held {
    child: Child,
    mark: PathBuf,
    command: String,
}

impl Held {
    /// Holds it at the entry of that call; or returns its result if it makes fewer calls.
    pub(super) fn at(call: usize, daxfile: &Daxfile, scratch: &Scratch) -> Result<Held, Run> {
        let mark = scratch.image().with_file_name("held");
        let (halt, number) = (attack("halt"), call.to_string());
        let wrapper = [halt.as_os_str(), "hold".as_ref(), number.as_ref(), mark.as_os_str()];
        let mut command = daxfile.clone().wrap(wrapper).command();
        let child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let mut held = Held { child, mark, command: format!("{command:?}") };
        let start = Instant::now();
        while !held.mark.exists() {
            if held.child.try_wait().unwrap().is_some() {
                return Err(held.end());
            }
            assert!(start.elapsed() < HANGS, "{} hangs", held.command);
            sleep(Duration::from_millis(1));
        }
        Ok(held)
    }

    /// Lets it go on to its end.
    pub(super) fn end(self) -> Run {
        let _ = fs::remove_file(&self.mark);
        let out = self.child.wait_with_output().unwrap();
        Run {
            command: self.command,
            status: out.status.code().expect("not killed"),
            stdout: out.stdout,
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }
}

/// Another process that wants to change the file.
struct Intruder {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Intruder {
    fn start(file: &Path, way: &str) -> Intruder {
        let mut command = Command::new(attack("intruder"));
        command.arg(file).arg(way).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(&mut command);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, answers) = channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Intruder { stdin: child.stdin.take(), child, answers }
    }

    fn answer(&self, patience: Duration) -> Option<String> {
        match self.answers.recv_timeout(patience) {
            Ok(answer) => Some(answer),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("the intruder ended without an answer"),
        }
    }

    /// Whether it could change the file now.
    fn changes(&mut self) -> bool {
        self.stdin.as_mut().unwrap().write_all(b"change\n").unwrap();
        self.answer(HANGS).expect("the intruder hangs") == "changed"
    }
}

impl Drop for Intruder {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lowers fs.lease-break-time to a second during its lifetime. A shell raises it again, however this process ends.
struct Impatient(Child);

impl Impatient {
    fn new() -> Impatient {
        require(&["flock"]);
        let script = "exec 9<$F; flock 9; old=$(cat $F); trap '' INT TERM HUP
            echo 1 >$F; echo lowered; cat >/dev/null; echo $old >$F";
        let mut shell = Command::new("bash");
        shell.args(["-c", &on("/proc/sys/fs/lease-break-time", script)]);
        let mut child = spawn(shell.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "lowered\n");
        Impatient(child)
    }
}

impl Drop for Impatient {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Written, and written back some time ago.
pub(super) fn new_file(scratch: &Scratch, name: &str) -> PathBuf {
    let file = scratch.path(name);
    sh(on(&file, "head -c 65536 /dev/urandom >$F; touch -d '1 minute ago' $F; sync -f $F"));
    file
}

/// Flag and records: `i`, `security` and `user`, or nothing.
pub(super) fn held_by(file: &Path) -> String {
    let text = sh(on(file, "lsattr $F | cut -d' ' -f1; getfattr -d -m pin --absolute-names $F"));
    let (flags, attributes) = text.split_once('\n').unwrap();
    let flag = flags.contains('i').then_some("i");
    let records = attributes.lines().filter_map(|line| line.split_once(".daxfile.pin=")).map(|(space, _)| space);
    flag.into_iter().chain(records).collect::<Vec<_>>().join(" ")
}

fn verify(file: &Path) -> Run {
    let run = Daxfile::new(["verify", "--json"]).arg(file).run();
    assert!(run.status <= 1, "{run}");
    run
}

/// The first and the last call after the file's name was used.
pub(super) fn calls(scratch: &Scratch, daxfile: &Daxfile, file: &Path) -> (usize, usize) {
    let out = scratch.image().with_file_name("calls");
    let halt = attack("halt");
    let run = daxfile.clone().wrap([halt.as_os_str(), "count".as_ref(), out.as_os_str(), file.as_os_str()]).run();
    run.expect(0);
    let text = fs::read_to_string(out).unwrap();
    let (first, last) = text.trim().split_once(' ').unwrap();
    (first.parse().unwrap(), last.parse().unwrap())
}

fn who(intruder: &Intruder) -> String {
    format!("open for writing by 1 process (PID {}); close it", intruder.child.id())
}

/// Every call, or about `few` calls, at random.
pub(super) fn chosen((first, last): (usize, usize), few: Option<usize>, random: &mut Random) -> Vec<usize> {
    let step = few.map_or(1, |few| ((last - first) / few).max(1));
    let start = usize::try_from(random.below(step as u64)).unwrap();
    (first + start..=last).step_by(step).collect()
}

/// A run may make fewer calls than the counted run, because it makes some only after a time: then it has ended.
fn put_away<T>(file: &Path) -> Result<T, ()> {
    Daxfile::new(["unpin"]).arg(file).run().expect(0);
    fs::remove_file(file).unwrap();
    Err(())
}

/// An intruder opens the file while the pin is stopped at a call. Returns the result of the pin, and the intruder's
/// result before the pin continued.
fn intrude(scratch: &Scratch, pin: &[&str], call: usize, way: &str, forced: bool) -> Option<String> {
    let file = new_file(scratch, "file");
    let original = looks(&file);
    let held =
        Held::at(call, &Daxfile::new(pin).arg("--json").arg(&file), scratch).or_else(|_| put_away(&file)).ok()?;
    let start = Instant::now();
    let mut intruder = Intruder::start(&file, way);
    let early = intruder.answer(if forced { HANGS } else { MOMENT });
    assert!(early.is_some() || !forced, "{pin:?} at {call}, {way}: the lease was not broken");
    let broken = forced && early.as_deref() == Some("in") && start.elapsed() > Duration::from_millis(800);
    let run = held.end();
    let answer = early.clone().or_else(|| intruder.answer(HANGS)).expect("the intruder hangs");
    let context = format!("{way} at call {call}: {early:?}, {answer}; {run}");

    let frozen = !pin.contains(&"none");
    let inside = answer == "in" && way != "cut";
    let at_success = looks(&file);
    match run.status {
        0 if frozen => {
            assert_eq!(held_by(&file), "i security", "{context}");
            assert!(early.as_deref() != Some("in") || !inside, "pinned over a writer: {context}");
            assert_eq!(verify(&file).status, i32::from(inside || at_success != original && way != "cut"), "{context}");
        }
        0 => assert_eq!(held_by(&file), "user", "{context}"),
        1 | 5 => assert_eq!(held_by(&file), "", "{context}"),
        _ => panic!("{context}"),
    }
    if run.status == 5 && inside && early.is_some() {
        // It stays, so whichever lease is refused because of it, the message names it.
        let error = &run.file()["error"];
        let named = error["message"].as_str().is_some_and(|message| message.contains(&who(&intruder)));
        assert!(named || error["errno"] != Errno::EAGAIN as i32, "{context}");
    }
    if inside {
        let changed = intruder.changes();
        assert!(changed || run.status == 0 && frozen, "refused without a pin: {context}");
    }
    drop(intruder);
    if run.status == 0 {
        // The contents may change where nothing holds them.
        let now = looks(&file);
        let differs = if frozen { now != at_success } else { now.1 != at_success.1 };
        assert!(!differs || verify(&file).status == 1, "{context}: {at_success:?} -> {now:?}");
        assert!(now != original || verify(&file).status == 0, "{context}: verify cries wolf");
        Daxfile::new(["unpin"]).arg(&file).run().expect(0);
    }
    assert_eq!(held_by(&file), "", "{context}");
    fs::remove_file(&file).unwrap();
    let when = if broken { "let in by force" } else { early.as_ref().map_or("waits", |early| early) };
    Some(format!("{way} {when}: {}", run.status))
}

fn intrusions(kind: Kind, pin: &[&str], ways: &[&str], few: Option<usize>, forced: bool) -> BTreeMap<String, usize> {
    require(&["filefrag", "lsattr", "getfattr"]);
    let (scratch, mut random) = (Scratch::new(kind), Random::new("pin_leases"));
    let file = new_file(&scratch, "file");
    let range = calls(&scratch, &Daxfile::new(pin).arg("--json").arg(&file), &file);
    Daxfile::new(["unpin"]).arg(&file).run().expect(0);
    let mut tally = BTreeMap::new();
    for way in ways {
        for call in chosen(range, few, &mut random) {
            let came = intrude(&scratch, pin, call, way, forced).unwrap_or_else(|| "ended before".to_owned());
            *tally.entry(format!("{}: {came}", pin.join(" "))).or_default() += 1;
        }
    }
    eprintln!("{}, forced: {forced}: {tally:#?}", scratch.kind().name());
    tally
}

const FROZEN: &[&str] = &["pin"];
const NONE: &[&str] = &["pin", "--hold", "none"];

fn opener_during_pin(few: Option<usize>) {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let tally = intrusions(kind, FROZEN, &WAYS, few, false);
        // Before the flag it comes in, and the pin is busy; after it, it is refused.
        for seen in ["pin: map in: 5", "pin: write in: 5", "pin: map refused: 0", "pin: cut refused: 0"] {
            assert!(tally.contains_key(seen), "{seen}: never seen");
        }
    });
}

#[test]
fn openers_during_pin_are_noticed_at_some_calls() {
    opener_during_pin(Some(10));
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn openers_during_pin_are_noticed_at_every_call() {
    opener_during_pin(None);
}

fn leases_broken_by_force(ways: &[&str], few: Option<usize>) {
    let _impatient = Impatient::new();
    on_each(Kind::xfs_and_ext4(), |kind| {
        // Before the flag, frozen has its lease for one call only; none has it nearly throughout.
        for (pin, few) in [(FROZEN, None), (NONE, few)] {
            let tally = intrusions(kind.clone(), pin, ways, few, true);
            assert!(tally.keys().any(|key| key.contains("by force")), "{pin:?}: no lease was broken by force");
        }
    });
}

#[test]
fn pin_notices_a_lease_broken_by_force() {
    leases_broken_by_force(&["map"], Some(6));
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn pin_notices_a_lease_broken_by_force_in_every_way() {
    leases_broken_by_force(&WAYS, None);
}

/// A file for which each verb has something to do, `prepare` too.
fn unprepared(scratch: &Scratch, held: &str) -> PathBuf {
    let file = new_file(scratch, "file");
    sh(on(&file, "fallocate -l 200K $F; touch -d '1 minute ago' $F; sync -f $F"));
    if held == "unpin" {
        verb("pin", &file).run().expect(0);
    }
    file
}

fn verb(name: &str, file: &Path) -> Daxfile {
    let allow: &[&str] = if name == "pin" { &["--allow", "unwritten"] } else { &[] };
    Daxfile::new([name]).args(allow).arg("--json").arg(file)
}

/// One `daxfile` works on the file while another is stopped at a call.
fn pair(scratch: &Scratch, held: &str, other: &str, call: usize) -> Option<(i32, i32)> {
    let file = unprepared(scratch, held);
    let (contents, before) = (checksum(&file), held_by(&file));
    let halted = Held::at(call, &verb(held, &file), scratch).or_else(|_| put_away(&file)).ok()?;
    let second = verb(other, &file).run();
    let first = halted.end();
    let context = format!("{held} at call {call}, meanwhile {other}: {first}, {second}");
    assert!([0, 1, 5].contains(&first.status) && [0, 1, 5].contains(&second.status), "{context}");
    // Opening a file is enough to end a lease of prepare's.
    assert!(held == "prepare" || (first.status, second.status) != (5, 5), "{context}: each was in the other's way");
    assert_eq!(checksum(&file), contents, "{context}");

    // As if the successful ones had run one after the other, in either order.
    let ends = [(held, first.status), (other, second.status)].into_iter().filter(|&(_, status)| status == 0);
    let mut legal: Vec<&str> = ends.filter(|&(name, _)| name != "prepare").map(|(name, _)| end_of(name)).collect();
    if legal.is_empty() {
        legal.push(&before);
    }
    let now = held_by(&file);
    assert!(legal.contains(&now.as_str()), "{context}: held by {now:?}");
    assert_eq!(verify(&file).status, i32::from(now.is_empty()), "{context}");
    verb("unpin", &file).run().expect(0);
    assert_eq!(held_by(&file), "", "{context}");
    fs::remove_file(&file).unwrap();
    Some((first.status, second.status))
}

fn end_of(name: &str) -> &'static str {
    if name == "pin" { "i security" } else { "" }
}

fn pairs(few: Option<usize>) {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let (scratch, mut random) = (Scratch::new(kind), Random::new("pin_leases"));
        for held in ["pin", "unpin", "prepare"] {
            let file = unprepared(&scratch, held);
            let range = calls(&scratch, &verb(held, &file), &file);
            verb("unpin", &file).run().expect(0);
            for other in ["pin", "unpin", "prepare"] {
                let mut tally = BTreeMap::<_, usize>::new();
                for call in chosen(range, few, &mut random) {
                    *tally.entry(pair(&scratch, held, other, call)).or_default() += 1;
                }
                eprintln!("{}: {held} and {other}: {tally:?}", scratch.kind().name());
                // `prepare` comes to its lock only where it still finds something to do: a few calls may miss that.
                let seldom = few.is_some() && other == "prepare";
                let busy = tally.keys().flatten().any(|statuses| statuses.1 == 5);
                assert!(busy || seldom, "{held} and {other}: never busy");
            }
        }
    });
}

#[test]
fn second_daxfile_is_excluded_at_some_calls() {
    pairs(Some(8));
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn second_daxfile_is_excluded_at_every_call() {
    pairs(None);
}
