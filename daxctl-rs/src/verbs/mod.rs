//! One module a verb. Each takes its options, reports on each file, and returns the exit status; none prints.

pub mod alloc;
pub mod check;
pub mod pin;
pub mod prepare;
pub mod stat;
pub mod unpin;
pub mod verify;

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::progress::{Progress, Unit};
use crate::report::{FileReport, Sink};
use crate::status::Status;
use crate::target::Target;

/// Does the same to every file; one that fails does not keep the others from it.
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
    let mut report = FileReport::new(path);
    if let Err(error) = Target::open(path).and_then(|target| act(target, &mut report)) {
        report.fail(&error);
    }
    report
}
