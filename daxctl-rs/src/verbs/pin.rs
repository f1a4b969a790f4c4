//! `pin`: checks a file, holds its map, and records it.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use libdaxfile::Errno;
use libdaxfile::lease::{Kind, Lease};

use super::{each, judge};
use crate::error::{Error, Result};
use crate::file::target::Target;
use crate::hold::frozen::{self, Candidate};
use crate::hold::{self, none, writable};
use crate::needs::{Hold, Needs};
use crate::pin::record::{self, Record, Stored};
use crate::pin::state::State;
use crate::pin::survey::{self, Recorded};
use crate::progress::{Progress, Unit};
use crate::report::{Action, FileReport, Sink};
use crate::status::Status;

/// Files frozen together: each takes two descriptors, and 1,024 is the usual limit.
const BATCH: usize = 128;

/// How `pin` goes about it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// What the map must be like.
    pub needs: Needs,
    /// A file that has its own record is pinned as that says instead.
    pub as_recorded: bool,
    /// How long open writers are waited for.
    pub wait: Duration,
    /// Only report what would be done.
    pub dry_run: bool,
}

/// Pins each file.
pub fn run(paths: &[PathBuf], options: &Options, progress: &dyn Progress, sink: &mut Sink<'_>) -> Status {
    let deadline = Instant::now() + options.wait;
    let mut status = Status::Done;
    let mut rest = paths;
    progress.begin(paths.len() as u64, Unit::Files);
    while !rest.is_empty() && !progress.interrupted() {
        let batch = pin_batch(&rest[..rest.len().min(BATCH)], options, deadline, progress);
        rest = &rest[batch.len()..];
        progress.advance(batch.len() as u64);
        status = batch.into_iter().fold(status, |status, report| status.max(each::tell(report, sink)));
    }
    progress.end();
    status
}

/// What is to happen to a file that was looked at.
enum Next {
    Nothing,
    Freeze(Box<(Needs, Recorded, Option<Record>)>),
}

/// Pins the first of the files, at least one, and reports on these.
fn pin_batch(paths: &[PathBuf], options: &Options, deadline: Instant, progress: &dyn Progress) -> Vec<FileReport> {
    let mut reports = Vec::with_capacity(paths.len());
    let mut frozen = Vec::new();
    for path in paths {
        let opened = Target::open(path);
        // A file that is named twice waits for the next batch: for now, this one has it locked.
        if let Ok(target) = &opened
            && frozen.iter().any(|(_, other, ..): &(_, Target, _, _)| other.identity == target.identity)
        {
            break;
        }
        let mut report = FileReport::new(path);
        let looked = opened.and_then(|target| {
            let lock = patiently(deadline, progress, || target.lock())?;
            let next = look(&target, options, deadline, progress, &mut report)?;
            Ok((target, lock, next))
        });
        match looked {
            Ok((target, lock, Next::Freeze(next))) => frozen.push((reports.len(), target, lock, next)),
            Ok((_, _, Next::Nothing)) => {}
            Err(error) => report.fail(&error),
        }
        reports.push(report);
    }
    let (files, recorded): (Vec<_>, Vec<_>) =
        frozen.into_iter().map(|(index, target, lock, next)| ((index, target, lock), next)).unzip();
    let mut candidates: Vec<Candidate<'_>> = files
        .iter()
        .zip(recorded)
        .map(|((_, target, _), next)| {
            let (needs, recorded, found) = *next;
            Candidate::new(target, needs, recorded, found)
        })
        .collect();
    frozen::pin(&mut candidates, progress);
    for ((index, target, _), candidate) in files.iter().zip(candidates) {
        let report = &mut reports[*index];
        match candidate.outcome() {
            Ok(survey) => {
                report.describe(target, &survey);
                report.action = Some(Action::Pinned);
            }
            Err(error) => report.fail(&error),
        }
    }
    reports
}

/// Looks at a file and does what needs no batch.
fn look(
    target: &Target,
    options: &Options,
    deadline: Instant,
    progress: &dyn Progress,
    report: &mut FileReport,
) -> Result<Next> {
    let recorded = if options.as_recorded { Some(record::load(target, false)?) } else { None };
    let needs = match recorded {
        Some(Stored::Own(record)) => record.needs,
        _ => options.needs,
    };
    let statx = target.statx()?;
    let missing = hold::missing_capabilities(needs.hold, &statx)?;
    let may_probe = needs.hold == Hold::Frozen && missing.is_empty() && target.filesystem.refusal(needs.hold).is_none();
    let probed = if may_probe { patiently(deadline, progress, || frozen::probe(target)) } else { Ok(()) };
    // Hold none pins files in use, too; where nobody writes, a lease makes the map certain.
    let lease = match needs.hold {
        Hold::None => Lease::take(target, Kind::Read).ok(),
        Hold::Frozen | Hold::Writable => None,
    };
    let surveyed = survey::to_record(target, needs, lease.as_ref());
    let recorded = judge::or_unsupported(target, surveyed, report)?;
    let survey = &recorded.survey;
    judge::judge(target, &needs, survey, report)?;
    // Not before: of a file in use, too, all that stands against pinning is told.
    probed?;
    if report.exit_status != Status::Done {
        return Ok(Next::Nothing);
    }
    if survey.state == State::Pinned {
        if !options.dry_run {
            // Whoever pinned it may not have come to its fsync.
            target.fsync()?;
        }
        report.action = Some(Action::AlreadyPinned);
        return Ok(Next::Nothing);
    }
    if target.filesystem.read_only {
        return Err(Error::call("fsetxattr", Errno::EROFS).because("a pin needs its record; remount it read-write"));
    }
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(Error::new(
            Status::NotPermitted,
            format!("hold {} needs {missing}; --hold none records the map with write access alone", needs.hold.name()),
        ));
    }
    if options.dry_run {
        hold::rehearse(needs.hold, target)?;
        report.action = Some(Action::WouldPin);
        return Ok(Next::Nothing);
    }
    let found = match &survey.stored {
        Stored::Own(record) => Some(record.clone()),
        _ => None,
    };
    match needs.hold {
        Hold::Frozen => Ok(Next::Freeze(Box::new((needs, recorded, found)))),
        Hold::Writable => {
            report.describe(target, &writable::pin(target, needs, &recorded, found.as_ref())?);
            report.action = Some(Action::Pinned);
            Ok(Next::Nothing)
        }
        Hold::None => {
            report.describe(target, &none::pin(target, needs, &recorded, lease.as_ref())?);
            report.action = Some(Action::Pinned);
            Ok(Next::Nothing)
        }
    }
}

/// Tries again while the file is busy, until the deadline.
fn patiently<T>(deadline: Instant, progress: &dyn Progress, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match attempt() {
            Err(error) if error.status == Status::Busy && Instant::now() < deadline && !progress.interrupted() => {
                sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}
