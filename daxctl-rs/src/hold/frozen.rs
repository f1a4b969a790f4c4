//! Hold `frozen`: the IMMUTABLE inode flag, set so that no writer slips through unseen.
//!
//! Who opened the file for writing before the flag was set is not stopped by it on XFS, and who waits for a lease is
//! past its permission check. So the order is: probe with a lease, record, set the flag, lease again, and only then
//! prove that the file is what was recorded. Every step is taken for the whole batch before the next, so that the time
//! for settling is not paid per file.

use std::thread::park_timeout;
use std::time::{Duration, Instant, SystemTime};

use caps::Capability;
use libdaxfile::Errno;
use libdaxfile::fsxattr::Xflags;
use libdaxfile::lease::{Kind, Lease};
use libdaxfile::statx::{Statx, Time};
use libdaxfile::xattr;

use super::{Replaced, durable, pages};
use crate::error::{Error, Result};
use crate::file::target::Target;
use crate::needs::Needs;
use crate::pin::record::{LIMIT, Record, attribute};
use crate::pin::survey::{self, Recorded, Survey};
use crate::progress::Progress;
use crate::status::Status;

/// Attempts before a file is called busy.
const ATTEMPTS: u32 = 3;

/// A write must not leave the mtime that was recorded: the kernel's clock for it ticks every 1 to 10 ms.
const MTIME_AGE: Duration = Duration::from_millis(20);

/// How long the lease is asked for once the flag is on: openers that come and go refuse a single try nearly always.
const LEASE_PATIENCE: Duration = Duration::from_millis(50);

/// Time for openers past their permission check to show themselves. It proves nothing; what follows does.
const SETTLE: Duration = Duration::from_millis(5);

/// What this process lacks for freezing a file.
///
/// # Errors
/// Where the kernel does not tell the process's capabilities.
pub fn missing_capabilities(statx: &Statx) -> Result<Vec<String>> {
    let anothers = super::is_anothers(statx);
    super::lacked(&[
        (Capability::CAP_LINUX_IMMUTABLE, true),
        (Capability::CAP_SYS_ADMIN, true),
        (Capability::CAP_FOWNER, anothers),
        (Capability::CAP_LEASE, anothers),
    ])
}

/// Asks, without touching the file, whether somebody has it open for writing.
///
/// # Errors
/// Busy if so; those of F_SETLEASE otherwise.
pub fn probe(target: &Target) -> Result<()> {
    lease(target).map(drop)
}

fn lease(target: &Target) -> Result<Lease<'_>> {
    Lease::take(target, Kind::Read).map_err(|error| {
        let error = Error::from(error);
        match error.errno {
            Some(Errno::EAGAIN) => error.because("somebody has it open, or mapped, for writing; see fuser(1)"),
            Some(Errno::EACCES) => error.because("needs CAP_LEASE on a file of another owner"),
            Some(Errno::EINVAL) => Error { status: Status::Unable, ..error }.because("no leases here"),
            _ => error,
        }
    })
}

/// A file on its way to being frozen.
#[derive(Debug)]
pub struct Candidate<'a> {
    target: &'a Target,
    needs: Needs,
    found_as: Recorded,
    /// What was found on the file, not held, and is to be held again as it is.
    found: Option<Record>,
    lease: Option<Lease<'a>>,
    written: Option<Vec<u8>>,
    replaced: Option<Replaced>,
    /// Flags that the record says the pin added.
    adds: Xflags,
    /// Flags that this process has added.
    added: Xflags,
    /// Pages that stay in memory, where others have the file open.
    mapped: u64,
    outcome: Option<Result<Survey>>,
}

impl<'a> Candidate<'a> {
    /// A file that was probed, and has no blocker as it was found; `found` is its own record if it is pinned but not held.
    #[must_use]
    pub fn new(target: &'a Target, needs: Needs, found_as: Recorded, found: Option<Record>) -> Self {
        Candidate {
            target,
            needs,
            found_as,
            found,
            lease: None,
            written: None,
            replaced: None,
            adds: Xflags::empty(),
            added: Xflags::empty(),
            mapped: 0,
            outcome: None,
        }
    }

    /// Whether the file is frozen: what was proved then, or why not.
    ///
    /// # Errors
    /// Why not. The file is then as it was before.
    pub fn outcome(self) -> Result<Survey> {
        self.outcome.unwrap_or_else(|| Err(interrupted()))
    }

    /// What could not be ruled out.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let mapped = self.mapped;
        (mapped > 0).then(|| {
            format!(
                "others have it open, and {mapped} of its pages stay in memory: I/O begun before could still store into \
                 one that the kernel holds for it"
            )
        })
    }

    /// Writes the record.
    fn record(&mut self) -> Result<()> {
        let record = match &self.found {
            Some(record) => record.clone(),
            None => {
                let (record, replaced) = super::store(self.target, self.needs, Xflags::IMMUTABLE, &self.found_as)?;
                // From here on a failure has a record to take back.
                self.replaced = Some(replaced);
                record
            }
        };
        self.written = Some(record.encode());
        self.adds = record.added;
        Ok(())
    }

    /// Sets the flag, then takes the lease.
    fn engage(&mut self) -> Result<()> {
        // Of those that a found record names, some may be on still; a failure must not take them away.
        self.added = self.adds - self.found_as.survey.inode.xflags();
        super::add_flags(self.target, self.adds)?;
        if !self.target.inode_state()?.immutable() {
            return Err(Error::new(Status::Unable, "the filesystem did not keep the immutable flag"));
        }
        let deadline = Instant::now() + LEASE_PATIENCE;
        self.lease = loop {
            match lease(self.target) {
                Err(error) if error.errno == Some(Errno::EAGAIN) && Instant::now() < deadline => {
                    pause(Duration::from_millis(1));
                }
                lease => break Some(lease?),
            }
        };
        Ok(())
    }

    /// Proves, under flag and lease, that the file is what was recorded, and that nobody was let in meanwhile.
    fn prove(&mut self) -> Result<()> {
        let slipped = |what| Error::new(Status::Busy, format!("somebody came in while it was being pinned: {what}"));
        let lease = self.lease.as_ref().ok_or_else(interrupted)?;
        if !lease.undisturbed()? {
            return Err(slipped("an opener waits"));
        }
        let name = attribute(self.needs.hold);
        if xattr::get(self.target, name, LIMIT + 1)? != self.written {
            return Err(slipped("the record is another"));
        }
        let survey = survey::take(self.target, self.needs, Some(lease), |_| ())?;
        if survey.state != crate::pin::state::State::Pinned || !survey.blockers.is_empty() {
            return Err(slipped("the map, the size or the mtime is another"));
        }
        self.lease = None;
        // Whoever was blocked by the lease has gone in by now, and has the file open for writing.
        probe(self.target)?;
        self.mapped = pages::require_free(self.target)?;
        self.outcome = Some(Ok(survey));
        Ok(())
    }

    /// Puts the file back as it was found.
    fn roll_back(&mut self) -> Result<()> {
        self.lease = None;
        let cleared = super::clear_flags(self.target, std::mem::take(&mut self.added))?;
        match self.replaced.take() {
            Some(replaced) => replaced.restore(self.target)?,
            None if cleared.is_empty() => return Ok(()),
            None => {}
        }
        self.target.fsync()
    }

    /// After a failure: the file goes back, and stays for another attempt if it was merely busy.
    fn fail(&mut self, error: Error, again: bool) {
        let restored = self.roll_back();
        self.outcome = match restored {
            Err(undo) => Some(Err(super::not_undone(error, &undo))),
            Ok(()) if again && error.status == Status::Busy => match self.look_again() {
                Ok(()) => None,
                Err(error) => Some(Err(error)),
            },
            Ok(()) => Some(Err(error)),
        };
    }

    fn look_again(&mut self) -> Result<()> {
        probe(self.target)?;
        self.found_as = survey::to_record(self.target, self.needs, self.found_as.note.as_ref(), None)?;
        let survey = &self.found_as.survey;
        let drifted = self.found.is_some() && survey.state != crate::pin::state::State::NotHeld;
        if drifted || !survey.blockers.is_empty() {
            return Err(Error::new(Status::No, "it was changed while it was being pinned; see daxfile check"));
        }
        Ok(())
    }
}

/// Freezes a batch of files. Each one's outcome is kept with it.
pub fn pin(candidates: &mut [Candidate<'_>], progress: &dyn Progress) {
    for attempt in 1..=ATTEMPTS {
        let again = attempt < ATTEMPTS;
        if candidates.iter().all(|candidate| candidate.outcome.is_some()) {
            return;
        }
        let pending = || candidates.iter().filter(|candidate| candidate.outcome.is_none());
        while let Some(wait) =
            pending().filter_map(|candidate| too_young(candidate.found_as.survey.inode.statx.mtime)).max()
        {
            pause(wait);
        }
        let mut batch =
            Batch { candidates: candidates.iter_mut().filter(|one| one.outcome.is_none()).collect(), again };
        batch.each(progress, Candidate::record);
        batch.sync();
        batch.each(progress, Candidate::engage);
        if !batch.candidates.is_empty() {
            pause(SETTLE);
        }
        batch.sync();
        batch.each(progress, Candidate::prove);
    }
}

/// The candidates of one attempt. Whichever fails leaves it.
struct Batch<'a, 'b> {
    candidates: Vec<&'b mut Candidate<'a>>,
    /// Whether another attempt follows.
    again: bool,
}

impl<'a> Batch<'a, '_> {
    /// Takes a step with each.
    fn each(&mut self, progress: &dyn Progress, step: fn(&mut Candidate<'a>) -> Result<()>) {
        self.keep(|candidate| if progress.interrupted() { Err(interrupted()) } else { step(candidate) });
    }

    /// Makes durable what the last step did.
    fn sync(&mut self) {
        let targets: Vec<&Target> = self.candidates.iter().map(|candidate| candidate.target).collect();
        let mut synced = durable::sync(&targets).into_iter();
        self.keep(|_| synced.next().unwrap_or(Ok(())));
    }

    fn keep(&mut self, mut act: impl FnMut(&mut Candidate<'a>) -> Result<()>) {
        let again = self.again;
        self.candidates.retain_mut(|candidate| match act(candidate) {
            Ok(()) => true,
            Err(error) => {
                candidate.fail(error, again);
                false
            }
        });
    }
}

fn interrupted() -> Error {
    Error::interrupted("the file is unchanged")
}

/// Waits, at most so long. std::thread::sleep() panics where the kernel refuses clock_nanosleep(2), which would leave a
/// file half pinned.
fn pause(time: Duration) {
    park_timeout(time);
}

/// How long until an mtime is old enough. One that lies ahead of the clock cannot be mistaken for that of a later write.
fn too_young(mtime: Time) -> Option<Duration> {
    let since_epoch = Duration::new(u64::try_from(mtime.seconds).ok()?, mtime.nanoseconds);
    let age = SystemTime::UNIX_EPOCH.checked_add(since_epoch)?.elapsed().ok()?;
    MTIME_AGE.checked_sub(age)
}
