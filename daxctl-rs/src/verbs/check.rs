//! `check`: says whether `pin` with the same options would meet a blocker, and names every one.

use std::path::PathBuf;

use super::{each, judge};
use crate::needs::Needs;
use crate::pin::survey;
use crate::progress::Progress;
use crate::report::Sink;
use crate::status::Status;

/// Checks each file. Nothing is changed, but dirty pages are written back.
pub fn run(paths: &[PathBuf], needs: &Needs, progress: &dyn Progress, sink: &mut Sink<'_>) -> Status {
    each::look_at_each(paths, progress, sink, |target, report| {
        let survey = judge::or_unsupported(target, survey::with_sharers(target, *needs), report)?;
        judge::judge(target, needs, &survey, report)
    })
}
