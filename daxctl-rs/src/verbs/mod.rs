//! One module a verb. Each takes its options, reports on each file, and returns the exit status; none prints.

pub mod alloc;
pub mod check;
pub mod map;
pub mod pin;
pub mod prepare;
pub mod probe;
pub mod stat;
pub mod unpin;
pub mod verify;

use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;

use rayon::prelude::*;

use crate::error::Result;
use crate::filesystem::Known;
use crate::progress::{Progress, Unit};
use crate::report::{FileReport, Sink};
use crate::status::Status;
use crate::target::Target;

/// Files that are looked at together: enough for every core, few enough for the memory that their reports take.
const TOGETHER: usize = 64;

/// Looks at every file, at several at a time. Only for what takes no lock: a file may be named twice.
fn look_at_each(
    paths: &[PathBuf],
    progress: &dyn Progress,
    sink: &mut Sink<'_>,
    look: impl Fn(&Target, &mut FileReport) -> Result<()> + Sync,
) -> Status {
    let [_, _, ..] = paths else { return each(paths, progress, sink, look) };
    let look_together = |paths: &[PathBuf]| -> Vec<FileReport> {
        let known = Known::default();
        let look = |path: &PathBuf| report(path, Target::open_on(path, &known), |target, report| look(&target, report));
        paths.par_iter().map(look).collect()
    };
    let mut status = Status::Done;
    progress.begin(paths.len() as u64, Unit::Files);
    // While some are reported, the next are looked at.
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(1);
        scope.spawn(move || paths.chunks(TOGETHER).map(look_together).try_for_each(|reports| sender.send(reports)));
        for reports in receiver {
            progress.advance(reports.len() as u64);
            status = reports.into_iter().fold(status, |status, report| status.max(tell(report, sink)));
        }
    });
    progress.end();
    status
}

/// Does the same to every file, in turn; one that fails does not keep the others from it.
fn each(
    paths: &[PathBuf],
    progress: &dyn Progress,
    sink: &mut Sink<'_>,
    act: impl Fn(&Target, &mut FileReport) -> Result<()>,
) -> Status {
    let mut status = Status::Done;
    progress.begin(paths.len() as u64, Unit::Files);
    for path in paths.iter().take_while(|_| !progress.interrupted()) {
        let report = one(path, |target, report| act(&target, report));
        progress.advance(1);
        status = status.max(tell(report, sink));
    }
    progress.end();
    status
}

/// Hands a report on, and keeps its status.
fn tell(report: FileReport, sink: &mut Sink<'_>) -> Status {
    let status = report.exit_status;
    sink(report);
    status
}

fn one(path: &Path, act: impl FnOnce(Target, &mut FileReport) -> Result<()>) -> FileReport {
    report(path, Target::open(path), act)
}

fn report(path: &Path, target: Result<Target>, act: impl FnOnce(Target, &mut FileReport) -> Result<()>) -> FileReport {
    let mut report = FileReport::new(path);
    if let Err(error) = target.and_then(|target| act(target, &mut report)) {
        report.fail(&error);
    }
    report
}
