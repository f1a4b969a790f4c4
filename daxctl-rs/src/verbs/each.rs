//! Does the same to every named file, and combines the statuses.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::error::Result;
use crate::file::target::Target;
use crate::progress::{Progress, Unit};
use crate::report::{FileReport, Sink};
use crate::status::Status;
use crate::system::filesystem::Known;

/// Files that a thread looks at before it passes on their reports: enough that the handover costs little, few enough
/// for the memory that the reports take.
const TOGETHER: usize = 128;

/// Least number of batches per thread, so that no single thread gets all the slow files.
const TURNS: usize = 4;

/// Looks at every file, at several at a time. Only for work that takes no lock: a file may be named twice.
pub(super) fn in_parallel(
    paths: &[PathBuf],
    progress: &dyn Progress,
    sink: &mut Sink<'_>,
    look: impl Fn(&Target, &mut FileReport) -> Result<()> + Sync,
) -> Status {
    in_parallel_with_errors(paths, progress, sink, |target, report| look(&target?, report))
}

/// Like `in_parallel`, but also passes on files that cannot be opened.
pub(super) fn in_parallel_with_errors(
    paths: &[PathBuf],
    progress: &dyn Progress,
    sink: &mut Sink<'_>,
    look: impl Fn(Result<Target>, &mut FileReport) -> Result<()> + Sync,
) -> Status {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(paths.len());
    let together = (paths.len() / (threads.max(1) * TURNS)).clamp(1, TOGETHER);
    let mut status = Status::Done;
    progress.begin(paths.len() as u64, Unit::Files);
    if threads <= 1 {
        for path in paths.iter().take_while(|_| !progress.interrupted()) {
            let report = attempt(path, |report| look(Target::open(path), report));
            progress.advance(1);
            status = status.max(emit(report, sink));
        }
        progress.end();
        return status;
    }
    let (look, stop) = (&look, &AtomicBool::new(false));
    thread::scope(|scope| {
        // Each thread takes every n-th batch. The caller takes the batches in turn, so the reports are in order, and no
        // thread gets far ahead.
        let reports = (0..threads).map(|first| {
            let (sender, receiver) = sync_channel(1);
            scope.spawn(move || {
                let known = Known::default();
                let look_together = |paths: &[PathBuf]| -> Vec<FileReport> {
                    let paths = paths.iter().take_while(|_| !stop.load(Ordering::Relaxed));
                    let look = |path: &PathBuf| attempt(path, |report| look(Target::open_on(path, &known), report));
                    paths.map(look).collect()
                };
                let mut batches = paths.chunks(together).skip(first).step_by(threads).map(look_together);
                batches.try_for_each(|reports| sender.send(reports))
            });
            receiver
        });
        let reports: Vec<_> = reports.collect();
        let mut reports = reports.iter().cycle().map_while(|thread| thread.recv().ok());
        while !progress.interrupted()
            && let Some(reports) = reports.next()
        {
            progress.advance(reports.len() as u64);
            status = reports.into_iter().fold(status, |status, report| status.max(emit(report, sink)));
            if progress.interrupted() {
                stop.store(true, Ordering::Relaxed);
                break;
            }
        }
    });
    progress.end();
    status
}

/// Does the same to every file, one after the other. A failure does not prevent work on the others.
pub(super) fn in_sequence(
    paths: &[PathBuf],
    progress: &dyn Progress,
    sink: &mut Sink<'_>,
    act: impl Fn(&Target, &mut FileReport) -> Result<()>,
) -> Status {
    let mut status = Status::Done;
    progress.begin(paths.len() as u64, Unit::Files);
    for path in paths.iter().take_while(|_| !progress.interrupted()) {
        let report = report_on(path, |target, report| act(&target, report));
        progress.advance(1);
        status = status.max(emit(report, sink));
    }
    progress.end();
    status
}

/// Most files to change together. Each keeps up to three descriptors open, and 1,024 is the usual limit of a process.
pub(super) const BATCH: usize = 128;

/// Changes files in batches. `act` receives the remaining files, at least one, and reports on the first few.
pub(super) fn in_batches(
    paths: &[PathBuf],
    progress: &dyn Progress,
    sink: &mut Sink<'_>,
    mut act: impl FnMut(&[PathBuf]) -> Vec<FileReport>,
) -> Status {
    let mut status = Status::Done;
    let mut rest = paths;
    progress.begin(paths.len() as u64, Unit::Files);
    while !rest.is_empty() && !progress.interrupted() {
        let batch = act(&rest[..rest.len().min(BATCH)]);
        rest = &rest[batch.len()..];
        progress.advance(batch.len() as u64);
        status = batch.into_iter().fold(status, |status, report| status.max(emit(report, sink)));
    }
    progress.end();
    status
}

/// Opens the first few of the files, at least one, and passes each to `act`. Returns their reports, and what `act` leaves
/// to do for the whole batch, each with the index of the file's report. `stop` ends the batch after the first file.
pub(super) fn open_batch<T>(
    paths: &[PathBuf],
    stop: impl Fn() -> bool,
    act: impl Fn(Target, &mut FileReport) -> Result<Option<T>>,
) -> (Vec<FileReport>, Vec<(usize, T)>) {
    let mut reports = Vec::with_capacity(paths.len());
    let mut left = Vec::new();
    let mut named = BTreeSet::new();
    let known = Known::default();
    for path in paths {
        let opened = Target::open_on(path, &known);
        // A file that is named twice waits for the next batch: for now, this batch has it locked.
        let again = opened.as_ref().is_ok_and(|target| !named.insert((target.device(), target.identity)));
        if again || (stop() && !reports.is_empty()) {
            break;
        }
        let index = reports.len();
        reports.push(report(path, opened, |target, report| {
            left.extend(act(target, report)?.map(|left| (index, left)));
            Ok(())
        }));
    }
    (reports, left)
}

/// Passes on a report, and returns its status.
pub(super) fn emit(report: FileReport, sink: &mut Sink<'_>) -> Status {
    let status = report.exit_status;
    sink(report);
    status
}

pub(super) fn report_on(path: &Path, act: impl FnOnce(Target, &mut FileReport) -> Result<()>) -> FileReport {
    report(path, Target::open(path), act)
}

pub(super) fn report(
    path: &Path,
    target: Result<Target>,
    act: impl FnOnce(Target, &mut FileReport) -> Result<()>,
) -> FileReport {
    attempt(path, |report| act(target?, report))
}

fn attempt(path: &Path, act: impl FnOnce(&mut FileReport) -> Result<()>) -> FileReport {
    let mut report = FileReport::new(path);
    if let Err(error) = act(&mut report) {
        report.fail(&error);
    }
    report
}
