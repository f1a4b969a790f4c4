//! Hold `none`: records the map, so that `verify` can detect drift; nothing prevents drift.

use libdaxfile::Errno;
use libdaxfile::fsxattr::Xflags;
use libdaxfile::lease::Lease;
use libdaxfile::xattr;

use super::Replaced;
use crate::error::{Error, Result};
use crate::file::target::Target;
use crate::needs::{Hold, Needs};
use crate::pin::record::{LIMIT, Record, Stored, attribute};
use crate::pin::survey::{self, Recorded, Survey};
use crate::status::Status;

/// Records the map, and returns a survey taken after that. Removes a record in the attribute of enforced holds, which
/// would hide this one.
///
/// # Errors
/// An error of fremovexattr(2), fsetxattr(2), fsync(2) or the survey. The function then takes back what it wrote.
pub fn pin(target: &Target, needs: Needs, recorded: &Recorded, lease: Option<&Lease<'_>>) -> Result<Survey> {
    let survey = &recorded.survey;
    let replaced = Replaced::read(target, needs.hold)?;
    let hiding = match survey.stored.attribute() {
        Some(found) if found != attribute(needs.hold) => Some(Replaced::read(target, Hold::Frozen)?),
        _ => None,
    };
    if hiding.is_some() {
        // First, because there may be no room for both.
        xattr::remove(target, attribute(Hold::Frozen)).map_err(|error| {
            not_permitted(error.into(), "removing the record that is in the way needs CAP_SYS_ADMIN")
        })?;
    }
    let stored = super::record(target, needs, Xflags::empty(), recorded)
        .store(target, |limit| survey::recorded_map(target, survey.inode.statx.size, limit, recorded.note.as_ref()))
        .map_err(|error| not_permitted(error, "the record needs write access to the file"));
    let (pinned, written) = match stored {
        Ok(record) => (prove(target, needs, &record, lease), Some(record.encode())),
        Err(error) => (Err(error), None),
    };
    pinned.map_err(|error| {
        let undone = undo(target, written.map(|written| (replaced, written)), hiding).and_then(|()| target.fsync());
        undone.map_or_else(|undo| super::not_undone(error.clone(), &undo), |()| error.clone())
    })
}

/// Makes the record durable, and proves that it is the file's only one, and that the file is still at its name.
fn prove(target: &Target, needs: Needs, record: &Record, lease: Option<&Lease<'_>>) -> Result<Survey> {
    target.fsync()?;
    let survey = survey::take(target, needs, lease, |_| ())?;
    // The file's owner takes another lock than root. The process that writes the second record notices the first.
    if !matches!(&survey.stored, Stored::Own(found) if found == record) {
        return Err(Error::new(Status::Busy, "busy: another daxfile pinned or unpinned it meanwhile"));
    }
    target.require_named(super::NOT_PINNED)?;
    Ok(survey)
}

/// Restores both attributes, unless another process has replaced what this one wrote.
fn undo(target: &Target, replaced: Option<(Replaced, Vec<u8>)>, hiding: Option<Replaced>) -> Result<()> {
    if let Some((replaced, written)) = replaced
        && xattr::get(target, replaced.attribute, LIMIT + 1)?.is_some_and(|now| now == written)
    {
        replaced.restore(target)?;
    }
    hiding.map_or(Ok(()), |hiding| hiding.restore(target))
}

fn not_permitted(error: Error, why: &str) -> Error {
    match error.errno {
        Some(Errno::EACCES | Errno::EPERM) => error.because(why),
        _ => error,
    }
}
