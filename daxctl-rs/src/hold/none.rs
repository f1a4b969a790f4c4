//! Hold `none`: records the map, so that `verify` can detect drift; nothing prevents drift.

use libdaxfile::Errno;
use libdaxfile::fsxattr::Xflags;
use libdaxfile::lease::Lease;
use libdaxfile::xattr;

use super::Replaced;
use crate::error::{Error, Result};
use crate::file::target::Target;
use crate::needs::{Hold, Needs};
use crate::pin::record::attribute;
use crate::pin::survey::{self, Recorded, Survey};

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
    let undo: Vec<Replaced> = stored.is_ok().then_some(replaced).into_iter().chain(hiding).collect();
    let pinned = stored.and_then(|_| target.fsync()).and_then(|()| survey::take(target, needs, lease, |_| ()));
    pinned.inspect_err(|_| {
        // Report the first failure to the user, not a failure of the cleanup.
        let restored = undo.into_iter().try_for_each(|before| before.restore(target));
        let _ = restored.and_then(|()| target.fsync());
    })
}

fn not_permitted(error: Error, why: &str) -> Error {
    match error.errno {
        Some(Errno::EACCES | Errno::EPERM) => error.because(why),
        _ => error,
    }
}
