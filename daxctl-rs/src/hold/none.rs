//! Hold `none`: the map is recorded, so that drift is found; nothing prevents it.

use libdaxfile::Errno;
use libdaxfile::fsxattr::Xflags;
use libdaxfile::xattr;

use crate::error::{Error, Result};
use crate::needs::Needs;
use crate::record::attribute;
use crate::survey::{self, Survey};
use crate::target::Target;

/// Records the map that `survey` found. What it found where enforced holds are recorded would hide this record, and goes.
///
/// # Errors
/// Those of fremovexattr(2), fsetxattr(2) and fsync(2); what was written is taken back then.
pub fn pin(target: &Target, needs: Needs, survey: &Survey) -> Result<()> {
    let not_permitted = |error: Error, why| match error.errno {
        Some(Errno::EACCES | Errno::EPERM) => error.because(why),
        _ => error,
    };
    if let Some(hiding) = survey.stored.attribute().filter(|found| *found != attribute(needs.hold)) {
        xattr::remove(target, hiding)
            .map_err(|error| not_permitted(error.into(), "the record in the way is removed with CAP_SYS_ADMIN"))?;
    }
    super::record(target, needs, Xflags::empty(), survey)
        .store(target, |limit| survey::keep(target, survey.statx.size, limit))
        .map_err(|error| not_permitted(error, "the record needs write access to the file"))?;
    target.fsync().inspect_err(|_| {
        // The failure of fsync is what the user must hear of, not that of tidying up after it.
        let _ = xattr::remove(target, attribute(needs.hold));
    })
}
