//! One module a verb. Each takes its options and returns a report; none prints.

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
use crate::report::FileReport;
use crate::target::Target;

/// Does the same to every file; one that fails does not keep the others from it.
fn each(
    paths: &[PathBuf],
    progress: &dyn Progress,
    mut act: impl FnMut(&Target, &mut FileReport) -> Result<()>,
) -> Vec<FileReport> {
    progress.begin(paths.len() as u64, Unit::Files);
    let reports = paths
        .iter()
        .take_while(|_| !progress.interrupted())
        .map(|path| {
            let report = one(path, |target, report| act(&target, report));
            progress.advance(1);
            report
        })
        .collect();
    progress.end();
    reports
}

fn one(path: &Path, act: impl FnOnce(Target, &mut FileReport) -> Result<()>) -> FileReport {
    let mut report = FileReport::new(path);
    if let Err(error) = Target::open(path).and_then(|target| act(target, &mut report)) {
        report.fail(&error);
    }
    report
}
