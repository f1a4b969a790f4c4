//! `stat`: shows a file, its map, what prevents pinning it, and its pin.

use std::path::PathBuf;

use super::{each, judge};
use crate::error::Result;
use crate::file::target::Target;
use crate::needs::Needs;
use crate::pin::survey;
use crate::progress::Progress;
use crate::report::{FileReport, Sink};
use crate::status::Status;

/// Shows each file, with the runs of its map if `extents` is set. Changes nothing, but the kernel writes back dirty
/// pages.
pub fn run(paths: &[PathBuf], extents: bool, progress: &dyn Progress, sink: &mut Sink<'_>) -> Status {
    let stat = move |target: &Target, report: &mut FileReport| stat(target, extents, report);
    // Whole maps take memory: then look at one file at a time.
    if extents {
        each::in_sequence(paths, progress, sink, stat)
    } else {
        each::in_parallel(paths, progress, sink, stat)
    }
}

fn stat(target: &Target, extents: bool, report: &mut FileReport) -> Result<()> {
    let needs = Needs::default();
    let (survey, runs) = if extents {
        let (survey, runs) = survey::with_runs(target, needs)?;
        (survey, Some(runs))
    } else {
        (survey::of_opened(target, needs, |_| ())?, None)
    };
    report.describe(target, &survey);
    if let Err(unsure) = survey.require_certainty() {
        report.notes.push(unsure.message);
    }
    judge::note_pin_alike(&survey.stored, target, report);
    report.extents = runs;
    report.add_drift(&survey);
    report.changes = report.changes.take().filter(|changes| !changes.is_empty());
    report.blockers = Some(survey.blockers);
    Ok(())
}
