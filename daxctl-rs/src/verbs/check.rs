//! `check`: reports whether `pin` with the same options could succeed, and lists everything that prevents it.

use std::path::PathBuf;

use libdaxfile::Errno;

use super::{each, judge};
use crate::error::Result;
use crate::file::blockers::Kind;
use crate::file::target::Target;
use crate::hold::{Missing, Requirements, frozen, writable};
use crate::needs::{Hold, Needs};
use crate::pin::survey;
use crate::progress::Progress;
use crate::report::{FileReport, Sink};
use crate::status::Status;

/// Checks each file. Changes nothing, but the kernel writes back dirty pages.
pub fn run(paths: &[PathBuf], needs: &Needs, progress: &dyn Progress, sink: &mut Sink<'_>) -> Status {
    let (needs, requirements) = (*needs, Requirements::default());
    each::in_parallel(paths, progress, sink, move |target, report| check(target, &needs, &requirements, report))
}

fn check(target: &Target, needs: &Needs, requirements: &Requirements, report: &mut FileReport) -> Result<()> {
    let surveyed = survey::with_sharers(target, *needs);
    let Some(mut survey) = judge::seen(target, needs, surveyed, report)? else { return Ok(()) };
    let missing = requirements.missing(needs.hold, target, &survey.inode.statx, &target.filesystem)?;
    let here = missing.iter().find(|missing| !missing.caller_only);
    judge::judge(target, needs, &mut survey, here, report)?;
    let available = missing.is_empty();
    // Missing privileges and current writers only cause notes: root will pin the file, when nothing writes to it.
    if !judge::is_pinned_so(&survey, needs) {
        if report.exit_status == Status::Done
            && let Some(error) = judge::require_room(target, needs, &survey, 0, requirements, report)?
        {
            report.notes.push(format!("pin would fail for this user: {error}"));
        }
        note_privileges(&judge::with_record_in_the_way(target, missing, needs, &survey)?, report);
    }
    match needs.hold {
        Hold::Frozen if target.filesystem.refusal(needs.hold).is_none() => note_writers(target, report),
        Hold::Writable if available => note_kernel_writers(target, report),
        _ => Ok(()),
    }
}

fn note_privileges(missing: &[Missing], report: &mut FileReport) {
    if let Some(missing) = missing.iter().find(|missing| missing.caller_only) {
        report.notes.push(format!("pin would fail for this user: {}", missing.what));
    }
}

/// Under hold writable, only writers inside the kernel are in the way.
fn note_kernel_writers(target: &Target, report: &mut FileReport) -> Result<()> {
    match writable::probe(target) {
        Err(error) if error.status == Status::Busy => {
            report.notes.push(format!("at the moment {error}"));
            Ok(())
        }
        Err(error) if error.errno == Some(Errno::EACCES) => Ok(()),
        probed => probed,
    }
}

fn note_writers(target: &Target, report: &mut FileReport) -> Result<()> {
    let swapfile = report.blockers.iter().flatten().any(|blocker| blocker.kind == Kind::Swapfile);
    match frozen::probe_before_close(target) {
        // swapon(2) keeps a swapfile open as long as it is active.
        Err(error) if error.errno == Some(Errno::EAGAIN) && !swapfile => {
            report.notes.push(format!("at the moment {}", judge::open_for_writing(target)?));
            Ok(())
        }
        // Asking about a file of another owner needs CAP_LEASE.
        Err(error) if matches!(error.errno, Some(Errno::EAGAIN | Errno::EACCES)) => Ok(()),
        probed => probed,
    }
}
