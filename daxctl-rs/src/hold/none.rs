//! Hold `none`: the map is recorded, so that drift is found; nothing prevents it.

use libdaxfile::Errno;
use libdaxfile::fsxattr::Xflags;
use libdaxfile::lease::Lease;
use libdaxfile::xattr;

use super::Replaced;
use crate::error::{Error, Result};
use crate::needs::Needs;
use crate::record::attribute;
use crate::survey::{self, Survey};
use crate::target::Target;

/// Records the map that `survey` found; returns what is found then. A record where enforced holds are kept would hide
/// this one, and goes.
///
/// # Errors
/// Those of fremovexattr(2), fsetxattr(2), fsync(2) and the survey; what was written is taken back then.
pub fn pin(target: &Target, needs: Needs, survey: &Survey, lease: Option<&Lease<'_>>) -> Result<Survey> {
    let replaced = Replaced::read(target, needs.hold)?;
    let not_permitted = |error: Error, why| match error.errno {
        Some(Errno::EACCES | Errno::EPERM) => error.because(why),
        _ => error,
    };
    super::record(target, needs, Xflags::empty(), survey)
        .store(target, |limit| survey::keep(target, survey.statx.size, limit))
        .map_err(|error| not_permitted(error, "the record needs write access to the file"))?;
    let hiding = survey.stored.attribute().filter(|found| *found != attribute(needs.hold));
    let revealed = match hiding {
        Some(hiding) => xattr::remove(target, hiding)
            .map_err(|error| not_permitted(error.into(), "the record in the way is removed with CAP_SYS_ADMIN")),
        None => Ok(()),
    };
    let pinned = revealed.and_then(|()| target.fsync()).and_then(|()| survey::take(target, needs, lease, |_| ()));
    pinned.inspect_err(|_| {
        // The first failure is what the user must hear of, not that of tidying up after it.
        let _ = replaced.restore(target).and_then(|()| target.fsync());
    })
}
