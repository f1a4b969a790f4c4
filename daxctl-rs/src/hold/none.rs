//! Hold `none`: the map is recorded, so that drift is found; nothing prevents it.

use libdaxfile::Errno;
use libdaxfile::fsxattr::Xflags;
use libdaxfile::xattr;

use crate::error::{Error, Result};
use crate::needs::Needs;
use crate::record::attribute;
use crate::survey::{self, Survey};
use crate::target::Target;

/// Records the map that `survey` found.
///
/// # Errors
/// Those of fsetxattr(2) and fsync(2); what was written is taken back then.
pub fn pin(target: &Target, needs: Needs, survey: &Survey) -> Result<()> {
    let record = super::record(target, needs, Xflags::empty(), survey);
    let stored = record.store(target, |limit| survey::keep(target, survey.statx.size, limit)).map_err(|error| {
        match error.errno {
            Some(Errno::EACCES | Errno::EPERM) => {
                Error { ..error }.because("the record needs write access to the file")
            }
            _ => error,
        }
    });
    stored?;
    target.fsync().inspect_err(|_| {
        // The failure of fsync is what the user must hear of, not that of tidying up after it.
        let _ = xattr::remove(target, attribute(needs.hold));
    })
}
