//! One attack on one file: the states before and after, and where the attack landed.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{panicking, sleep};
use std::time::{Duration, Instant};

use daxfile_tests::child::{finish, spawn};
use daxfile_tests::tools::{Piece, attack, filefrag, normalise, require, sh, xfs_bmap};
use daxfile_tests::{Daxfile, Kind, Scratch, report, run};

use crate::table::{Access, Attack, By, Effect, Expected, Fs, Hold};

/// Replaces the errno if the kernel ignores an operation that does not exist.
pub(crate) const NO_EFFECT: &str = "no effect";

/// The beginning of the message about a result that must never occur.
pub(crate) const UNSEEN: &str = "changed unseen";

/// Where an attack landed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It failed so, and nothing is different.
    Refused(String),
    /// It succeeded, and the map is the same.
    Harmless,
    /// It succeeded, and the map is the same except for blocks that other files share now.
    Shared,
    /// The attack changed something that a pin records, and `verify` says so.
    Detected,
    /// Such a file is not pinned.
    Unpinnable,
    /// This kernel does not have the operation.
    Absent,
}

impl Outcome {
    fn is(&self, expected: Expected) -> bool {
        match (self, expected) {
            (Outcome::Refused(errno), Expected::Refused(other)) => errno == other,
            (Outcome::Harmless, Expected::Harmless)
            | (Outcome::Shared, Expected::Shared)
            | (Outcome::Detected, Expected::Detected)
            | (Outcome::Unpinnable, Expected::Unpinnable) => true,
            _ => false,
        }
    }
}

/// The attacker's report on its attack.
#[derive(Debug)]
enum Said {
    Done,
    Refused { errno: String, all: String },
}

/// A place for files: a filesystem that many share, or one of its own.
enum Place {
    Shared(&'static Scratch, PathBuf),
    Own(Box<Scratch>),
}

impl Place {
    fn new(attack: &Attack, fs: Fs) -> Place {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if let Some(size) = attack.alone {
            return Place::Own(Box::new(Scratch::with_size(kind(fs), size << 20)));
        }
        static SHARED: [OnceLock<Scratch>; 2] = [const { OnceLock::new() }; 2];
        let scratch = SHARED[fs as usize].get_or_init(|| Scratch::with_size(kind(fs), 1 << 30));
        let dir = scratch.path(NUMBER.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir(&dir).expect("mkdir");
        Place::Shared(scratch, dir)
    }

    fn scratch(&self) -> &Scratch {
        match self {
            Place::Shared(scratch, _) => scratch,
            Place::Own(scratch) => scratch,
        }
    }

    fn dir(&self) -> &Path {
        match self {
            Place::Shared(_, dir) => dir,
            Place::Own(scratch) => scratch.mount_point(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Place::Shared(_, dir) = self
            && std::fs::remove_dir_all(&*dir).is_err()
        {
            let script = r#"chattr -R -f -ia "$1"; rm -rf "$1""#;
            finish(Command::new("sh").args(["-c", script, "sh"]).arg(&*dir));
        }
    }
}

fn kind(fs: Fs) -> Kind {
    match fs {
        Fs::Xfs => Kind::xfs(),
        Fs::Ext4 => {
            // A kernel without fs-verity mounts no filesystem with it.
            let verity = Path::new("/sys/fs/ext4/features/verity").exists();
            Kind::ext4_with(if verity { &["verity"] } else { &[] })
        }
    }
}

fn program() -> PathBuf {
    attack("strike")
}

/// Everything that may tell that an attack had an effect.
#[derive(Debug, PartialEq, Eq)]
struct State {
    /// The map as `daxfile` reads it, and as another program reads it; without sharing.
    maps: [Vec<Piece>; 2],
    shared: u64,
    facts: BTreeMap<String, String>,
    other: BTreeMap<String, String>,
}

impl State {
    fn map_is(&self, before: &State) -> bool {
        self.maps == before.maps
    }

    fn differs(&self, before: &State, effect: Effect) -> bool {
        let fact = |name| self.facts.get(name) != before.facts.get(name);
        match effect {
            Effect::Map => !self.map_is(before),
            Effect::Shared => self.shared > before.shared,
            Effect::Size => fact("size"),
            Effect::Contents => fact("contents"),
            Effect::Flags => fact("flags"),
            Effect::Inode => fact("inode"),
            Effect::Name => fact("name"),
            Effect::Blocks => fact("blocks"),
            Effect::Other => self.other != before.other,
            Effect::Itself => true,
        }
    }
}

struct Case<'a> {
    attack: &'a Attack,
    fs: Fs,
    place: Place,
    file: PathBuf,
    other: PathBuf,
    /// It has been pinned writable
    held: Cell<bool>,
}

impl Case<'_> {
    fn new(attack: &Attack, fs: Fs) -> Case<'_> {
        Case::try_new(attack, fs).unwrap_or_else(|complaint| panic!("make: {complaint}"))
    }

    fn try_new(attack: &Attack, fs: Fs) -> Result<Case<'_>, String> {
        let place = Place::new(attack, fs);
        let dir = place.dir().join("in");
        std::fs::create_dir(&dir).expect("mkdir");
        let (file, other) = (dir.join("file"), place.dir().join("other"));
        let case = Case { attack, fs, place, file, other, held: Cell::new(false) };
        let out = finish(Command::new(program()).args(["make", attack.file]).arg(&case.file).arg(&case.other));
        if !out.status.success() {
            return Err(String::from_utf8_lossy(&out.stderr).into_owned());
        }
        if !attack.setup.is_empty() {
            sh(case.script(attack.setup));
        }
        Ok(case)
    }

    /// A script that finds the file and its surroundings in variables.
    fn script(&self, script: &str) -> String {
        let scratch = self.place.scratch();
        let variables = [
            ("F", &*self.file),
            ("O", &*self.other),
            ("DIR", self.place.dir()),
            ("MNT", scratch.mount_point()),
            ("DEV", scratch.device()),
            ("IMAGE", scratch.image()),
        ];
        let set: String = variables.iter().map(|(name, path)| format!("{name}='{}'; ", path.display())).collect();
        format!("{set} FS={}; export F O DIR MNT DEV IMAGE; {script}", self.fs.name())
    }

    /// Returns the state, with the output of `stat` if the file exists.
    fn look(&self) -> (State, Vec<u8>) {
        let [facts, other] = facts([&self.file, &self.other]);
        let mut shared = 0;
        let mut maps = [Vec::new(), Vec::new()];
        let mut manifest = Vec::new();
        if facts.get("name").is_some_and(|name| name != "gone") {
            let stat = Daxfile::new(["stat", "--json", "--extents"]).arg(&self.file).run().expect(0);
            let all = stat.file();
            manifest = stat.stdout;
            let ours = all["extents"].as_array().expect("extents").iter().map(|extent| {
                let number = |name: &str| extent[name].as_u64().expect("a number");
                let flag = |name: &str| extent["flags"].as_array().expect("flags").iter().any(|flag| flag == name);
                let (logical, physical, length) = (number("logical"), number("physical"), number("length"));
                Piece { logical, physical, length, unwritten: flag("unwritten"), shared: flag("shared") }
            });
            let ours: Vec<Piece> = ours.collect();
            shared = ours.iter().filter(|piece| piece.shared).map(|piece| piece.length).sum();
            let theirs = match self.fs {
                Fs::Xfs => xfs_bmap(&self.file),
                Fs::Ext4 => filefrag(&self.file),
            };
            maps = [ours, theirs]
                .map(|pieces| normalise(pieces.into_iter().map(|piece| Piece { shared: false, ..piece }).collect()));
        }
        (State { maps, shared, facts, other }, manifest)
    }

    fn state(&self) -> State {
        self.look().0
    }

    fn pin(&self, hold: Hold) -> daxfile_tests::Run {
        let mut pin = Daxfile::new(["pin", "--hold", hold.name()]);
        if !self.attack.allow.is_empty() {
            pin = pin.args(["--allow", self.attack.allow]);
        }
        self.held.set(hold == Hold::Writable);
        pin.arg(&self.file).run()
    }

    /// The kernel releases the resources of an ended process a little later.
    fn pin_once_free(&self, hold: Hold) {
        let start = Instant::now();
        let mut pin = self.pin(hold);
        while pin.status == 5 && start.elapsed() < Duration::from_secs(10) {
            sleep(Duration::from_millis(20));
            pin = self.pin(hold);
        }
        pin.expect(0);
    }

    fn attacker(&self, access: Access) -> Attacker {
        match &self.attack.by {
            By::Strike(operation, block) => Attacker::Strike(Strike::new(self, access, operation, *block)),
            By::Shell(script) => Attacker::Shell(self.script(script)),
        }
    }
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if !self.attack.after.is_empty() {
            finish(Command::new("bash").args(["-c", &self.script(self.attack.after)]));
        }
        if self.held.get() {
            // Otherwise no process could delete it.
            let unpin = run(&["unpin"], &self.file);
            assert!(unpin.status == 0 || panicking(), "left under the guard: {unpin}");
        }
    }
}

fn facts(files: [&Path; 2]) -> [BTreeMap<String, String>; 2] {
    let out = finish(Command::new(program()).arg("facts").args(files));
    assert!(out.status.success(), "facts: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).expect("facts in ASCII");
    let mut all = text.split("\n\n").map(|facts| {
        let facts = facts.lines().map(|line| line.split_once(' ').expect("a name and a value"));
        facts.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    });
    [all.next().expect("facts"), all.next().expect("facts")]
}

enum Attacker {
    Strike(Strike),
    Shell(String),
}

impl Attacker {
    fn go(self) -> Said {
        match self {
            Attacker::Strike(strike) => strike.go(),
            Attacker::Shell(script) => {
                let out = finish(Command::new("bash").args(["-euc", &script]).env("LC_ALL", "C"));
                let all = [out.stdout, out.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
                if let Some((name, _)) = all.split_once(": command not found") {
                    require(&[name.rsplit(' ').next().unwrap_or(name)]);
                }
                if out.status.success() { Said::Done } else { Said::Refused { errno: errno_in(&all), all } }
            }
        }
    }
}

/// The name of the first error that a program's message tells.
fn errno_in(text: &str) -> String {
    let messages = [
        ("Operation not permitted", "EPERM"),
        ("Device or resource busy", "EBUSY"),
        ("Text file busy", "ETXTBSY"),
        ("Invalid argument", "EINVAL"),
        ("Operation not supported", "EOPNOTSUPP"),
        ("Inappropriate ioctl", "ENOTTY"),
        ("Permission denied", "EACCES"),
        ("File exists", "EEXIST"),
    ];
    let found = messages.iter().filter_map(|(message, errno)| Some((text.find(message)?, *errno))).min();
    found.map_or("failure", |(_, errno)| errno).to_owned()
}

/// The attacking program, once it has opened the file in the required way.
struct Strike {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// Its output in place of "ready"
    early: Option<String>,
}

impl Strike {
    fn new(case: &Case<'_>, access: Access, operation: &str, block: u32) -> Strike {
        let mut striker = Command::new(program());
        striker.args([access.argument(), operation]).arg(&case.file).arg(&case.other).arg(block.to_string());
        striker.env("STRIKE_DEVICE", case.place.scratch().device());
        let mut child = spawn(striker.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()));
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a pipe");
        let early = (line != "ready\n").then_some(line);
        Strike { child, stdout, early }
    }

    fn go(mut self) -> Said {
        let mut said = self.early.take().unwrap_or_default();
        if said.is_empty() {
            self.child.stdin.take().expect("a pipe").write_all(b"\n").expect("it waits for a line");
            self.stdout.read_to_string(&mut said).expect("a pipe");
        }
        let status = self.child.wait().expect("wait");
        let mut complaint = String::new();
        self.child.stderr.take().expect("a pipe").read_to_string(&mut complaint).expect("a pipe");
        assert!(status.success() && complaint.is_empty(), "the attacking program: {status}, {said}{complaint}");
        match said.trim_end().split(' ').collect::<Vec<_>>()[..] {
            ["done"] => Said::Done,
            ["refused", .., errno] => Said::Refused { errno: errno.to_owned(), all: said },
            _ => panic!("the attacking program said: {said:?}"),
        }
    }
}

impl Drop for Strike {
    fn drop(&mut self) {
        // It ends when it gets no line.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Checks that this machine holds files writable, as `guard` says.
pub(crate) fn pins_writable() {
    let scratch = Scratch::new(Kind::xfs());
    let file = scratch.path("file");
    run(&["alloc", "-s", "1M"], &file).expect(0);
    for verb in [&["pin", "--hold", "writable"][..], &["verify"], &["unpin"]] {
        run(verb, &file).expect(0);
    }
}

/// The attack on a file that nothing holds, where it must succeed and have its effect.
pub(crate) fn on_twin(attack: &Attack, access: Access, fs: Fs) -> Outcome {
    let case = Case::new(attack, fs);
    let attacker = case.attacker(access);
    let before = case.state();
    match attacker.go() {
        Said::Refused { errno, .. } if attack.lacks(fs, &errno) => Outcome::Absent,
        Said::Refused { all, .. } => panic!("refused on an unpinned file: {all}"),
        Said::Done => {
            let after = case.state();
            let effect = attack.effect;
            assert!(after.differs(&before, effect), "no change of {effect:?}\nbefore: {before:?}\nafter: {after:?}");
            Outcome::Harmless
        }
    }
}

/// The attack does not exist on this filesystem.
pub(crate) fn is_absent(attack: &Attack, access: Access, fs: Fs, declared: &str) {
    let case = match Case::try_new(attack, fs) {
        Ok(case) => case,
        Err(complaint) => return assert_eq!(errno_in(&complaint), declared, "{complaint}"),
    };
    let before = case.state();
    match case.attacker(access).go() {
        Said::Refused { errno, .. } if errno == declared => {}
        Said::Done if declared == NO_EFFECT && case.state() == before => {}
        said => panic!("declared as not there, {declared}; it said {said:?}"),
    }
}

/// The attack on a pinned file.
pub(crate) fn on_pinned(attack: &Attack, access: Access, fs: Fs, hold: Hold, expected: Expected) -> Outcome {
    if attack.may_lack.iter().any(|(lacking, ..)| *lacking == fs) && on_twin(attack, access, fs) == Outcome::Absent {
        return Outcome::Absent;
    }
    let case = Case::new(attack, fs);
    if expected == Expected::Unpinnable {
        run(&["pin", "--hold", hold.name()], &case.file).expect(1);
        return Outcome::Unpinnable;
    }
    let attacker = if access.is_before() {
        let writer = case.attacker(access);
        if access.is_busy(hold) {
            case.pin(hold).expect(5);
            drop(writer);
            case.pin_once_free(hold);
            // No process can open a frozen file for writing: the test clears the flag while the attacker opens it.
            let let_in = |flag: &str| {
                if hold == Hold::Frozen {
                    drop(sh(case.script(&format!("chattr {flag} $F"))))
                }
            };
            let_in("-i");
            let writer = case.attacker(access);
            let_in("+i");
            if hold == Hold::Frozen {
                assert_eq!(report(&["verify"], &case.file, 1)["pin"]["state"], "writer_inside");
            }
            writer
        } else {
            case.pin(hold).expect(0);
            writer
        }
    } else {
        case.pin(hold).expect(0);
        case.attacker(access)
    };
    let (before, manifest) = case.look();
    let said = attacker.go();
    let after = case.state();
    // The attacker has ended, but the kernel releases some of its resources, an io_uring for instance, a little later.
    let start = Instant::now();
    let mut verified = run(&["verify"], &case.file);
    while verified.text().contains("open for writing") && start.elapsed() < Duration::from_secs(10) {
        sleep(Duration::from_millis(20));
        verified = run(&["verify"], &case.file);
    }
    let outcome = land(&case, hold, &manifest, &before, &after, &said, &verified);
    assert!(
        outcome.is(expected),
        "declared {expected:?}, landed {outcome:?}: it said {said:?}\nbefore: {before:?}\nafter: {after:?}\n{verified}"
    );
    outcome
}

fn land(
    case: &Case<'_>,
    hold: Hold,
    manifest: &[u8],
    before: &State,
    after: &State,
    said: &Said,
    verified: &daxfile_tests::Run,
) -> Outcome {
    let unseen = || panic!("{UNSEEN}: it said {said:?}\nbefore: {before:?}\nafter: {after:?}\n{verified}");
    let gone = after.facts.get("name").is_some_and(|name| name == "gone");
    match verified.status {
        0 if !after.map_is(before) => unseen(),
        0 => {}
        1 => return Outcome::Detected,
        // If the file no longer exists, the manifest knows that there was one.
        2 if gone => {
            let kept = case.place.dir().join("manifest");
            std::fs::write(&kept, manifest).expect("a manifest");
            let against = Daxfile::new(["verify", "--against"]).arg(&kept).run();
            // A whiteout has the name, and is no file with a map.
            let whiteout = case.file.symlink_metadata().is_ok();
            assert!(against.status == if whiteout { 2 } else { 1 }, "the name is gone: {against}");
            return Outcome::Detected;
        }
        _ => unseen(),
    }
    match said {
        Said::Refused { errno, .. } => {
            // A program may have written in place before it was refused something else, as hold writable lets it.
            let free = |fact: &str| hold == Hold::Writable && ["contents", "inode"].contains(&fact);
            let fixed =
                |state: &State| -> Vec<_> { state.facts.clone().into_iter().filter(|(fact, _)| !free(fact)).collect() };
            assert!(fixed(after) == fixed(before), "refused, but\nbefore: {before:?}\nafter: {after:?}");
            Outcome::Refused(errno.clone())
        }
        Said::Done if after.shared > before.shared => {
            run(&["verify", "--strict"], &case.file).expect(1);
            Outcome::Shared
        }
        Said::Done => Outcome::Harmless,
    }
}
