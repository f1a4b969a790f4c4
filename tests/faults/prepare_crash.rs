//! `prepare` ends at any of its calls with the whole filesystem, and no byte is lost.
//!
//! Contents and size are as before, and another `prepare` finishes. strace(1) holds it at the entry of the Nth call of
//! one name until the filesystem was shut down.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use daxfile_tests::child::spawn;
use daxfile_tests::generate::unprepared;
use daxfile_tests::tools::{checksum, require, sh};
use daxfile_tests::{Daxfile, Kind, Scratch};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// No other process has it open.
    Leased,
    /// Another process has it open, and blocks are swapped in.
    Deduped,
}

fn set_up(scratch: &Scratch, way: Way, name: &str) -> PathBuf {
    unprepared(scratch, name, way == Way::Leased)
}

fn prepare(path: &Path) -> Daxfile {
    Daxfile::new(["prepare"]).arg(path)
}

#[track_caller]
fn finish(path: &Path, contents: &str, context: &str) {
    let as_before = |when: &str| {
        let size = fs::metadata(path).unwrap().len();
        assert!(size == 90_000 && checksum(path) == contents, "{context}: {when}: {size} bytes, other contents");
    };
    as_before("interrupted");
    let again = prepare(path).run();
    assert!(again.status == 0, "{context}: {again}");
    as_before("finished");
    let check = Daxfile::new(["check"]).arg(path).run();
    assert!(check.status == 0, "{context}: {check}");
}

/// How often a whole run makes each of these calls after the file was opened, and after how many others.
fn calls<'a>(scratch: &Scratch, way: Way, wanted: &[&'a str]) -> Vec<(&'a str, usize, usize)> {
    let path = set_up(scratch, way, "counted");
    let opener = (way == Way::Deduped).then(|| File::open(&path).unwrap());
    let log = scratch.path("log");
    prepare(&path).wrap(["strace", "-f", "-o", log.to_str().unwrap()]).run().expect(0);
    drop(opener);
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().filter_map(|line| line.split_once(char::is_whitespace)).map(|l| l.1).collect();
    let opened = lines.iter().position(|line| line.contains("/counted\"")).expect("it opens the file");
    fs::remove_file(path).unwrap();
    let of = |call: &'a str| {
        let made = |lines: &[&str]| lines.iter().filter(|l| l.trim_start().starts_with(&format!("{call}("))).count();
        let (before, all) = (made(&lines[..opened]), made(&lines));
        (call, before, all)
    };
    wanted.iter().copied().map(of).collect()
}

/// Shuts the filesystem down while `prepare` is stopped before a call, with or without a log flush, and remounts it.
fn shut_down(kind: Kind, way: Way, wanted: &[&str], each: usize) {
    require(&["strace", "xfs_io"]);
    let mut scratch = Scratch::new(kind);
    let contents = checksum(set_up(&scratch, way, "reference"));
    let mut rounds = 0;
    for (call, before, all) in calls(&scratch, way, wanted) {
        for number in (before + 1..=all).take(each) {
            for flush in ["", " -f"] {
                let path = set_up(&scratch, way, "file");
                let opener = (way == Way::Deduped).then(|| File::open(&path).unwrap());
                let logs = tempfile::tempdir().unwrap();
                let log = logs.path().join("log");
                let (trace, inject) =
                    (format!("trace={call}"), format!("inject={call}:delay_enter=600s:when={number}"));
                let strace = ["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", &trace, "-e", &inject];
                let mut command = prepare(&path).wrap(strace).command();
                let mut child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
                // strace writes a call's beginning before it holds it.
                let opening = format!("{call}(");
                while fs::read_to_string(&log).map_or(0, |text| text.matches(&opening).count()) < number {
                    assert!(child.try_wait().unwrap().is_none(), "{call} {number}: it ended before");
                    sleep(Duration::from_millis(5));
                }
                sh(format!("xfs_io -x -c 'shutdown{flush}' '{}'", scratch.mount_point().display()));
                // Without its tracer it continues; its output ends when it ends.
                child.kill().unwrap();
                let said = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
                let context = format!("{way:?}, shut down{flush} before {call} {number}: {said}");
                drop(opener);
                scratch.remount();
                finish(&path, &contents, &context);
                fs::remove_file(path).unwrap();
                rounds += 1;
            }
        }
    }
    assert!(rounds >= 2 * wanted.len(), "only {rounds}");
}

#[test]
fn shutdown_under_a_lease_loses_nothing_on_xfs() {
    shut_down(Kind::xfs(), Way::Leased, &["pwrite64", "ftruncate"], 1);
}

#[test]
fn shutdown_under_a_lease_loses_nothing_on_ext4() {
    shut_down(Kind::ext4(), Way::Leased, &["pwrite64", "ftruncate"], 1);
}

#[test]
fn shutdown_beside_others_loses_nothing_on_xfs() {
    shut_down(Kind::xfs(), Way::Deduped, &["fallocate"], 1);
}

const CHANGING: [&str; 5] = ["fallocate", "pwrite64", "ftruncate", "fsync", "fcntl"];

#[test]
#[ignore = "long: tests/run.sh --full"]
fn shutdown_at_every_call_under_a_lease_loses_nothing() {
    shut_down(Kind::xfs(), Way::Leased, &CHANGING, usize::MAX);
    shut_down(Kind::ext4(), Way::Leased, &CHANGING, usize::MAX);
}

#[test]
#[ignore = "long: tests/run.sh --full"]
fn shutdown_at_every_call_beside_others_loses_nothing() {
    shut_down(Kind::xfs(), Way::Deduped, &["ioctl", "fallocate", "pwrite64", "fsync"], usize::MAX);
}
