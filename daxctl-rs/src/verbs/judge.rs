//! The judgement that `check`, `pin` and `prepare` share: what prevents pinning a file that was looked at.

use crate::error::{Error, Result};
use crate::file::blockers::{self, Kind};
use crate::file::staging::Staging;
use crate::file::swap_header;
use crate::file::target::Target;
use crate::needs::{Hold, Needs};
use crate::pin::record::Stored;
use crate::pin::state::{self, State};
use crate::pin::survey::Survey;
use crate::report::FileReport;
use crate::size;
use crate::status::Status;

/// Where a file's filesystem shows no map at all, that is the blocker.
///
/// # Errors
/// Those of the survey.
pub(super) fn or_unsupported<T>(target: &Target, surveyed: Result<T>, report: &mut FileReport) -> Result<T> {
    surveyed.inspect_err(|error| {
        if error.status == Status::Unable {
            report.blockers = Some(vec![blockers::unsupported(target)]);
        }
    })
}

/// Reports a survey, and what in it stands against pinning.
///
/// # Errors
/// A record that must be dealt with first.
pub(super) fn judge(target: &Target, needs: &Needs, survey: &Survey, report: &mut FileReport) -> Result<()> {
    report.describe(target, survey);
    let mut blockers = survey.blockers.clone();
    if survey.state == State::Pinned && needs.hold != Hold::Writable {
        // What was copied since has not moved; verify says yes to it, too.
        blockers.retain(|blocker| blocker.kind != Kind::Shared);
        report.note_shared();
    }
    // Of an active swap file, the blocker says as much.
    let swap = needs.hold == Hold::Frozen
        && !blockers.iter().any(|blocker| blocker.kind == Kind::Swapfile)
        && swap_header::present(target, survey.inode.statx.size);
    report.block(blockers);
    if swap {
        report
            .notes
            .push("has a swap header, and swapon fails on a frozen file: use --hold none for swap files".into());
    }
    if let Some(Staging::CannotTell { bytes }) = survey.beside.staging {
        let bytes = size::format(bytes, false);
        report.notes.push(format!("up to {bytes} may be copy-on-write staging; daxfile prepare drops it"));
    }
    if let Some(moved) = &survey.moved
        && !moved.changes.is_empty()
    {
        report.differ(moved);
    }
    match &survey.stored {
        Stored::UnknownVersion(_, version) => {
            return Err(Error::new(
                Status::Failed,
                format!("its pin record is of version {version}: use a newer daxfile"),
            ));
        }
        Stored::Own(record) if record.needs != *needs => {
            return Err(Error::new(Status::No, "already pinned with other options: unpin first"));
        }
        Stored::Own(_) if survey.state == State::Drifted || changed(survey) => {
            return Err(Error::new(Status::No, "pinned before, and changed since: see daxfile verify; unpin first"));
        }
        Stored::Foreign(_) => report.notes.push("has another file's pin record, which pin overwrites".into()),
        Stored::Bad(_, why) => report.notes.push(format!("has an unreadable pin record ({why}), which pin overwrites")),
        Stored::Own(_) | Stored::Absent => {}
    }
    Ok(())
}

/// Whether a file whose pin is not held has changed since.
fn changed(survey: &Survey) -> bool {
    let moved = survey.moved.as_ref().is_some_and(|moved| !moved.changes.is_empty());
    matches!(&survey.stored, Stored::Own(record) if moved || state::attributes_differ(record, &survey.inode.statx))
}
