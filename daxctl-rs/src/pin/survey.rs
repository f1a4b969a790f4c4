//! A survey: everything known about a file at one moment, from one pass over its map.

use libdaxfile::fiemap::ExtentFlags;
use libdaxfile::fsxattr::Xflags;
use libdaxfile::lease::{self, Lease};

use crate::error::{Error, Result};
use crate::file::blockers::{Blocker, Context, Kind, Scan};
use crate::file::dax;
use crate::file::map::{self, Run, Runs};
use crate::file::overview::Overview;
use crate::file::sharers::Sharers;
use crate::file::staging;
use crate::file::target::{InodeState, Target};
use crate::needs::{Allow, Hold, Needs};
use crate::pin::drift::{Comparison, Drift};
use crate::pin::guarded;
use crate::pin::record::{self, Found, LIMIT, Note, RecordedMap, Recorder, Stored};
use crate::pin::state::{self, State};
use crate::status::Status;
use crate::system::{mounts, quotas};

/// A file and the state of its pin.
#[derive(Debug)]
pub struct Survey {
    /// The inode's state before the map was read.
    pub inode: InodeState,
    /// The record found on the file.
    pub stored: Stored,
    /// Totals and strip.
    pub overview: Overview,
    /// What prevents pinning it.
    pub blockers: Vec<Blocker>,
    /// How it differs from its own record.
    pub drift: Option<Drift>,
    /// Facts that the map does not show.
    pub context: Context,
    /// The state of its pin.
    pub state: State,
    /// Whether the map is proved consistent.
    pub consistent: bool,
    /// Whether the guard has the file, but this process cannot see whether the guard is complete.
    pub guard_unseen: bool,
    /// Whether the file may have attributes besides its record.
    pub other_attributes: bool,
    /// Why the kernel refused the lease of [`with_writers`].
    pub lease_refused: Option<libdaxfile::Error>,
}

/// The lease that a survey uses.
#[derive(Clone, Copy)]
enum Leased<'a> {
    /// None.
    No,
    /// The caller's.
    Held(&'a Lease<'a>),
    /// One of its own, if the file is frozen.
    IfFrozen,
}

impl<'a> From<Option<&'a Lease<'a>>> for Leased<'a> {
    fn from(lease: Option<&'a Lease<'a>>) -> Self {
        lease.map_or(Leased::No, Leased::Held)
    }
}

impl Survey {
    /// Whether the file shares some of its blocks with other files, and this prevents a pin.
    fn shares(&self) -> bool {
        self.blockers.iter().any(|blocker| blocker.kind == Kind::Shared)
    }

    /// Refuses to treat the file as held if that is uncertain.
    ///
    /// # Errors
    /// Not permitted, if the guard has the file, but this process cannot see whether the guard is complete.
    pub fn require_certainty(&self) -> Result<()> {
        if self.guard_unseen && self.state == State::Pinned {
            return Err(Error::new(Status::NotPermitted, guarded::UNSEEN));
        }
        Ok(())
    }
}

/// A survey, and the form in which a record keeps the map.
#[derive(Debug)]
pub struct Recorded {
    /// The survey.
    pub survey: Survey,
    /// Number of runs by position.
    pub extents: u64,
    /// The runs, or digests of them.
    pub map: RecordedMap,
    /// The note to keep with the pin.
    pub note: Option<Note>,
}

/// Surveys a file; `visit` receives every run.
///
/// # Errors
/// An error of the calls that read inode, record and map.
pub fn take(target: &Target, needs: Needs, lease: Option<&Lease<'_>>, visit: impl FnMut(&Run)) -> Result<Survey> {
    look(target, target.inode_state()?, needs, lease.into(), None, visit)
}

/// Surveys a file that was just opened, with size and times from the moment of opening.
///
/// # Errors
/// As for [`take`].
pub fn of_opened(target: &Target, needs: Needs, visit: impl FnMut(&Run)) -> Result<Survey> {
    look(target, target.state_at_opening()?, needs, Leased::No, None, visit)
}

/// Surveys a file that was just opened and that the caller closes next. If the file is frozen, takes a lease, which is
/// released when the file is closed: it proves the map consistent, and the kernel refuses it while a process that opened
/// the file before the flag was set can still write.
///
/// # Errors
/// As for [`take`].
pub fn with_writers(target: &Target, needs: Needs, visit: impl FnMut(&Run)) -> Result<Survey> {
    look(target, target.state_at_opening()?, needs, Leased::IfFrozen, None, visit)
}

/// Surveys a file that was just opened, and returns the runs of its map as well.
///
/// # Errors
/// As for [`take`].
pub fn with_runs(target: &Target, needs: Needs) -> Result<(Survey, Runs)> {
    let mut runs = Runs::default();
    let survey = look(target, target.state_at_opening()?, needs, Leased::No, Some(&mut runs), |_| ())?;
    Ok((survey, runs))
}

/// Surveys a file that was just opened, and finds the other files that share its blocks.
///
/// # Errors
/// As for [`take`]; an error of the calls that read owners.
pub fn with_sharers(target: &Target, needs: Needs) -> Result<Survey> {
    let look = |inode| {
        let mut shared = Shared::new(target, needs);
        let survey = look(target, inode, needs, Leased::No, None, |run| shared.push(run))?;
        shared.name_owners(survey)
    };
    let survey = look(target.state_at_opening()?)?;
    if !survey.shares() || !target.filesystem.await_deletions(target)? {
        return Ok(survey);
    }
    // Its lists can be long: free them before the second look makes its own.
    drop(survey);
    look(target.inode_state()?)
}

/// Surveys a file to record it, with a note.
///
/// # Errors
/// As for [`with_sharers`].
pub fn to_record(target: &Target, needs: Needs, note: Option<&Note>, lease: Option<&Lease<'_>>) -> Result<Recorded> {
    let recorded = record_as_it_is(target, needs, note, lease)?;
    if !recorded.survey.shares() || !target.filesystem.await_deletions(target)? {
        return Ok(recorded);
    }
    drop(recorded);
    record_as_it_is(target, needs, note, lease)
}

fn record_as_it_is(target: &Target, needs: Needs, note: Option<&Note>, lease: Option<&Lease<'_>>) -> Result<Recorded> {
    let inode = target.inode_state()?;
    let mut recorder = Recorder::new(inode.statx.size, LIMIT, note);
    let mut shared = Shared::new(target, needs);
    let survey = look(target, inode, needs, lease.into(), None, |run| {
        recorder.push(run);
        shared.push(run);
    })?;
    let (extents, map) = recorder.finish();
    Ok(Recorded { survey: shared.name_owners(survey)?, extents, map, note: note.cloned() })
}

/// Collects the other files that share blocks with this one.
struct Shared<'a>(Sharers<'a>);

impl<'a> Shared<'a> {
    fn new(target: &'a Target, needs: Needs) -> Self {
        Shared(Sharers::new(target, !needs.allow.contains(Allow::SHARED)))
    }

    fn push(&mut self, run: &Run) {
        if run.flags.contains(ExtentFlags::SHARED) {
            self.0.add(run.physical..run.physical.saturating_add(run.length));
        }
    }

    fn name_owners(self, mut survey: Survey) -> Result<Survey> {
        if let Some(blocker) = survey.blockers.iter_mut().find(|blocker| blocker.kind == Kind::Shared) {
            blocker.sharers = self.0.found()?;
        }
        Ok(survey)
    }
}

fn look(
    target: &Target,
    inode: InodeState,
    needs: Needs,
    leased: Leased<'_>,
    runs: Option<&mut Runs>,
    mut visit: impl FnMut(&Run),
) -> Result<Survey> {
    let statx = inode.statx;
    let Found { stored, others } = match inode.may_have_xattrs(target) {
        true => record::find(target, inode.immutable())?,
        false => Found { stored: Stored::Absent, others: false },
    };
    let own = match &stored {
        Stored::Own(record) => Some(record),
        _ => None,
    };
    let block_size = target.filesystem.block_size;
    let mut overview = Overview::new(statx.size, block_size, target.start);
    let mut scan = Scan::new(statx.size, block_size, target.start, needs);
    let mut comparison = own.map(|record| Comparison::new(&record.map, record.size));
    let frozen = inode.immutable() && own.is_some_and(|record| record.needs.hold == Hold::Frozen);
    let taken = match leased {
        Leased::IfFrozen if frozen => Some(Lease::take(target, lease::Kind::Read)),
        _ => None,
    };
    let lease = match (leased, &taken) {
        (Leased::Held(lease), _) => Some(lease),
        (_, Some(Ok(lease))) => Some(lease),
        _ => None,
    };
    let consistent = map::read(target, &inode, lease, runs, |run| {
        overview.push(&run);
        scan.push(&run);
        if let Some(comparison) = &mut comparison {
            comparison.push(&run);
        }
        visit(&run);
    })?;
    let lease_refused = taken.and_then(|taken| taken.map(Lease::release_at_close).err());
    let drift = comparison.map(Comparison::finish);
    let overview = overview.finish();
    let realtime = inode.xflags().contains(Xflags::REALTIME);
    let map_sync = match dax::grants_map_sync(target, &statx) {
        // If a security module refuses to answer, only a caller that needs the answer should fail.
        Err(error) if needs.dax => return Err(error),
        told => told.ok(),
    };
    let context = Context {
        staging: staging::detect(target, &inode, overview.mapped)?,
        realtime_device: if realtime { mounts::realtime_device(statx.device)? } else { None },
        dax: if needs.dax { dax::missing(target, &inode, map_sync == Some(true))? } else { None },
        keeps_quotas: target.filesystem.may_keep_quotas_in_files() && kept_quotas(target, leased)?,
        map_sync,
    };
    let blockers = scan.finish(target, &inode, own.is_some(), &context)?;
    let held_as = own.map(|record| record.needs.hold);
    let held = match held_as {
        Some(Hold::Writable) => guarded::is_held(target)?,
        _ => Some(inode.immutable()),
    };
    let state = match state::state(&stored, held != Some(false), &statx, drift.as_ref()) {
        State::Pinned if context.keeps_quotas && !matches!(held_as, Some(Hold::None) | None) => State::WriterInside,
        state => state,
    };
    let guard_unseen = held.is_none();
    Ok(Survey {
        inode,
        overview,
        blockers,
        context,
        drift,
        state,
        consistent,
        guard_unseen,
        other_attributes: others,
        lease_refused,
        stored,
    })
}

fn kept_quotas(target: &Target, leased: Leased<'_>) -> Result<bool> {
    let inode = target.identity.inode;
    match leased {
        // To prove a pin, only the present counts.
        Leased::Held(_) => quotas::kept_in(target, inode),
        Leased::No | Leased::IfFrozen => quotas::kept_in_one_of_many(target, target.device(), inode),
    }
}

/// Reads the current map in the form that a record of at most `limit` bytes with this note keeps: whole runs, or digests
/// of a file of `size` bytes.
///
/// # Errors
/// An error of reading the map.
pub fn recorded_map(target: &Target, size: u64, limit: usize, note: Option<&Note>) -> Result<RecordedMap> {
    let mut recorder = Recorder::new(size, limit, note);
    map::read(target, &target.inode_state()?, None, None, |run| recorder.push(&run))?;
    Ok(recorder.finish().1)
}
