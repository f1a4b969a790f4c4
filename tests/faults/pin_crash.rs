//! The filesystem crashes at any system call of `alloc`, `pin` and `unpin`: nothing is lost, and `stat` names every
//! partial state, which one command can finish.
//!
//! attacks/halt.c stops the program at the entry of its Nth call, and shuts the filesystem down there: with everything
//! written back, with the log flushed, or with neither. The program then continues on a dead filesystem, the next mount
//! replays the log, and independent programs examine the result.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use daxfile_tests::child::finish;
use daxfile_tests::generate::Random;
use daxfile_tests::tools::{Piece, attack, checksum, filefrag, flags, on, require, sh, sh_status, xfs_bmap};
use daxfile_tests::{Daxfile, Kind, Run, Scratch};

/// In the order of the ioctl's numbers.
const FLAVOURS: [&str; 3] = ["written back", "log flushed", "nothing flushed"];

/// Large enough that its loss shows in the free space.
const ALLOCATED: &str = "4M";

/// Crashes after which the filesystem is checked by its own program.
const CHECKED: usize = 12;

/// Crashes of each row that are tried by default.
const FEW: usize = 8;

const PATIENCE: Duration = Duration::from_secs(20);

/// A verb, from a certain state of the file.
struct Row {
    args: &'static [&'static str],
    /// Commands on the file before the verb
    before: &'static [&'static [&'static str]],
    /// The last commands on the file, for bash
    script: &'static str,
    /// The state after the verb has done its work
    done: &'static str,
    /// The arguments of the `pin` that finishes the work
    pin: &'static [&'static str],
}

const ROWS: &[Row] = &[
    Row { args: &["pin"], before: &[], script: "", done: "pinned", pin: &["pin"] },
    Row { args: &["pin"], before: &[&["pin"]], script: "chattr -i $F", done: "pinned", pin: &["pin"] },
    Row { args: &["pin", "--hold", "none"], before: &[], script: "", done: "pinned", pin: &["pin", "--hold", "none"] },
    Row { args: &["unpin"], before: &[&["pin"]], script: "", done: "unpinned", pin: &["pin"] },
    Row { args: &["unpin"], before: &[&["pin"]], script: "chattr -i $F", done: "unpinned", pin: &["pin"] },
    Row {
        args: &["unpin"],
        before: &[&["pin", "--hold", "none"]],
        script: "",
        done: "unpinned",
        pin: &["pin", "--hold", "none"],
    },
];

const ALLOCS: &[&[&str]] = &[&["alloc", "-s", ALLOCATED], &["alloc", "-s", ALLOCATED, "--align", "1M"]];

/// Where to crash.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Calls {
    /// Everywhere, in every flavour
    Every,
    /// At some calls, at random
    Few,
    /// At the last calls, nothing flushed: a verb that has said "done" must be right.
    Last,
}

/// A filesystem, and where it is not to be crashed.
struct Bench {
    scratch: Scratch,
    halt: PathBuf,
    crashes: usize,
    tally: BTreeMap<String, usize>,
}

impl Bench {
    fn new(kind: Kind) -> Bench {
        require(&["xfs_io", "filefrag", "lsattr", "chattr", "getfattr", "xfs_repair", "e2fsck", "stat"]);
        Bench { scratch: Scratch::new(kind), halt: attack("halt"), crashes: 0, tally: BTreeMap::new() }
    }

    /// The first call after the file's name was used, and the last one.
    fn calls(&self, command: &Daxfile, name: &Path) -> (usize, usize) {
        let out = self.scratch.image().with_file_name("calls");
        let halt = [self.halt.as_os_str(), "count".as_ref(), out.as_os_str(), name.as_os_str()];
        command.clone().wrap(halt).run().expect(0);
        let out = fs::read_to_string(out).unwrap();
        let numbers: Vec<usize> = out.split_whitespace().map(|number| number.parse().unwrap()).collect();
        assert!(numbers[0] > 0, "{} is in none of its calls", name.display());
        (numbers[0], numbers[1])
    }

    fn points(&self, (first, last): (usize, usize), which: Calls, random: &mut Random) -> Vec<(usize, usize)> {
        // One more: the crash after the program's end.
        let mut points: Vec<(usize, usize)> =
            (first..=last + 1).flat_map(|call| (0..FLAVOURS.len()).map(move |flavour| (call, flavour))).collect();
        if which == Calls::Last {
            points.retain(|&(call, flavour)| call + 12 > last && flavour == 2);
        }
        if which == Calls::Few {
            let step = points.len() / FEW;
            // Otherwise it would be one flavour throughout.
            let step = step - usize::from(step.is_multiple_of(FLAVOURS.len()));
            let start = usize::try_from(random.below(step as u64)).unwrap();
            points = points.into_iter().skip(start).step_by(step).collect();
        }
        points
    }

    fn crash(&mut self, command: &Daxfile, (call, flavour): (usize, usize)) -> Run {
        let (call, flavour) = (call.to_string(), flavour.to_string());
        let halt = [self.halt.as_os_str(), "crash".as_ref(), call.as_ref(), flavour.as_ref()];
        let halt = halt.into_iter().chain([self.scratch.mount_point().as_os_str()]);
        let run = command.clone().wrap(halt).run();
        assert!(run.status <= 5, "not an end that it should come to: {run}");
        self.scratch.remount();
        self.crashes += 1;
        run
    }

    fn count(&mut self, what: String) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// A loss remains until a repair, so the check need not run after each crash.
    fn fsck(&mut self) {
        self.scratch.unmount();
        let image = self.scratch.image().display().to_string();
        match self.scratch.kind() {
            Kind::Xfs(_) => sh(format!("xfs_repair -n '{image}' 2>&1 || {{ xfs_repair -n '{image}' >&2; exit 1; }}")),
            _ => sh(format!("e2fsck -f -n '{image}'")),
        };
        self.scratch.mount();
    }

    /// XFS gives a removed file's blocks back some time later.
    #[track_caller]
    fn expect_free(&self, blocks: u64, context: &str) {
        let start = Instant::now();
        // Inodes take some, the file 1,024.
        while self.free_blocks() + 100 < blocks {
            assert!(start.elapsed() < PATIENCE, "{context}: {blocks} blocks were free, {} are", self.free_blocks());
            sleep(Duration::from_millis(20));
        }
    }

    fn free_blocks(&self) -> u64 {
        let mount_point = self.scratch.mount_point().display();
        sh(format!("sync -f '{mount_point}'; stat -f --format %f '{mount_point}'")).trim().parse().unwrap()
    }
}

/// A file of many extents, written back.
fn fragmented(bench: &Bench) -> PathBuf {
    let file = bench.scratch.path("file");
    sh(on(
        &file,
        "for ((i = 0; i < 12; i++)); do
             for name in $F $F.between; do
                 dd if=/dev/urandom of=$name bs=20k count=1 seek=$i conv=notrunc,fsync status=none
             done
         done
         rm $F.between; truncate -s 240001 $F; sync -f $F",
    ));
    file
}

/// Contents, size, mtime, where the bytes are.
fn looks(bench: &Bench, file: &Path) -> (String, String, Vec<Piece>) {
    let stat = sh(on(file, "stat --format '%i %s %y' $F"));
    let map = filefrag(file);
    if bench.scratch.kind().name() == "xfs" {
        assert_eq!(map, xfs_bmap(file));
    }
    (checksum(file), stat, map)
}

/// The state by the table of the documentation, out of flag and record as others see them.
fn state(file: &Path, context: &str) -> &'static str {
    let attributes = sh(on(file, "getfattr -d -m - --absolute-names $F"));
    let has = |name: &str| attributes.lines().any(|line| line.starts_with(name));
    let immutable = flags(file).lines().any(|line| line.contains('i'));
    match (has("security.daxfile.pin="), has("user.daxfile.pin="), immutable) {
        (true, false, true) | (false, true, false) => "pinned",
        (true, false, false) => "not_held",
        (false, false, false) => "unpinned",
        other => panic!("{context}: no state of the table: frozen record, record of none, immutable: {other:?}"),
    }
}

/// `stat` and `verify` must agree with other programs.
#[track_caller]
fn named(file: &Path, context: &str) -> &'static str {
    let state = state(file, context);
    let stat = Daxfile::new(["stat", "--json"]).arg(file).run().expect(0);
    assert_eq!(stat.file()["pin"]["state"], state, "{context}: {stat}");
    let verify = Daxfile::new(["verify", "--json"]).arg(file).run();
    assert_eq!(verify.status, i32::from(state != "pinned"), "{context}: {verify}");
    if state == "not_held" {
        let notes = verify.file()["notes"].to_string();
        assert!(
            notes.contains("if it is unchanged, pin it again; otherwise unpin it first"),
            "{context}: the way out is not named: {verify}"
        );
    }
    state
}

fn crash_row(bench: &mut Bench, row: &Row, which: Calls, random: &mut Random) {
    let file = fragmented(bench);
    let clean = (looks(bench, &file), flags(&file));
    let set_up = || {
        for args in row.before {
            Daxfile::new(*args).arg(&file).run().expect(0);
        }
        sh(on(&file, row.script));
        sh(on(&file, "sync -f $F"));
    };
    set_up();
    let verb = Daxfile::new(row.args).arg(&file);
    let range = bench.calls(&verb, &file);
    Daxfile::new(["unpin"]).arg(&file).run().expect(0);
    let (before, name) = (bench.crashes, format!("{} ({:?} {})", row.args.join(" "), row.before, row.script));
    for (number, point) in bench.points(range, which, random).into_iter().enumerate() {
        set_up();
        let run = bench.crash(&verb, point);
        let context = format!("{name}, crashed at call {} of {range:?}, {}: {run}", point.0, FLAVOURS[point.1]);
        assert_eq!(looks(bench, &file), clean.0, "{context}");
        let state = named(&file, &context);
        assert!(run.status != 0 || state == row.done, "{context}: it said done, and is {state}");
        assert!(run.status == 0 || point.0 <= range.1, "{context}: it came to its end");

        // One command finishes it, either way.
        let (finish, finished) = if number % 2 == 0 { (row.pin, "pinned") } else { (&["unpin"][..], "unpinned") };
        Daxfile::new(finish).arg(&file).run().expect(0);
        assert_eq!(named(&file, &context), finished, "{context}: after {finish:?}");
        if number % 2 == 0 {
            Daxfile::new(["unpin"]).arg(&file).run().expect(0);
        }
        assert_eq!((looks(bench, &file), flags(&file)), clean, "{context}: unpinned");
        bench.count(format!("{}, {}: {state}", row.args.join(" "), FLAVOURS[point.1]));
        if number % CHECKED == CHECKED - 1 {
            bench.fsck();
        }
    }
    bench.fsck();
    eprintln!("{}: {name}: calls {range:?}, {} crashes", bench.scratch.kind().name(), bench.crashes - before);
    fs::remove_file(&file).unwrap();
}

/// Enough files that they are made durable by syncfs(2), not one by one.
const BATCH: usize = 20;

/// Flag and record of each file, as seen by other programs and by `stat`.
fn states(files: &[PathBuf], hold: &str, context: &str) -> Vec<&'static str> {
    let names: Vec<String> = files.iter().map(|file| format!("'{}'", file.display())).collect();
    let names = names.join(" ");
    let records = sh(format!("getfattr -m '^(security|user).daxfile' --absolute-names {names}"));
    let flags = sh(format!("lsattr {names}"));
    let states: Vec<&str> = files
        .iter()
        .map(|file| {
            let name = file.display().to_string();
            let recorded = records.lines().any(|line| line == format!("# file: {name}"));
            let line = flags.lines().find(|line| line.ends_with(&name)).unwrap();
            match (recorded, line.split(' ').next().unwrap().contains('i')) {
                (true, true) => "pinned",
                (true, false) if hold == "none" => "pinned",
                (true, false) => "not_held",
                (false, false) => "unpinned",
                (false, true) => panic!("{context}: immutable without a record: {name}"),
            }
        })
        .collect();
    let stat = Daxfile::new(["stat", "--json"]).args(files).run().expect(0).json();
    let named: Vec<_> = stat["files"].as_array().unwrap().iter().map(|file| file["pin"]["state"].clone()).collect();
    assert_eq!(named, states, "{context}");
    states
}

/// Crashes pin and unpin of many files. Each file must be in a state that one command finishes.
fn crash_batches(bench: &mut Bench, which: Calls, random: &mut Random) {
    for hold in ["frozen", "none"] {
        let pin = ["pin", "--hold", hold];
        crash_batch(bench, (&pin, "pinned"), &["unpin"], hold, which, random);
        crash_batch(bench, (&["unpin"], "unpinned"), &pin, hold, which, random);
    }
}

fn crash_batch(
    bench: &mut Bench,
    (verb, done): (&[&str], &str),
    before: &[&str],
    hold: &str,
    which: Calls,
    random: &mut Random,
) {
    let names = (0..BATCH).map(|n| bench.scratch.path(format!("batch{n}")));
    let files: Vec<PathBuf> = names.inspect(|file| fs::write(file, [7; 5000]).unwrap()).collect();
    let on_all = |args: &[&str]| Daxfile::new(args).args(&files);
    sh(on(&files[0], "sync -f $F"));
    let set_up = || {
        on_all(before).run().expect(0);
        sh(on(&files[0], "sync -f $F"));
    };
    let command = on_all(verb);
    set_up();
    // A batch names its files in an open directory.
    let range = bench.calls(&command, Path::new(files[0].file_name().unwrap()));
    for point in bench.points(range, which, random) {
        set_up();
        let run = bench.crash(&command, point);
        let context =
            format!("{verb:?} of {BATCH} files, crashed at {} of {range:?}, {}: {run}", point.0, FLAVOURS[point.1]);
        let states = states(&files, hold, &context);
        assert!(run.status != 0 || states.iter().all(|state| *state == done), "{context}: it said done: {states:?}");
        assert!(files.iter().all(|file| fs::read(file).unwrap() == [7; 5000]), "{context}");
        on_all(&["pin", "--hold", hold]).run().expect(0);
        assert_eq!(self::states(&files, hold, &context), ["pinned"; BATCH], "{context}: pinned again");
        on_all(&["unpin"]).run().expect(0);
        bench.count(format!("{} of a batch, hold {hold}, {}", verb[0], FLAVOURS[point.1]));
    }
    bench.fsck();
    for file in files {
        fs::remove_file(file).unwrap();
    }
}

/// Whether the file is whole: every byte there, zero, in written blocks.
fn whole(file: &Path) -> bool {
    let zero = sh_status(on(file, &format!("cmp -n {ALLOCATED} $F /dev/zero")));
    let size = fs::metadata(file).unwrap().len();
    let map = filefrag(file);
    let mapped: u64 = map.iter().filter(|piece| !piece.unwritten).map(|piece| piece.length).sum();
    zero == 0 && size == 4 << 20 && mapped == size
}

fn crash_alloc(bench: &mut Bench, args: &[&str], which: Calls, random: &mut Random) {
    let file = bench.scratch.path("allocated");
    let verb = Daxfile::new(args).arg(&file);
    let range = bench.calls(&verb, bench.scratch.mount_point());
    fs::remove_file(&file).unwrap();
    let (before, free) = (bench.crashes, bench.free_blocks());
    for (number, point) in bench.points(range, which, random).into_iter().enumerate() {
        let run = bench.crash(&verb, point);
        let context = format!("{args:?}, crashed at call {} of {range:?}, {}: {run}", point.0, FLAVOURS[point.1]);
        let there = file.exists();
        assert!(!there || whole(&file), "{context}: {:?}", filefrag(&file));
        assert!(there || run.status != 0, "{context}: it said done, and there is no file");
        assert!(run.status == 0 || point.0 <= range.1, "{context}: it came to its end");
        if !there {
            verb.run().expect(0);
            assert!(whole(&file), "{context}: made anew");
        }
        Daxfile::new(["check"]).args(&args[3..]).arg(&file).run().expect(0);
        fs::remove_file(&file).unwrap();
        bench.expect_free(free, &context);
        bench.count(format!("{}, {}: {}", args[0], FLAVOURS[point.1], if there { "whole" } else { "no file" }));
        if number % CHECKED == CHECKED - 1 {
            bench.fsck();
        }
    }
    bench.fsck();
    eprintln!("{}: {args:?}: calls {range:?}, {} crashes", bench.scratch.kind().name(), bench.crashes - before);
}

fn crashes(kind: Kind, which: Calls) {
    let mut bench = Bench::new(kind);
    let mut random = Random::new("pin_crash");
    for row in ROWS {
        crash_row(&mut bench, row, which, &mut random);
    }
    for args in ALLOCS {
        crash_alloc(&mut bench, args, which, &mut random);
    }
    crash_batches(&mut bench, which, &mut random);
    eprintln!(
        "{}: {} crashes, 0 lost bytes, 0 unnamed states: {:#?}",
        bench.scratch.kind().name(),
        bench.crashes,
        bench.tally
    );
    assert!(bench.crashes >= FEW * (ROWS.len() + ALLOCS.len()));
}

#[test]
fn crash_at_some_calls_can_be_finished_on_xfs() {
    crashes(Kind::xfs(), Calls::Few);
}

#[test]
fn crash_at_some_calls_can_be_finished_on_ext4() {
    crashes(Kind::ext4(), Calls::Few);
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn crash_at_every_call_can_be_finished_on_xfs() {
    crashes(Kind::xfs(), Calls::Every);
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn crash_at_every_call_can_be_finished_on_ext4() {
    crashes(Kind::ext4(), Calls::Every);
}

/// On XFS a directory's fsync(2) succeeds after a shutdown, too, with nothing on the disk.
#[test]
fn alloc_reports_done_only_when_durable() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let (mut bench, mut random) = (Bench::new(kind), Random::new("pin_crash"));
        crash_alloc(&mut bench, ALLOCS[0], Calls::Last, &mut random);
    }
}

/// For a batch, only syncfs(2) comes between "done" and a crash: no file that was reported done may be lost.
#[test]
fn batch_reports_done_only_when_durable() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let (mut bench, mut random) = (Bench::new(kind), Random::new("pin_crash"));
        crash_batches(&mut bench, Calls::Last, &mut random);
    }
}

/// An obvious way to allocate leaves half a file behind, and a flag without an fsync is lost: the harness sees both.
fn control(kind: Kind) {
    let mut bench = Bench::new(kind);
    let file = bench.scratch.path("control");
    let mut crash = |script: &str, flavour: &str, call: usize| {
        let mount_point = bench.scratch.mount_point().to_owned();
        let mut halted = Command::new(attack("halt"));
        halted.args(["crash", &call.to_string(), flavour]).arg(mount_point).args(["bash", "-c", &on(&file, script)]);
        let done = finish(&mut halted).status.success();
        bench.scratch.remount();
        done
    };
    let naive =
        format!("exec xfs_io -f -c 'falloc 0 {ALLOCATED}' -c fsync -c 'pwrite -q -S 0 0 {ALLOCATED}' -c fsync $F");
    let mut halves = 0;
    for call in (1..1000).step_by(8) {
        let done = crash(&naive, "1", call);
        halves += usize::from(file.exists() && !whole(&file));
        let _ = fs::remove_file(&file);
        if done {
            break;
        }
    }
    assert!(halves > 0, "no half file was ever seen");

    sh(on(&file, "echo > $F; sync -f $F"));
    assert!(crash("chattr +i $F", "2", 100_000), "chattr");
    assert!(!flags(&file).contains('i'), "a flag that was not made durable was kept");
}

#[test]
fn control_crash_leaves_half_a_file_on_xfs() {
    control(Kind::xfs());
}

#[test]
fn control_crash_leaves_half_a_file_on_ext4() {
    control(Kind::ext4());
}
