//! Real programs on pinned files, and pinned files beside other work on their filesystem.
//!
//! `table` declares how each program takes each hold, `programs.sh` runs it, `page` keeps the table in daxfile-holds(7), which
//! `UPDATE_HOLDS=1` rewrites in the lab, where files can be held writable. `beside` runs other work.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod beside;
mod page;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use daxfile_tests::tools::require;
use daxfile_tests::trials::{arguments, guard, trial};
use daxfile_tests::{Daxfile, Kind, Scratch, run};
use libtest_mimic::Trial;

use page::Page;
use table::{Expected, HOLDS, PROGRAMS, Program, Tried};

/// Its name for mount(8), its name for people, and how it is made.
type Filesystem = (&'static str, &'static str, fn() -> Kind);

/// In the order of the columns.
const FILESYSTEMS: [Filesystem; 2] = [("xfs", "XFS", Kind::xfs), ("ext4", "ext4", Kind::ext4)];

/// What a program did under one hold on one filesystem.
#[derive(Clone, Debug)]
struct Did {
    text: &'static str,
    wrote: u64,
    verified: u64,
}

/// By the number of the program, and the column.
type Found = Arc<Mutex<BTreeMap<(usize, usize), Did>>>;

fn main() -> ExitCode {
    let (mut arguments, names) = arguments();
    let is_named = |name: &str| names.is_empty() || names.iter().any(|part| name.contains(part));
    let page = Arc::new(Page::read());
    let found = Found::default();
    let mut trials: Vec<Trial> = Vec::new();
    for (number, program) in PROGRAMS.iter().enumerate() {
        for (fs, (kind, ..)) in FILESYSTEMS.iter().enumerate() {
            for (hold, name) in HOLDS.iter().enumerate() {
                let (page, found) = (Arc::clone(&page), Arc::clone(&found));
                trials.push(trial(format!("programs/{}/{name}/{kind}", program.slug), move || {
                    let did = try_program(program, fs, hold);
                    page.compare(program, fs, hold, did.text);
                    found.lock().unwrap_or_else(PoisonError::into_inner).insert((number, page::column(fs, hold)), did);
                }));
            }
        }
    }
    let read = Arc::clone(&page);
    trials.push(trial("programs/page".to_owned(), move || read.is_current()));
    trials.extend(beside::trials());
    trials.retain(|trial| is_named(trial.name()));
    if arguments.list || trials.is_empty() {
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    let guard = guard();
    // While another pin changes the guard's maps, the guard may refuse a write in place: daxfile-holds(7).
    arguments.test_threads = arguments.test_threads.or(Some(if guard.is_ok() { 1 } else { 2 }));
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    trials.retain(|trial| {
        let reason = not_here(trial.name(), &guard, arguments.include_ignored);
        reason.inspect(|reason| *reasons.entry(reason.clone()).or_default() += 1).is_none()
    });
    for (reason, count) in reasons {
        println!("test programs/({count}) ... ignored, {reason}");
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    page.conclude(&found.lock().unwrap_or_else(PoisonError::into_inner), guard.is_ok());
    conclusion.exit_code()
}

/// The reason why this test does not run here.
fn not_here(name: &str, guard: &Result<(), String>, full: bool) -> Option<String> {
    let mut parts = name.split('/').skip(1);
    let first = parts.next().unwrap_or_default();
    let lab = |why: &str| Some(format!("{why}: tests/lab.sh KERNEL programs"));
    if first == "beside" {
        return beside::not_here(name, guard, full);
    }
    let program = PROGRAMS.iter().find(|program| program.slug == first)?;
    match (guard, program.tried) {
        (Err(lack), _) if parts.next() == Some("writable") => lab(lack),
        (Err(_), Tried::Lab(why)) => lab(why),
        (Err(_), Tried::Full(why)) if !full => Some(format!("{why}: tests/run.sh --full")),
        _ => None,
    }
}

/// A directory on a filesystem that many share. Dropping it unpins the file and removes everything.
struct Place {
    dir: PathBuf,
    file: PathBuf,
    /// How the file is made
    make: &'static str,
    /// The filesystem's name
    fs: &'static str,
}

impl Place {
    fn new(scratch: &Scratch, make: &'static str) -> Place {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir = scratch.path(format!("p{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        for name in ["in", "work"] {
            std::fs::create_dir_all(dir.join(name)).expect("mkdir");
        }
        Place { file: dir.join("in/file"), dir, make, fs: scratch.kind().name() }
    }

    /// Whether `programs.sh` succeeds, and its output.
    fn run(&self, what: &str, arguments: &str) -> (bool, String) {
        // $0 is the program under test.
        let shell = r#"PATH=${0%/*}:$PATH; exec bash "$@""#;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/programs.sh");
        let words = [script, what].into_iter().chain(arguments.split_whitespace());
        let call =
            Daxfile::new(words).wrap(["bash", "-c", shell]).env("F", &self.file).env("DIR", self.dir.join("work"));
        let run = call.env("FS", self.fs).run();
        (run.status == 0, format!("{}{}", String::from_utf8_lossy(&run.stdout), run.stderr))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        run(&["unpin"], &self.file);
        self.run("clean", self.make);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn try_program(program: &Program, fs: usize, hold: usize) -> Did {
    static SCRATCH: [OnceLock<Scratch>; 2] = [const { OnceLock::new() }; 2];
    require(program.needs);
    let scratch = SCRATCH[fs].get_or_init(|| Scratch::with_size(FILESYSTEMS[fs].2(), 512 << 20));
    let place = Place::new(scratch, program.make);
    let (made, said) = place.run("make", program.make);
    assert!(made, "make: {said}");
    run(&["pin", "--hold", HOLDS[hold]], &place.file).expect(0);

    let (is_content, said) = place.run("use", program.using);
    let verify = run(&["verify"], &place.file);
    let number = |what: &str| {
        let numbers = said.lines().filter_map(|line| line.strip_prefix(what)?.trim().parse::<u64>().ok());
        numbers.sum::<u64>()
    };
    let did = |text| Did { text, wrote: number("wrote "), verified: number("verified ") };
    let expected = program.expected[hold];
    match (expected, is_content, verify.status) {
        (Expected::Works, true, 0) => {
            let did = did(expected.text());
            assert!(did.wrote == 0 || did.verified > 0, "it has written, and compared nothing: {said}");
            did
        }
        (Expected::Seen, true, 1) => did(expected.text()),
        (Expected::Fails(message), false, 0) if said.contains(message) => did(expected.text()),
        _ => {
            panic!("not as declared ({expected:?}): {}\n{said}\n{verify}", if is_content { "content" } else { "fails" })
        }
    }
}
