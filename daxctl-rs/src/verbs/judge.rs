//! The judgement that `check` and `pin` share: what prevents pinning a file.

use std::path::Path;

use libdaxfile::Errno;

use crate::error::{Error, Result};
use crate::file::blockers::{self, Kind};
use crate::file::staging::Staging;
use crate::file::swap_header;
use crate::file::target::Target;
use crate::hold::{Missing, Requirements};
use crate::name::{for_shell, quote};
use crate::needs::{Hold, Needs};
use crate::pin::record::{self, Record, Room, Stored, attribute};
use crate::pin::state::{self, State};
use crate::pin::survey::Survey;
use crate::report::FileReport;
use crate::size;
use crate::status::Status;
use crate::system::holders::{Holders, Use};

/// Returns the survey, or `None` if the filesystem shows no map; then the blocker reports that.
///
/// # Errors
/// An error of the survey.
pub(super) fn seen<T>(
    target: &Target,
    needs: &Needs,
    surveyed: Result<T>,
    report: &mut FileReport,
) -> Result<Option<T>> {
    match surveyed {
        Err(error) if error.status == Status::Unable => {
            report.add_blockers(vec![blockers::unsupported(target, *needs)]);
            // If the reason for the missing map is known, the blocker reports it.
            if target.filesystem.refusal(needs.hold).is_some() { Ok(None) } else { Err(error) }
        }
        surveyed => surveyed.map(Some),
    }
}

/// Whether the file is pinned with the same options, so that pinning it again changes nothing.
pub(super) fn is_pinned_so(survey: &Survey, needs: &Needs) -> bool {
    survey.state == State::Pinned && matches!(&survey.stored, Stored::Own(record) if record.needs == *needs)
}

/// Reports a survey and what prevents pinning: first the unmet requirements of the hold, then the blockers of the file.
///
/// # Errors
/// An unmet requirement of the hold, unless only the caller lacks it; a record that the user must deal with first.
pub(super) fn judge(
    target: &Target,
    needs: &Needs,
    survey: &mut Survey,
    missing: Option<&Missing>,
    report: &mut FileReport,
) -> Result<()> {
    report.describe(target, survey);
    // Their lists of ranges can be long: they move to the report.
    let mut blockers = std::mem::take(&mut survey.blockers);
    if is_pinned_so(survey, needs) {
        // The file became a swapfile after the pin: the kernel itself keeps it in place.
        blockers.retain(|blocker| blocker.kind != Kind::Swapfile);
    }
    if survey.state == State::Pinned && needs.hold != Hold::Writable {
        // The blocks became shared after the pin, but have not moved; verify accepts that, too.
        blockers.retain(|blocker| blocker.kind != Kind::Shared);
        report.note_shared();
    }
    if target.filesystem.elsewhere().is_some() {
        // Flags and blocks are those of a file on another filesystem, where a pin may have set them.
        blockers.retain(|blocker| blocker.kind == Kind::UnsupportedFilesystem);
    }
    // For an active swap file, the blocker already says so.
    let swap = needs.hold == Hold::Frozen
        && !blockers.iter().any(|blocker| blocker.kind == Kind::Swapfile)
        && swap_header::present(target, survey.inode.statx.size);
    report.add_blockers(blockers);
    if swap {
        report
            .notes
            .push("has a swap header, and swapon fails on a frozen file: use --hold none for swap files".into());
    }
    if let Some(Staging::CannotTell { bytes }) = survey.context.staging {
        let bytes = size::format(bytes, false);
        report.notes.push(format!("up to {bytes} may be copy-on-write staging; daxfile prepare drops it"));
    }
    if let Some(drift) = &survey.drift
        && !drift.changes.is_empty()
    {
        report.add_changes(drift);
    }
    // If the filesystem is refused, a blocker reports it.
    if let Some(missing) = missing.filter(|missing| !missing.caller_only)
        && !is_pinned_so(survey, needs)
        && target.filesystem.refusal(needs.hold).is_none()
    {
        return Err(missing.error(needs.hold));
    }
    match &survey.stored {
        Stored::UnknownVersion(_, version) => {
            return Err(Error::new(
                Status::Failed,
                format!("its pin record has version {version}: use a newer daxfile"),
            ));
        }
        Stored::Own(record) if record.needs != *needs => {
            let (theirs, ours) = record.needs.differences(needs);
            let (theirs, ours) = (theirs.join(", "), ours.join(", "));
            return Err(Error::new(
                Status::No,
                format!("already pinned with other options (recorded: {theirs}; requested: {ours}): unpin first"),
            ));
        }
        Stored::Own(_) if survey.state == State::Drifted || changed(survey) => {
            return Err(Error::new(Status::No, "changed since it was pinned: see daxfile verify; unpin first"));
        }
        Stored::Foreign(record) => report.notes.push(format!("has {}, which pin overwrites", foreign(record))),
        Stored::Bad(_, why) => report.notes.push(format!("has an unreadable pin record ({why}), which pin overwrites")),
        Stored::Own(_) | Stored::Absent => {}
    }
    Ok(())
}

/// Checks whether the record, with a note of `note` bytes, has room, without writing it. Returns the error of this
/// caller's pin if root's would succeed.
///
/// # Errors
/// An error if it has no room; an error of the calls that check.
pub(super) fn require_room(
    target: &Target,
    needs: &Needs,
    survey: &Survey,
    note: usize,
    requirements: &Requirements,
    report: &mut FileReport,
) -> Result<Option<Error>> {
    if matches!(survey.stored, Stored::Own(_)) {
        // The record exists already, and stays.
        return Ok(None);
    }
    let quotas = requirements.quotas(target, survey.inode.statx.device)?;
    let extents = survey.overview.summary.extents;
    let facts = record::Facts {
        enforced: &quotas,
        other_attributes: survey.other_attributes,
        free: || requirements.free_bytes(target),
    };
    Ok(match record::room(target, &survey.inode, needs.hold, extents, note, facts)? {
        Room::Enough => None,
        Room::Unknown(why) => {
            report.notes.push(why);
            None
        }
        Room::ForRoot(error) => Some(error),
    })
}

/// Adds to the unmet requirements what this process lacks to remove a record in the attribute of another hold.
///
/// # Errors
/// The kernel does not report the capabilities of the process.
pub(super) fn with_record_in_the_way(
    target: &Target,
    mut missing: Vec<Missing>,
    needs: &Needs,
    survey: &Survey,
) -> Result<Vec<Missing>> {
    let found = survey.stored.attribute();
    if found.is_some_and(|found| found != attribute(needs.hold)) {
        missing.extend(Missing::to_remove_the_record(target, needs.hold)?);
    }
    Ok(missing)
}

/// Describes a record that belongs to another file.
pub(super) fn foreign(record: &Record) -> String {
    let options = options(record);
    match options.is_empty() {
        true => "another file's pin record".into(),
        false => format!("another file's pin record ({})", options.join(" ")),
    }
}

/// Notes the command that pins this file like the one that a foreign record belongs to: after a restore from a backup, the
/// record is all that is left of the pin. Where the file is stored elsewhere, the record may be of that file.
pub(super) fn note_pin_alike(stored: &Stored, target: &Target, report: &mut FileReport) {
    if let Stored::Foreign(record) = stored
        && target.filesystem.elsewhere().is_none()
    {
        let options: String = options(record).iter().map(|option| format!("{option} ")).collect();
        let command = format!("daxfile pin {options}{}", for_shell(&target.path));
        report.notes.push(format!("to pin it like the recorded file: {command}"));
    }
}

fn options(record: &Record) -> Vec<String> {
    let note = record.note.as_ref().map(|note| format!("--note={}", quote(Path::new(note.as_str()))));
    record.needs.options().into_iter().chain(note).collect()
}

/// Describes which processes have the file open for writing, and how to make them close it.
///
/// # Errors
/// An error of statx(2).
pub(super) fn open_for_writing(target: &Target) -> Result<String> {
    let holders = Holders::of(target, &target.statx()?, Use::Writing);
    Ok(format!("open for writing{}", holders.name()))
}

/// Replaces the error of the refused lease by one that names the processes that keep the file busy.
pub(super) fn name_writers(target: &Target, error: Error) -> Error {
    if error.errno != Some(Errno::EAGAIN) {
        return error;
    }
    match open_for_writing(target) {
        Ok(writers) => error.with_message(format!("busy: {writers}, or use --wait")),
        Err(_) => error,
    }
}

/// Whether a file with a record that is not held has changed since the pin.
fn changed(survey: &Survey) -> bool {
    let drifted = survey.drift.as_ref().is_some_and(|drift| !drift.changes.is_empty());
    matches!(&survey.stored, Stored::Own(record) if drifted || state::attributes_differ(record, &survey.inode.statx))
}
