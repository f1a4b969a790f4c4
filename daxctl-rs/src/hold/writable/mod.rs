//! Hold `writable`: the guard, BPF LSM programs that refuse whatever would change the map, and let writes within the
//! file through. The programs and the list of files are kept in bpffs until the last file is unpinned or
//! the machine goes down. The record stays; pinning the file again puts the unchanged file back under the guard.
//!
//! The guard does not stop a call that was past its checks when the file came under the guard. A write
//! in progress holds the inode's lock, so pin takes that lock once, which waits for the write to end. Some calls, such as
//! splice(2), wait for their data without the lock: if pin finds one, it reports the file as busy. Otherwise pin reads the
//! map once more. `verify` detects the effect of a call that pin does not find, such as a splice
//! by io_uring.
//!
//! This folder has the guard's programs in C, their loader, and what the loader asks the kernel.

#[cfg(feature = "guard")]
mod guard;
#[cfg(not(feature = "guard"))]
#[path = "no_guard.rs"]
mod guard;

#[cfg(feature = "guard")]
mod calls;
mod kernel_writers;

use std::thread::park_timeout;
use std::time::Duration;

use caps::Capability;
use libdaxfile::fsxattr::Xflags;
use libdaxfile::xattr;

use super::Replaced;
use super::batch::{Batch, Member, interrupted};
use crate::error::{Error, Result, ResultExt};
use crate::file::target::Target;
use crate::needs::Needs;
use crate::pin::guarded;
use crate::pin::record::{LIMIT, Record, attribute};
use crate::pin::state::State;
use crate::pin::survey::{self, Recorded, Survey};
use crate::progress::Progress;
use crate::status::Status;

pub use guard::missing_parts;
pub use kernel_writers::probe;

/// Time for calls that are past the guard's checks to finish.
const SETTLE: Duration = Duration::from_millis(20);

/// What to do without the guard, as the end of a message.
pub(super) const ALTERNATIVES: &str =
    "; --hold frozen, which needs root as well, holds the map without it; --hold none only records it";

/// What the guard lacks on this kernel, in this process, or in this build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingPart {
    /// The missing part.
    pub part: Part,
    /// The hook or kernel function, if that is missing.
    pub hook: Option<&'static str>,
    /// The lack and its consequence, in words.
    pub message: String,
}

/// Parts that the guard needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The feature `guard` of this build.
    Build,
    /// `bpf` in the list of active LSMs.
    Lsm,
    /// The kernel's type information.
    Btf,
    /// Permission to load programs: CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN, and no lockdown or policy against it.
    Permission,
    /// A hook or function to which a program attaches.
    Hook,
}

impl Part {
    /// The exit status of a pin without this part.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Part::Permission => Status::NotPermitted,
            _ => Status::Unable,
        }
    }
}

impl MissingPart {
    fn new(part: Part, message: impl Into<String>) -> Self {
        MissingPart { part, hook: None, message: message.into() }
    }

    fn error(&self) -> Error {
        Error::new(self.part.status(), format!("hold writable: {}{ALTERNATIVES}", self.message))
    }
}

/// Returns the inode numbers of a filesystem's files that are under the guard, in ascending order.
///
/// # Errors
/// The process cannot read them: it lacks the privileges, or this build has no guard while one may be loaded.
pub fn inodes(uuid: Option<[u8; 16]>) -> Result<Vec<u64>> {
    let Some(uuid) = uuid else { return Ok(Vec::new()) };
    match std::fs::symlink_metadata(guarded::PINS) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        there => there.call("stat(/sys/fs/bpf/daxfile)")?,
    };
    let mut inodes = guard::inodes(uuid)?;
    inodes.sort_unstable();
    Ok(inodes)
}

/// Checks that this process can hold a file `writable`.
///
/// # Errors
/// The first thing that the guard lacks.
pub fn require() -> Result<()> {
    match missing_parts().first() {
        Some(missing) => Err(missing.error()),
        None => Ok(()),
    }
}

/// Returns the capabilities that this process lacks to write the record and to query the guard.
///
/// # Errors
/// The kernel does not report the capabilities of the process.
pub fn missing_capabilities() -> Result<Vec<String>> {
    super::missing_among(&[(Capability::CAP_SYS_ADMIN, true)])
}

/// A file that is being put under the guard.
#[derive(Debug)]
pub struct Candidate<'a> {
    target: &'a Target,
    needs: Needs,
    found_as: Recorded,
    /// The file's own record, if the file is pinned but not held; the pin restores it unchanged.
    found: Option<Record>,
    /// The record that this process wrote, encoded.
    written: Option<Vec<u8>>,
    replaced: Vec<Replaced>,
    /// The flags that this process has added.
    added: Xflags,
    /// Whether the file is possibly in the guard's list, and a rollback must take it out.
    armed: bool,
    outcome: Option<Result<Survey>>,
}

impl<'a> Candidate<'a> {
    /// Writes the record, and adds the flags.
    fn record(&mut self) -> Result<()> {
        if cfg!(not(feature = "guard")) {
            // Change nothing in a build that cannot finish the work.
            require()?;
        }
        guard::require_trusted_pins()?;
        if self.target.filesystem.uuid.is_none() {
            return Err(Error::new(
                Status::Unable,
                "hold writable: the filesystem has no UUID, by which the guard identifies it",
            ));
        }
        let (found_as, found) = (&self.found_as, self.found.as_ref());
        let (record, replaced) = super::write_record(self.target, self.needs, Xflags::empty(), found_as, found)?;
        // From here on, a failure must restore the former record.
        self.replaced = replaced;
        self.written = Some(record.encode());
        self.added = record.added - self.found_as.survey.inode.xflags();
        super::add_flags(self.target, record.added)
    }

    /// Checks that the guard sees the file.
    fn require_guarded(&mut self) -> Result<()> {
        if guarded::is_listed(self.target)? {
            return Ok(());
        }
        Err(MissingPart::new(
            Part::Lsm,
            "the guard does not see the file: is bpf among the active LSMs? (/sys/kernel/security/lsm)",
        )
        .error())
    }

    /// Waits for writes that were past the guard's checks, then looks for writers inside the kernel.
    fn outwait_writes(&mut self) -> Result<()> {
        // A write that was past its checks before may still hold the inode's lock, or wait for it. Setting an attribute
        // takes that lock exclusively, so it waits for such a write.
        if let Some(written) = &self.written {
            xattr::set(self.target, attribute(self.needs.hold), written)?;
        }
        probe(self.target)
    }

    /// Proves, under the guard, that the file still matches the record.
    fn prove(&mut self) -> Result<()> {
        let survey = survey::take(self.target, self.needs, None, |_| ())?;
        let same = xattr::get(self.target, attribute(self.needs.hold), LIMIT + 1)? == self.written;
        let other = super::is_recorded_by_owner(self.target)?;
        // By now the guard refuses to rename or remove the file, so the answer stays true.
        self.target.require_named(super::NOT_PINNED)?;
        let why = match survey.state {
            _ if !same || other => "another process changed its record",
            State::NotHeld => "another process took the guard away, or silenced its kprobes,",
            State::Pinned if survey.blockers.is_empty() => {
                self.outcome = Some(Ok(survey));
                return Ok(());
            }
            _ => "another process changed its map or size",
        };
        Err(Error::new(Status::Busy, format!("busy: {why} while it was being pinned")))
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
        if std::mem::take(&mut self.armed) {
            guard::disarm(self.target)?;
        }
        super::clear_flags(self.target, std::mem::take(&mut self.added))?;
        super::restore(self.target, std::mem::take(&mut self.replaced))?;
        self.target.fsync()
    }
}

impl<'a> super::Candidate<'a> for Candidate<'a> {
    fn new(target: &'a Target, needs: Needs, found_as: Recorded, found: Option<Record>) -> Self {
        Candidate {
            target,
            needs,
            found_as,
            found,
            written: None,
            replaced: Vec::new(),
            added: Xflags::empty(),
            armed: false,
            outcome: None,
        }
    }

    /// Puts a batch of files under the guard: records the maps, arms the guard, and proves that the files still match the
    /// records. Each candidate keeps its own outcome.
    fn pin(candidates: &mut [Self], progress: &dyn Progress) {
        let mut batch = Batch::new(candidates.iter_mut(), false);
        batch.each(progress, Candidate::record);
        batch.sync();
        batch.each(progress, |candidate| {
            // The next step may put the file under the guard even if it fails.
            candidate.armed = true;
            Ok(())
        });
        batch.all(guard::arm);
        batch.each(progress, Candidate::require_guarded);
        if !batch.is_empty() {
            park_timeout(SETTLE);
        }
        // From here on, the kernel can no longer open a file for writing behind the guard's back.
        batch.each(progress, Candidate::outwait_writes);
        batch.sync();
        batch.each(progress, Candidate::prove);
    }

    fn outcome(self) -> Result<Survey> {
        self.outcome.unwrap_or_else(|| Err(interrupted()))
    }
}

/// Takes the file from the guard if it is there, and removes the guard after the last file.
///
/// # Errors
/// This build has no guard, or may not ask the kernel about it.
pub(crate) fn release(target: &Target) -> Result<()> {
    if guarded::is_listed(target)? { guard::disarm(target) } else { Ok(()) }
}

/// Puts the file back under the guard after a failed unpin.
pub(super) fn hold_again(target: &Target) -> Result<()> {
    guard::arm(&[target]).into_iter().collect()
}
