//! Hold `frozen`: sets the inode flag IMMUTABLE so that no writer slips through unseen.
//!
//! On XFS the flag does not stop a process that opened the file for writing before. A process that waits for a lease is
//! already past its permission check. So the order is: probe with a lease, record, set the flag, take the lease again,
//! and only then prove that the file matches the record. Each step covers the whole batch before the next step begins,
//! so that the batch pays the settling time once and not once per file.

use std::thread::park_timeout;
use std::time::{Duration, Instant, SystemTime};

use caps::Capability;
use libdaxfile::Errno;
use libdaxfile::fsxattr::Xflags;
use libdaxfile::lease::{Kind, Lease};
use libdaxfile::statx::{Statx, Time};
use libdaxfile::xattr;

use super::batch::{Batch, Member, interrupted};
use super::{Replaced, pages};
use crate::error::{Error, Result};
use crate::file::target::Target;
use crate::needs::Needs;
use crate::pin::record::{LIMIT, Record, Stored, attribute};
use crate::pin::survey::{self, Recorded, Survey};
use crate::progress::Progress;
use crate::status::Status;

/// Attempts before a file counts as busy.
const ATTEMPTS: u32 = 3;

/// A write must change the recorded mtime: the kernel's clock for mtime ticks every 1 to 10 ms.
const MTIME_AGE: Duration = Duration::from_millis(20);

/// How long to retry the lease once the flag is set: openers that come and go make a single try fail nearly always.
const LEASE_PATIENCE: Duration = Duration::from_millis(50);

/// Time for openers that are past their permission check to become visible. The proof is in the checks after the wait.
const SETTLE: Duration = Duration::from_millis(5);

/// Returns the capabilities that this process lacks to freeze a file.
///
/// # Errors
/// The kernel does not report the capabilities of the process.
pub fn missing_capabilities(statx: &Statx) -> Result<Vec<String>> {
    let by_another = super::is_owned_by_another(statx);
    super::missing_among(&[
        (Capability::CAP_LINUX_IMMUTABLE, true),
        (Capability::CAP_SYS_ADMIN, true),
        (Capability::CAP_FOWNER, by_another),
        (Capability::CAP_LEASE, by_another),
    ])
}

/// Checks whether the file is open for writing elsewhere, without touching the file.
///
/// # Errors
/// Busy if the file is open for writing; any other error of F_SETLEASE.
pub fn probe(target: &Target) -> Result<()> {
    lease(target).map(drop)
}

/// The same for a file that the caller closes next, which releases the lease.
///
/// # Errors
/// As for [`probe`].
pub fn probe_before_close(target: &Target) -> Result<()> {
    lease(target).map(Lease::release_at_close)
}

fn lease(target: &Target) -> Result<Lease<'_>> {
    Lease::take(target, Kind::Read).map_err(refused)
}

/// Words the error of a lease that was refused.
pub(super) fn refused(error: libdaxfile::Error) -> Error {
    let error = Error::from(error);
    match error.errno {
        Some(Errno::EAGAIN) => error.because("a process has it open or mapped for writing"),
        Some(Errno::EACCES) => error.because("needs CAP_LEASE on a file of another owner"),
        Some(Errno::EINVAL) => Error { status: Status::Unable, ..error }.because("this filesystem has no leases"),
        _ => error,
    }
}

/// A file that is being frozen.
#[derive(Debug)]
pub struct Candidate<'a> {
    target: &'a Target,
    needs: Needs,
    found_as: Recorded,
    /// The file's own record, if the file is pinned but not held; the pin restores it unchanged.
    found: Option<Record>,
    lease: Option<Lease<'a>>,
    written: Option<Vec<u8>>,
    replaced: Vec<Replaced>,
    /// The flags that the pin adds, as the record says.
    adds: Xflags,
    /// The flags that this process has added.
    added: Xflags,
    /// Pages that stay in memory because other processes have the file open.
    mapped: u64,
    outcome: Option<Result<Survey>>,
}

impl<'a> Candidate<'a> {
    /// Writes the record.
    fn record(&mut self) -> Result<()> {
        let (found_as, found) = (&self.found_as, self.found.as_ref());
        let (record, replaced) = super::write_record(self.target, self.needs, Xflags::IMMUTABLE, found_as, found)?;
        // From here on, a failure must restore the former record.
        self.replaced = replaced;
        self.written = Some(record.encode());
        self.adds = record.added;
        Ok(())
    }

    /// Sets the flag, then takes the lease.
    fn engage(&mut self) -> Result<()> {
        // Some flags that the found record names may still be set. A failure must not clear those.
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

    /// Proves, under flag and lease, that the file matches the record, and that nothing opened it meanwhile.
    fn prove(&mut self) -> Result<()> {
        let slipped =
            |what| Error::new(Status::Busy, format!("busy: another process {what} while it was being pinned"));
        let lease = self.lease.as_ref().ok_or_else(interrupted)?;
        if !lease.is_unbroken()? {
            return Err(slipped("opened it"));
        }
        let name = attribute(self.needs.hold);
        if xattr::get(self.target, name, LIMIT + 1)? != self.written {
            return Err(slipped("changed its pin record"));
        }
        if super::is_recorded_by_owner(self.target)? {
            return Err(slipped("pinned it with --hold none"));
        }
        let survey = survey::take(self.target, self.needs, Some(lease), |_| ())?;
        if survey.state != crate::pin::state::State::Pinned || !survey.blockers.is_empty() {
            return Err(slipped("changed its map, size or mtime"));
        }
        self.lease = None;
        // A process that the lease blocked may have the file open for writing by now.
        probe(self.target)?;
        // Only now does the flag keep the name in its place.
        self.target.require_named(super::NOT_PINNED)?;
        self.mapped = pages::require_free(self.target)?;
        self.outcome = Some(Ok(survey));
        Ok(())
    }

    fn look_again(&mut self) -> Result<()> {
        self.target.require_named(super::NOT_PINNED)?;
        probe(self.target)?;
        self.found_as = survey::to_record(self.target, self.needs, self.found_as.note.as_ref(), None)?;
        let survey = &self.found_as.survey;
        if self.found.is_none() && matches!(survey.stored, Stored::Own(_)) {
            return Err(Error::new(Status::Busy, "busy: another daxfile pinned it meanwhile"));
        }
        let drifted = self.found.is_some() && survey.state != crate::pin::state::State::NotHeld;
        if drifted || !survey.blockers.is_empty() {
            return Err(Error::new(Status::No, "changed while it was being pinned; see daxfile check"));
        }
        Ok(())
    }
}

impl Member for Candidate<'_> {
    fn target(&self) -> &Target {
        self.target
    }

    fn outcome_mut(&mut self) -> &mut Option<Result<Survey>> {
        &mut self.outcome
    }

    fn roll_back(&mut self) -> Result<()> {
        self.lease = None;
        let cleared = super::clear_flags(self.target, std::mem::take(&mut self.added))?;
        let replaced = std::mem::take(&mut self.replaced);
        if replaced.is_empty() && cleared.is_empty() {
            return Ok(());
        }
        super::restore(self.target, replaced)?;
        self.target.fsync()
    }

    /// Keeps a file that was only busy for another attempt.
    fn fail(&mut self, error: Error, again: bool) {
        let restored = self.roll_back();
        let only_busy = restored.is_ok() && error.status == Status::Busy;
        self.outcome = match again && only_busy {
            true => self.look_again().err().map(Err),
            false => Some(Err(super::after_undo(error, restored))),
        };
    }
}

impl<'a> super::Candidate<'a> for Candidate<'a> {
    fn new(target: &'a Target, needs: Needs, found_as: Recorded, found: Option<Record>) -> Self {
        Candidate {
            target,
            needs,
            found_as,
            found,
            lease: None,
            written: None,
            replaced: Vec::new(),
            adds: Xflags::empty(),
            added: Xflags::empty(),
            mapped: 0,
            outcome: None,
        }
    }

    /// Freezes a batch of files. Each candidate keeps its own outcome.
    fn pin(candidates: &mut [Self], progress: &dyn Progress) {
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
            let mut batch = Batch::new(candidates.iter_mut().filter(|one| one.outcome.is_none()), again);
            batch.each(progress, Candidate::record);
            batch.sync();
            batch.each(progress, Candidate::engage);
            if !batch.is_empty() {
                pause(SETTLE);
            }
            batch.sync();
            batch.each(progress, Candidate::prove);
        }
    }

    fn note(&self) -> Option<String> {
        let mapped = self.mapped;
        (mapped > 0).then(|| {
            format!(
                "other processes have it open, and {mapped} of its pages stay in memory: I/O that began before the \
                 pin could still store into a page that the kernel holds for it"
            )
        })
    }

    fn outcome(self) -> Result<Survey> {
        self.outcome.unwrap_or_else(|| Err(interrupted()))
    }
}

/// Waits for at most `time`. std::thread::sleep() panics if the kernel refuses clock_nanosleep(2), and would leave a
/// file half pinned.
fn pause(time: Duration) {
    park_timeout(time);
}

/// Returns how long until the mtime is old enough. An mtime ahead of the clock cannot be mistaken for that of a later
/// write.
fn too_young(mtime: Time) -> Option<Duration> {
    let since_epoch = Duration::new(u64::try_from(mtime.seconds).ok()?, mtime.nanoseconds);
    let age = SystemTime::UNIX_EPOCH.checked_add(since_epoch)?.elapsed().ok()?;
    MTIME_AGE.checked_sub(age)
}
