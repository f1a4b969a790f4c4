//! Pinned files beside other work on their filesystem: stress-ng's stressors for filesystems.

use std::fmt::Write as _;
use std::path::PathBuf;

use daxfile_tests::tools::{checksum, filefrag, output, require};
use daxfile_tests::trials::trial;
use daxfile_tests::{Scratch, run};
use libtest_mimic::Trial;

use crate::FILESYSTEMS;

/// Of the class, without those that do not work on the directory that they are given.
const STRESS: &str = "--class filesystem --exclude bind-mount,binderfs,chdir,dup,eventfd,fanotify,handle,ioprio,procfs \
    --fallocate-bytes 32M --hdd-bytes 32M --iomix-bytes 32M";

/// The names of tests: seconds on each filesystem, and the holds.
const SHORT: &str = "programs/beside/ten_seconds";
const LONG: &str = "programs/beside/an_hour";
const ARMED: &str = "programs/beside/ends_the_same_under_the_guard";

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (fs, (name, ..)) in FILESYSTEMS.iter().enumerate() {
        trials.push(trial(format!("{SHORT}/{name}"), move || no_map_moves(fs, 5)));
        trials.push(trial(format!("{LONG}/{name}"), move || no_map_moves(fs, 1800)));
        trials.push(trial(format!("{ARMED}/{name}"), move || ends_the_same(fs)));
    }
    trials
}

/// The reason why this test does not run here.
pub(crate) fn not_here(name: &str, guard: &Result<(), String>, full: bool) -> Option<String> {
    match guard {
        Err(lack) if name.starts_with(ARMED) => Some(format!("{lack}: tests/lab.sh KERNEL programs")),
        Ok(()) if name.starts_with(LONG) => Some("too long for the lab: tests/run.sh --full".to_owned()),
        Err(_) if name.starts_with(LONG) && !full => Some("takes an hour: tests/run.sh --full".to_owned()),
        _ => None,
    }
}

struct Beside {
    scratch: Scratch,
    files: Vec<PathBuf>,
    looked: String,
}

impl Beside {
    fn new(fs: usize) -> Beside {
        require(&["stress-ng"]);
        let scratch = Scratch::with_size(FILESYSTEMS[fs].2(), 1 << 30);
        std::fs::create_dir(scratch.path("work")).unwrap();
        Beside { scratch, files: Vec::new(), looked: String::new() }
    }

    /// Files between others' blocks, so that there is much around them to be moved.
    fn pin(&mut self, holds: &[&str]) {
        for hold in holds {
            for number in 0..4 {
                let file = self.scratch.path(format!("{hold}{number}"));
                run(&["alloc", "-s", "4M"], &file).expect(0);
                run(&["pin", "--hold", hold], &file).expect(0);
                self.files.push(file);
            }
        }
        self.looked = self.look();
    }

    fn look(&self) -> String {
        let mut looked = String::new();
        for file in &self.files {
            let _ = writeln!(looked, "{} {} {:?}", file.display(), checksum(file), filefrag(file));
        }
        looked
    }

    /// How each stressor ended.
    fn stress(&self, how: &str) -> Vec<String> {
        let script = format!("stress-ng {STRESS} {how} --temp-path \"$1\" 2>&1 || :");
        let work = self.scratch.path("work");
        let said = output(std::process::Command::new("bash").args(["-c", &script, "bash"]).arg(work));
        assert!(said.contains("run completed in"), "{said}");
        // Of a stressor that does not succeed, it says so, with the number of its process.
        let ends =
            said.lines().filter(|line| line.contains("fail:") || line.contains("skipped") || line.contains("error:"));
        let without_numbers = |line: &str| line.chars().filter(|letter| !letter.is_ascii_digit()).collect();
        ends.map(without_numbers).collect()
    }

    fn is_unchanged(&self) {
        for file in &self.files {
            run(&["verify"], file).expect(0);
        }
        assert_eq!(self.look(), self.looked);
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        for file in &self.files {
            run(&["unpin"], file);
        }
    }
}

fn no_map_moves(fs: usize, seconds: u32) {
    let mut beside = Beside::new(fs);
    beside.pin(&["frozen", "none"]);
    beside.stress(&format!("--all 1 --timeout {seconds}"));
    beside.is_unchanged();
}

fn ends_the_same(fs: usize) {
    let mut beside = Beside::new(fs);
    let without = beside.stress("--sequential 1 --timeout 1");
    beside.pin(&["writable", "frozen"]);
    assert_eq!(beside.stress("--sequential 1 --timeout 1"), without);
    beside.is_unchanged();
}
