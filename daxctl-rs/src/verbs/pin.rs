//! `pin`: checks a file, holds its map, and records it.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use libdaxfile::lease::{Kind, Lease};

use super::{each, judge};
use crate::error::{Error, Result};
use crate::file::blockers::Kind as Blocking;
use crate::file::target::{Lock, Target};
use crate::hold::frozen;
use crate::hold::{self, Candidate, NOT_PINNED, Requirements, none, writable};
use crate::needs::{Hold, Needs};
use crate::pin::record::{self, Note, Record, Stored};
use crate::pin::state::State;
use crate::pin::survey::{self, Recorded};
use crate::progress::Progress;
use crate::report::{Action, FileReport, Sink};
use crate::status::Status;
use crate::system::locks::Locks;

/// Most files of a batch that may have to wait for writers.
const MOST_THAT_WAIT: usize = 128;

/// Options of `pin`.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The requirements on the map.
    pub needs: Needs,
    /// Pin a file that has its own record with the recorded options instead.
    pub as_recorded: bool,
    /// The note to keep with the pin.
    pub note: Option<Note>,
    /// How long to wait for writers to close the file.
    pub wait: Duration,
    /// Only report what would be done.
    pub dry_run: bool,
}

/// The end of the wait; `None` if it is further off than the clock can count.
#[derive(Clone, Copy)]
struct Deadline(Option<Instant>);

impl Deadline {
    fn after(wait: Duration) -> Self {
        Deadline(Instant::now().checked_add(wait))
    }

    fn passed(self) -> bool {
        self.0.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// Pins each file.
pub fn run(paths: &[PathBuf], options: &Options, progress: &dyn Progress, sink: &mut Sink<'_>) -> Status {
    let requirements = Requirements::default();
    let deadline = Deadline::after(options.wait);
    // While one file of a batch is waited for, the others wait as well.
    let most = if options.wait.is_zero() { each::LARGEST_BATCH } else { MOST_THAT_WAIT };
    each::in_batches(paths, most, progress, sink, |paths| pin_batch(paths, options, &requirements, deadline, progress))
}

/// What is left to do for a file that was looked at.
enum Next {
    /// The file is pinned. The process that pinned it may not have reached its fsync.
    Sync,
    Hold(ToHold),
}

/// What a hold begins with: the requirements, the map as it was found, and the record of a file that is not held.
type ToHold = Box<(Needs, Recorded, Option<Record>)>;

/// Pins the first few of the files, at least one, and reports on these.
fn pin_batch(
    paths: &[PathBuf],
    options: &Options,
    requirements: &Requirements,
    deadline: Deadline,
    progress: &dyn Progress,
) -> Vec<FileReport> {
    let locks = Locks::default();
    let (mut reports, looked) = each::open_batch(paths, progress, |target, report| {
        // If nothing can be pinned, locks may not work either.
        let lock = match target.filesystem.refuses_every_hold() {
            true => None,
            false => Some(retry_while_busy(&target, deadline, progress, || target.lock_with(&locks))?),
        };
        let next = look(&target, options, requirements, deadline, progress, report)?;
        Ok(next.map(|next| (target, lock, next)))
    });
    let mut held = Vec::new();
    let mut pinned = Vec::new();
    for (index, (target, lock, next)) in looked {
        match next {
            Next::Hold(next) => held.push((Place { index, target, _lock: lock }, next)),
            Next::Sync => pinned.push((index, target, lock)),
        }
    }
    let targets: Vec<&Target> = pinned.iter().map(|(_, target, _)| target).collect();
    for ((index, target, _), synced) in pinned.iter().zip(hold::sync(&targets)) {
        match synced.and_then(|()| target.require_named("that file was pinned before, and stays pinned")) {
            Ok(()) => reports[*index].action = Some(Action::AlreadyPinned),
            Err(error) => reports[*index].fail(&error),
        }
    }
    for hold in Hold::ALL {
        let (places, next) = held.extract_if(.., |(_, next)| next.0.hold == hold).unzip::<_, _, Vec<_>, Vec<_>>();
        match hold {
            Hold::Frozen => hold_files::<frozen::Candidate<'_>>(&places, next, progress, &mut reports),
            Hold::Writable => hold_files::<writable::Candidate<'_>>(&places, next, progress, &mut reports),
            Hold::None => hold_files::<none::Candidate<'_>>(&places, next, progress, &mut reports),
        }
    }
    reports
}

/// A file that is to be held, and the place of its report.
struct Place {
    index: usize,
    target: Target,
    _lock: Option<Lock>,
}

/// Pins the files of one hold, and reports on them.
fn hold_files<'a, C: Candidate<'a>>(
    places: &'a [Place],
    next: Vec<ToHold>,
    progress: &dyn Progress,
    reports: &mut [FileReport],
) {
    let candidate = |(place, next): (&'a Place, ToHold)| {
        let (needs, found_as, found) = *next;
        C::new(&place.target, needs, found_as, found)
    };
    let mut candidates: Vec<C> = places.iter().zip(next).map(candidate).collect();
    C::pin(&mut candidates, progress);
    for (place, candidate) in places.iter().zip(candidates) {
        let report = &mut reports[place.index];
        report.notes.extend(candidate.note());
        match candidate.outcome() {
            Ok(survey) => {
                report.describe(&place.target, &survey);
                report.action = Some(Action::Pinned);
            }
            Err(error) => report.fail(&judge::name_writers(&place.target, error)),
        }
    }
}

/// Surveys a file, and does everything that needs no batch. Returns the rest, if any.
fn look(
    target: &Target,
    options: &Options,
    requirements: &Requirements,
    deadline: Deadline,
    progress: &dyn Progress,
    report: &mut FileReport,
) -> Result<Option<Next>> {
    let recorded = if options.as_recorded { Some(record::load(target, false)?) } else { None };
    let needs = match recorded {
        Some(Stored::Own(record)) if record.needs.hold == Hold::None && options.needs.hold != Hold::None => {
            return Err(Error::new(
                Status::No,
                "its record, which the file's owner can write, says hold none: unpin it, or pin it with --hold none",
            ));
        }
        Some(Stored::Own(record)) => record.needs,
        _ => options.needs,
    };
    let missing = requirements.missing(needs.hold, target, &target.statx()?, &target.filesystem)?;
    let probed = match needs.hold {
        Hold::Frozen if missing.is_empty() => retry_while_busy(target, deadline, progress, || frozen::probe(target)),
        Hold::Writable if missing.is_empty() => {
            retry_while_busy(target, deadline, progress, || writable::probe(target))
        }
        _ => Ok(()),
    };
    // Hold none also pins files in use. If nothing writes, a lease proves the map consistent.
    let lease = match needs.hold {
        Hold::None => Lease::take(target, Kind::Read).ok(),
        Hold::Frozen | Hold::Writable => None,
    };
    let surveyed = survey::to_record(target, needs, options.note.as_ref(), lease.as_ref());
    let Some(mut recorded) = judge::seen(target, &needs, surveyed, report)? else { return Ok(None) };
    judge::judge(target, &needs, &mut recorded.survey, missing.first(), report)?;
    let survey = &recorded.survey;
    if let (Stored::Own(record), Some(_)) = (&survey.stored, &options.note)
        && record.note != options.note
    {
        return Err(Error::new(Status::No, "already pinned with another note: unpin first"));
    }
    // Only now, so that the report on a file in use also lists all its blockers. For an active swapfile, the blocker
    // says enough.
    let swapfile = report.blockers.iter().flatten().any(|blocker| blocker.kind == Blocking::Swapfile);
    if !swapfile {
        probed.map_err(|error| judge::name_writers(target, error))?;
    }
    if report.exit_status != Status::Done {
        return Ok(None);
    }
    if survey.state == State::Pinned {
        survey.require_certainty()?;
        if !options.dry_run {
            return Ok(Some(Next::Sync));
        }
        report.action = Some(Action::AlreadyPinned);
        return Ok(None);
    }
    if let Some(missing) = judge::with_record_in_the_way(target, missing, &needs, survey)?.first() {
        return Err(missing.error(needs.hold));
    }
    if options.dry_run {
        let note = options.note.as_ref().map_or(0, |note| note.as_str().len());
        if let Some(error) = judge::require_room(target, &needs, survey, note, requirements, report)? {
            return Err(error);
        }
        report.action = Some(Action::WouldPin);
        return Ok(None);
    }
    let found = match &survey.stored {
        Stored::Own(record) => Some(record.clone()),
        _ => None,
    };
    Ok(Some(Next::Hold(Box::new((needs, recorded, found)))))
}

/// Retries while the file is busy, until the deadline. Ends as well when the file is no longer at its name.
fn retry_while_busy<T>(
    target: &Target,
    deadline: Deadline,
    progress: &dyn Progress,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    loop {
        match attempt() {
            Err(error) if error.status == Status::Busy && !deadline.passed() && !progress.interrupted() => {
                target.require_named(NOT_PINNED)?;
                sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}
