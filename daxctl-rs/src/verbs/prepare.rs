//! `prepare`: makes an existing file pinnable in place. Contents and size stay, even if other processes use the file.

use std::path::PathBuf;

use super::{each, judge};
use crate::error::{Error, Result};
use crate::file::blockers::{Blocker, Kind};
use crate::file::staging::Staging;
use crate::file::target::Target;
use crate::name::for_shell;
use crate::needs::{Allow, Needs};
use crate::pin::record::{self, Stored};
use crate::pin::survey::{self, Survey};
use crate::prepare::{deduped, leased};
use crate::progress::{Progress, Unit};
use crate::report::{Action, FileReport, Sink, Work};
use crate::status::Status;
use crate::system::holders::{Holders, Use};

/// Rounds beside other users before the file counts as busy.
const ROUNDS: u32 = 3;

/// Prepares each file.
pub fn run(paths: &[PathBuf], needs: &Needs, dry_run: bool, progress: &dyn Progress, sink: &mut Sink<'_>) -> Status {
    // Its progress counts the bytes of one file, not files.
    let paths = paths.iter().take_while(|_| !progress.interrupted());
    paths
        .map(|path| each::report_on(path, |target, report| prepare(target, needs, dry_run, progress, report)))
        .fold(Status::Done, |status, report| status.max(each::emit(report, sink)))
}

/// Whether prepare removes the blocker. Delayed allocation after a sync means that a process is writing at this moment.
fn is_removable(blocker: &Blocker) -> bool {
    matches!(blocker.kind, Kind::Hole | Kind::Unwritten | Kind::Shared | Kind::Staging | Kind::PastEof | Kind::Delalloc)
}

/// Whether the blocker may disappear when prepare removes the others.
fn may_disappear(blocker: &Blocker) -> bool {
    matches!(blocker.kind, Kind::TooManyExtents | Kind::Misaligned)
}

fn prepare(
    target: Target,
    needs: &Needs,
    dry_run: bool,
    progress: &dyn Progress,
    report: &mut FileReport,
) -> Result<()> {
    let surveyed = survey::with_sharers(&target, *needs);
    let Some(survey) = judge::seen(&target, needs, surveyed, report)? else { return Ok(()) };
    let unsure =
        matches!(survey.context.staging, Some(Staging::CannotTell { .. })) && !needs.allow.contains(Allow::SHARED);
    let hopeless = survey.blockers.iter().any(|blocker| !is_removable(blocker) && !may_disappear(blocker));
    let wanted = survey.blockers.iter().any(is_removable);
    let pinned = matches!(survey.stored, Stored::Own(_));
    if hopeless || pinned || !wanted && !unsure || survey.inode.immutable() {
        report.describe(&target, &survey);
        report.add_blockers(survey.blockers);
        if pinned && wanted {
            return Err(is_pinned(&target));
        }
        report.action = (report.exit_status == Status::Done).then_some(Action::AlreadyPrepared);
        return Ok(());
    }
    let work = work(&survey, needs);
    report.work = Some(work);
    target.filesystem.require_space(&target, work.allocate)?;
    if dry_run {
        target.require_write_access()?;
        report.describe(&target, &survey);
        report.action = Some(Action::WouldPrepare);
        return Ok(());
    }
    let target = target.into_writable()?;
    let _lock = target.lock()?;
    // pin takes the same lock.
    if matches!(record::load(&target, false)?, Stored::Own(_)) {
        return Err(is_pinned(&target));
    }
    progress.begin(work.write, Unit::Bytes);
    let changed = change(&target, needs, survey, unsure, progress);
    progress.end();
    let survey = changed?;
    // The file's owner takes another lock than root does.
    if matches!(survey.stored, Stored::Own(_)) {
        return Err(Error::new(Status::Busy, "busy: another daxfile pinned it meanwhile: see daxfile verify"));
    }
    target.require_named("that file is prepared")?;
    report.describe(&target, &survey);
    report.add_blockers(survey.blockers);
    if report.exit_status == Status::Done {
        report.action = Some(Action::Prepared);
    }
    Ok(())
}

/// Prepare would move a recorded map, whichever hold it has.
fn is_pinned(target: &Target) -> Error {
    Error::new(Status::No, format!("pinned: unpin first (daxfile unpin {})", for_shell(&target.path)))
}

/// The most bytes to write and to allocate.
fn work(survey: &Survey, needs: &Needs) -> Work {
    let shared = if needs.allow.contains(Allow::SHARED) { 0 } else { survey.overview.summary.shared };
    let (holes, unwritten) = gaps(survey, needs);
    Work { write: holes + unwritten + shared, allocate: holes + shared }
}

/// The bytes of those holes and unwritten blocks that are to be written.
fn gaps(survey: &Survey, needs: &Needs) -> (u64, u64) {
    let summary = &survey.overview.summary;
    let unless = |kind, bytes| if needs.allow.contains(kind) { 0 } else { bytes };
    (unless(Allow::HOLE, summary.hole), unless(Allow::UNWRITTEN, summary.unwritten))
}

fn change(target: &Target, needs: &Needs, survey: Survey, unsure: bool, progress: &dyn Progress) -> Result<Survey> {
    let has = |survey: &Survey, kind| survey.blockers.iter().any(|blocker| blocker.kind == kind);
    let unshares = unsure || has(&survey, Kind::Shared) || has(&survey, Kind::Staging);
    if leased::prepare(target, needs, unshares, progress)?.is_some() {
        return survey::take(target, *needs, None, |_| ());
    }
    let busy = |why| {
        let holders = Holders::of(target, &target.statx()?, Use::Any);
        Err(Error::new(Status::Busy, format!("busy: open{}: {why}", holders.name())))
    };
    if target.filesystem.reflinking_xfs().is_none() {
        return busy("beside other processes, files can be prepared only on XFS with reflink");
    }
    if has(&survey, Kind::PastEof) {
        return busy("blocks past EOF can be freed only if no other process has it open");
    }
    let mut survey = survey;
    for _ in 0..ROUNDS {
        let (holes, unwritten) = gaps(&survey, needs);
        let donor = deduped::donor_bytes(holes + unwritten);
        target.filesystem.require_space(target, work(&survey, needs).write.saturating_add(donor))?;
        deduped::prepare(target, needs, donor, progress)?;
        survey = survey::take(target, *needs, None, |_| ())?;
        if !survey.blockers.iter().any(is_removable) {
            return Ok(survey);
        }
    }
    busy("the map keeps changing")
}
