//! Hold `writable`: the guard, BPF LSM programs that refuse what would change the map, and let writes within the file
//! through. Programs and the list of files are pinned in bpffs, and stay until the last file is unpinned, or the machine
//! goes down; the record stays, and pinning the file again arms what it finds as it was.
//!
//! Who was past the guard's checks when the file came under it is not stopped. So the map is read again a little later;
//! that proves nothing of one who is kept waiting longer, but `verify` finds him.

#[cfg(feature = "guard")]
mod guard;
#[cfg(not(feature = "guard"))]
#[path = "without.rs"]
mod guard;

#[cfg(feature = "guard")]
mod calls;
mod insiders;

use std::thread::park_timeout;
use std::time::Duration;

use caps::Capability;
use libdaxfile::fsxattr::Xflags;
use libdaxfile::xattr;

use super::Replaced;
use crate::error::{Error, Named, Result};
use crate::file::target::Target;
use crate::needs::Needs;
use crate::pin::guarded;
use crate::pin::record::{LIMIT, Record, attribute};
use crate::pin::state::State;
use crate::pin::survey::{self, Recorded, Survey};
use crate::status::Status;

pub use guard::lacks;
pub use insiders::probe;

/// Time for those past the guard's checks to finish.
const SETTLE: Duration = Duration::from_millis(20);

/// What the guard lacks on this kernel, in this process, or in this build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// Which part of it.
    pub part: Part,
    /// The hook or function of the kernel, where that is what is missing.
    pub hook: Option<&'static str>,
    /// What it is, in words, and what comes of it.
    pub message: String,
}

/// Parts that the guard takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The feature `guard` of this build.
    Build,
    /// `bpf` among the active LSMs.
    Lsm,
    /// The kernel's type information.
    Btf,
    /// The right to load programs: CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN, and no lockdown nor policy against it.
    Permission,
    /// A hook, or a function, that a program stands at.
    Hook,
}

impl Part {
    /// The exit status of a pin that lacks it.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Part::Permission => Status::NotPermitted,
            _ => Status::Unable,
        }
    }
}

impl Lack {
    fn new(part: Part, message: impl Into<String>) -> Self {
        Lack { part, hook: None, message: message.into() }
    }

    fn error(&self) -> Error {
        let alternatives = "--hold frozen holds the map without it, --hold none only records it";
        Error::new(self.part.status(), format!("hold writable: {}; {alternatives}", self.message))
    }
}

/// The inode numbers of a filesystem's files that are under the guard, in ascending order.
///
/// # Errors
/// Where that cannot be told: without privileges, or by a build without the guard while there may be one.
pub fn inodes(uuid: Option<[u8; 16]>) -> Result<Vec<u64>> {
    let Some(uuid) = uuid else { return Ok(Vec::new()) };
    match std::fs::symlink_metadata(guarded::PINS) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        there => there.named("stat(/sys/fs/bpf/daxfile)")?,
    };
    let mut inodes = guard::inodes(uuid)?;
    inodes.sort_unstable();
    Ok(inodes)
}

/// What keeps this process from holding any file so.
///
/// # Errors
/// The first lack.
pub fn require() -> Result<()> {
    match lacks().first() {
        Some(lack) => Err(lack.error()),
        None => Ok(()),
    }
}

/// What this process lacks for the record, and for asking the guard anything.
///
/// # Errors
/// Where the kernel does not tell the process's capabilities.
pub fn missing_capabilities() -> Result<Vec<String>> {
    super::lacked(&[(Capability::CAP_SYS_ADMIN, true)])
}

/// Records the map as it was found, puts the file under the guard, and proves that it still is what was recorded.
/// `found` is its own record if it is pinned, but not held.
///
/// # Errors
/// Those of the record's calls; of loading and pinning the guard; busy where the map changed meanwhile. The file is then
/// as it was before.
pub fn pin(target: &Target, needs: Needs, recorded: &Recorded, found: Option<&Record>) -> Result<Survey> {
    let mut undo = Undo { target, replaced: None, added: Xflags::empty(), armed: false };
    engage(&mut undo, needs, recorded, found).map_err(|error| match undo.run() {
        Ok(()) => error,
        Err(undo) => super::not_undone(error, &undo),
    })
}

struct Undo<'a> {
    target: &'a Target,
    replaced: Option<Replaced>,
    added: Xflags,
    armed: bool,
}

impl Undo<'_> {
    fn run(&mut self) -> Result<()> {
        if std::mem::take(&mut self.armed) {
            guard::disarm(self.target)?;
        }
        super::clear_flags(self.target, std::mem::take(&mut self.added))?;
        if let Some(replaced) = self.replaced.take() {
            replaced.restore(self.target)?;
        }
        self.target.fsync()
    }
}

fn engage(undo: &mut Undo<'_>, needs: Needs, recorded: &Recorded, found: Option<&Record>) -> Result<Survey> {
    let target = undo.target;
    if cfg!(not(feature = "guard")) {
        // Nothing is to be undone by a build that could not.
        require()?;
    }
    guard::require_trusted_pins()?;
    if target.filesystem.uuid.is_none() {
        return Err(Error::new(Status::Unable, "hold writable: without a UUID the guard cannot tell the filesystem"));
    }
    let record = match found {
        Some(record) => record.clone(),
        None => {
            let (record, replaced) = super::store(target, needs, Xflags::empty(), recorded)?;
            undo.replaced = Some(replaced);
            record
        }
    };
    let written = record.encode();
    undo.added = record.added - recorded.survey.inode.xflags();
    super::add_flags(target, record.added)?;
    target.fsync()?;
    undo.armed = true;
    guard::arm(target)?;
    if !guarded::guards(target)? {
        return Err(Lack::new(
            Part::Lsm,
            "the guard does not see the file: is bpf among the active LSMs? (/sys/kernel/security/lsm)",
        )
        .error());
    }
    park_timeout(SETTLE);
    // From here on, the kernel can no longer open it for writing behind the guard.
    probe(target)?;
    target.fsync()?;
    let survey = survey::take(target, needs, None, |_| ())?;
    let same = xattr::get(target, attribute(needs.hold), LIMIT + 1)?.is_some_and(|bytes| bytes == written);
    if !same || survey.state != State::Pinned || !survey.blockers.is_empty() {
        return Err(Error::new(
            Status::Busy,
            "somebody changed it while it was being pinned: the map, the size or the record is another",
        ));
    }
    Ok(survey)
}

/// Takes the file from the guard, if it has it, and the guard away, if that was the last.
///
/// # Errors
/// Where this build has no guard, or may not ask the kernel for it.
pub(crate) fn release(target: &Target) -> Result<()> {
    if guarded::guards(target)? { guard::disarm(target) } else { Ok(()) }
}

/// Puts it back, since unpinning failed.
pub(super) fn hold_again(target: &Target) -> Result<()> {
    guard::arm(target)
}
