//! Holds, which keep a map from changing: one module per hold, and the shared code that ends a pin.

mod batch;
mod durable;
pub mod frozen;
pub mod none;
mod pages;
mod requirements;
pub mod writable;

pub(crate) use durable::sync;
pub use requirements::{Missing, Requirements};

use std::ffi::CStr;

use caps::Capability;
use libdaxfile::fsxattr::{self, Xflags};
use libdaxfile::statx::{Statx, Time};
use libdaxfile::{Errno, xattr};

use crate::error::{Error, Result};
use crate::file::target::{InodeState, Target};
use crate::needs::{Hold, Needs};
use crate::pin::record::{Record, Stored, attribute, load_for};
use crate::pin::state::State;
use crate::pin::survey::{self, Recorded, Survey};
use crate::progress::Progress;
use crate::system::kernel::{effective_user, has_capability};

/// A file that is to be held.
pub trait Candidate<'a>: Sized {
    /// Makes a candidate of a file that has no blocker in the state `found_as`. `found` is the file's own record if the file
    /// is pinned but not held.
    fn new(target: &'a Target, needs: Needs, found_as: Recorded, found: Option<Record>) -> Self;

    /// Pins a batch of files. Each candidate keeps its own outcome.
    fn pin(candidates: &mut [Self], progress: &dyn Progress);

    /// A note on what the pin cannot rule out.
    fn note(&self) -> Option<String> {
        None
    }

    /// Returns the survey that proves the file pinned.
    ///
    /// # Errors
    /// Why the file is not pinned. The file is then in its former state.
    fn outcome(self) -> Result<Survey>;
}

/// What is left of a pin of a file that lost its name meanwhile.
pub(crate) const NOT_PINNED: &str = "that file is not pinned";

/// Returns the capabilities that this process lacks to clear these flags, and to remove the file's record in
/// `security.*`.
///
/// # Errors
/// The kernel does not report the capabilities of the process.
pub fn missing_for_release(added: Xflags, inode: &InodeState) -> Result<Vec<String>> {
    let cleared = inode.xflags() & added;
    missing_among(&[
        (Capability::CAP_LINUX_IMMUTABLE, cleared.intersects(Xflags::IMMUTABLE | Xflags::APPEND)),
        (Capability::CAP_SYS_ADMIN, true),
        (Capability::CAP_FOWNER, !cleared.is_empty() && is_owned_by_another(&inode.statx)),
    ])
}

fn is_owned_by_another(statx: &Statx) -> bool {
    effective_user().as_raw() != statx.uid
}

/// Reports a writer that opened the file before the flag was set, as far as [`survey::with_writers`] could look.
///
/// # Errors
/// An error of F_SETLEASE, unless another user owns the file.
pub fn detect_writer(survey: &mut Survey) -> Result<()> {
    if survey.state != State::Pinned {
        return Ok(());
    }
    match survey.lease_refused.take().map(frozen::refused) {
        Some(error) if error.errno == Some(Errno::EAGAIN) => survey.state = State::WriterInside,
        Some(error) if error.errno != Some(Errno::EACCES) => return Err(error),
        _ => {}
    }
    Ok(())
}

/// Makes the record of a file from a survey.
fn record(target: &Target, needs: Needs, added: Xflags, recorded: &Recorded) -> Record {
    let Recorded { survey, extents, map, note } = recorded;
    Record {
        needs,
        note: note.clone(),
        added,
        identity: target.identity,
        uuid: target.filesystem.uuid,
        size: survey.inode.statx.size,
        mtime: survey.inode.statx.mtime,
        time: now(),
        extents: *extents,
        map: map.clone(),
    }
}

/// Makes sure that a file has the record of an enforced hold that adds these flags, and no other: writes it, or keeps
/// `found`, the record of a file that is pinned but not held. Returns the record and what it replaced.
fn write_record(
    target: &Target,
    needs: Needs,
    flags: Xflags,
    found_as: &Recorded,
    found: Option<&Record>,
) -> Result<(Record, Vec<Replaced>)> {
    match found {
        Some(record) => Ok((record.clone(), remove_other_record(target)?.into_iter().collect())),
        None => store(target, needs, flags, found_as),
    }
}

/// Writes the record of a file for an enforced hold that adds these flags, and `FS_XFLAG_NODEFRAG` where the filesystem
/// keeps it. Removes a record in the attribute of hold none, which would come to light when the pin ends. Returns the
/// record and what it replaced.
fn store(target: &Target, needs: Needs, flags: Xflags, recorded: &Recorded) -> Result<(Record, Vec<Replaced>)> {
    let mut wanted = flags;
    wanted.set(Xflags::NODEFRAG, target.filesystem.keeps_nodefrag());
    let record = record(target, needs, wanted - recorded.survey.inode.xflags(), recorded);
    let size = record.size;
    let replaced = Replaced::read(target, needs.hold)?;
    let mut undo = Vec::new();
    if !matches!(recorded.survey.stored, Stored::Absent) {
        // First, because there may be no room for both.
        undo.extend(remove_other_record(target)?);
    }
    let stored = record.store(target, |limit| survey::recorded_map(target, size, limit, recorded.note.as_ref()));
    let error = match stored {
        Ok(record) => {
            undo.push(replaced);
            return Ok((record, undo));
        }
        // capget(2) reports the capabilities in the process's own user namespace.
        Err(error) if error.errno == Some(Errno::EPERM) => {
            error.because("needs CAP_SYS_ADMIN in the initial user namespace")
        }
        Err(error) => error,
    };
    Err(after_undo(error, restore(target, undo)))
}

/// Whether the file has a record of hold none besides. Root and the file's owner take different locks, so both may pin at
/// once; the one that writes its record second finds the first.
fn is_recorded_by_owner(target: &Target) -> Result<bool> {
    Ok(matches!(load_for(target, Hold::None)?, Stored::Own(_)))
}

/// Removes the record in the attribute of hold none, which the file's owner can write at any time that nothing holds the
/// file. Leaves alone a record of an unknown version.
fn remove_other_record(target: &Target) -> Result<Option<Replaced>> {
    if matches!(load_for(target, Hold::None)?, Stored::Absent | Stored::UnknownVersion(..)) {
        return Ok(None);
    }
    let replaced = Replaced::read(target, Hold::None)?;
    remove_record(target, Hold::None)?;
    Ok(Some(replaced))
}

/// Restores what a failed pin replaced. Durable after the next fsync.
fn restore(target: &Target, replaced: Vec<Replaced>) -> Result<()> {
    replaced.into_iter().try_for_each(|replaced| replaced.restore(target))
}

/// Returns those of the needed capabilities that this process lacks.
fn missing_among(needed: &[(Capability, bool)]) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for (capability, _) in needed.iter().filter(|(_, needed)| *needed) {
        if !has_capability(*capability)? {
            missing.push(capability.to_string());
        }
    }
    Ok(missing)
}

/// The error of a pin, after its undo: names an undo that failed as well.
fn after_undo(error: Error, undo: Result<()>) -> Error {
    match undo {
        Ok(()) => error,
        Err(undo) => Error {
            message: format!("{}; and undoing the pin failed ({undo}): run daxfile unpin", error.message),
            ..error
        },
    }
}

/// The content of a hold's attribute before a pin: nothing, or a foreign or unreadable record.
#[derive(Debug)]
struct Replaced {
    attribute: &'static CStr,
    value: Option<Vec<u8>>,
}

impl Replaced {
    /// The most bytes in an attribute: `XATTR_SIZE_MAX`.
    const MOST: usize = 65536;

    fn read(target: &Target, hold: Hold) -> Result<Self> {
        let attribute = attribute(hold);
        Ok(Replaced { attribute, value: xattr::get(target, attribute, Self::MOST)? })
    }

    /// Restores the content after a failed pin. Durable after the next fsync.
    fn restore(self, target: &Target) -> Result<()> {
        match self.value {
            Some(value) => xattr::set(target, self.attribute, &value)?,
            None => xattr::remove(target, self.attribute)?,
        }
        Ok(())
    }
}

fn now() -> Time {
    let now = jiff::Timestamp::now();
    Time { seconds: now.as_second(), nanoseconds: u32::try_from(now.subsec_nanosecond()).unwrap_or(0) }
}

/// Ends a pin: takes the file from the guard, clears the flags that the pin added, then removes the record. If removing
/// the record fails, restores the rest, so that the file is either pinned or unpinned and nothing between. Durable
/// after the next fsync: until then a crash may pin the file again.
///
/// # Errors
/// An error of the guard, of the ioctls that read and set the flags, or of fremovexattr(2).
pub fn release(target: &Target, record: &Record) -> Result<()> {
    let guarded = record.needs.hold == Hold::Writable;
    if guarded {
        writable::release(target)?;
    }
    let cleared = clear_flags(target, record.added)?;
    if let Err(error) = remove_record(target, record.needs.hold) {
        add_flags(target, cleared)?;
        if guarded {
            writable::hold_again(target)?;
        }
        return Err(error);
    }
    Ok(())
}

/// Removes the content of a hold's attribute. Durable after the next fsync.
///
/// # Errors
/// An error of fremovexattr(2).
pub fn remove_record(target: &Target, hold: Hold) -> Result<()> {
    xattr::remove(target, attribute(hold)).map_err(|error| match error.errno {
        Errno::EPERM | Errno::EACCES => {
            Error::from(error).because("needs CAP_SYS_ADMIN, or write access for hold none")
        }
        _ => error.into(),
    })
}

/// Clears those of `flags` that are set, and returns them.
fn clear_flags(target: &Target, flags: Xflags) -> Result<Xflags> {
    if flags.is_empty() {
        return Ok(flags);
    }
    let before = fsxattr::get(target)?;
    let cleared = before.xflags() & flags;
    if !cleared.is_empty() {
        fsxattr::set(target, &before.with_xflags(before.xflags() - cleared)).map_err(needs_capabilities)?;
    }
    Ok(cleared)
}

fn add_flags(target: &Target, flags: Xflags) -> Result<()> {
    if flags.is_empty() {
        return Ok(());
    }
    let before = fsxattr::get(target)?;
    fsxattr::set(target, &before.with_xflags(before.xflags() | flags)).map_err(needs_capabilities)
}

fn needs_capabilities(error: libdaxfile::Error) -> Error {
    let error = Error::from(error);
    match error.errno {
        Some(Errno::EPERM) => error.because("needs CAP_LINUX_IMMUTABLE"),
        _ => error,
    }
}
