//! Storage of records in extended attributes.

use std::ffi::CStr;

use libdaxfile::Errno;
use libdaxfile::xattr::{self, Listed};

use super::format::{DecodeError, LIMIT, Record, RecordedMap, TIGHT_LIMIT};
use crate::error::{Error, Result};
use crate::file::target::Target;
use crate::needs::Hold;

/// Most bytes in any attribute: `XATTR_SIZE_MAX` in `include/uapi/linux/limits.h`.
pub(super) const ATTRIBUTE_LIMIT: usize = 65536;

impl Record {
    /// Writes the record to the file, in the smaller form if the filesystem has no room for the larger one. `rebuild`
    /// makes the kept map again for a given limit. Returns the record as written. Durable after the next fsync.
    ///
    /// # Errors
    /// An error of fsetxattr(2).
    pub fn store(mut self, target: &Target, rebuild: impl FnOnce(usize) -> Result<RecordedMap>) -> Result<Record> {
        let name = attribute(self.needs.hold);
        let full = |errno| matches!(errno, Errno::ENOSPC | Errno::EDQUOT | Errno::ERANGE | Errno::E2BIG);
        let bytes = self.encode();
        let stored = match xattr::set(target, name, &bytes) {
            Err(error) if full(error.errno) && bytes.len() > TIGHT_LIMIT => {
                self.map = rebuild(TIGHT_LIMIT)?;
                xattr::set(target, name, &self.encode())
            }
            result => result,
        };
        match stored {
            Err(error) if full(error.errno) => Err(Error::from(error).because("there is no room for the pin record")),
            stored => Ok(stored.map(|()| self)?),
        }
    }
}

/// The attribute that holds the record for this kind of hold.
#[must_use]
pub fn attribute(hold: Hold) -> &'static CStr {
    match hold {
        Hold::Frozen | Hold::Writable => c"security.daxfile.pin",
        Hold::None => c"user.daxfile.pin",
    }
}

/// The record found on a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// No record.
    Absent,
    /// A record of this file.
    Own(Record),
    /// A record of another file, copied along with the contents.
    Foreign(Record),
    /// Not a valid record, and why.
    Bad(Hold, &'static str),
    /// A record of a version that this program does not know.
    UnknownVersion(Hold, u8),
}

impl Stored {
    /// The attribute that contained it.
    #[must_use]
    pub fn attribute(&self) -> Option<&'static CStr> {
        match self {
            Stored::Absent => None,
            Stored::Own(record) | Stored::Foreign(record) => Some(attribute(record.needs.hold)),
            Stored::Bad(hold, _) | Stored::UnknownVersion(hold, _) => Some(attribute(*hold)),
        }
    }
}

/// A file's record, and whether the file may have attributes besides.
#[derive(Debug)]
pub struct Found {
    /// The record.
    pub stored: Stored,
    /// `false` if the file certainly has no attributes but those of records.
    pub others: bool,
}

/// Reads a file's record: the enforced one if there is one.
///
/// # Errors
/// As for [`find`].
pub fn load(target: &Target, immutable: bool) -> Result<Stored> {
    find(target, immutable).map(|found| found.stored)
}

/// Reads a file's record: the enforced one if there is one. An immutable file most likely has one; this function then
/// reads it without listing the attributes first.
///
/// # Errors
/// An error of flistxattr(2) or fgetxattr(2), except that there is no such attribute.
pub fn find(target: &Target, immutable: bool) -> Result<Found> {
    const HOLDS: [Hold; 2] = [Hold::Frozen, Hold::None];
    if immutable {
        match load_for(target, Hold::Frozen)? {
            Stored::Absent => {}
            stored => return Ok(Found { stored, others: true }),
        }
    }
    let Listed { names, others } = match xattr::may_have(target, HOLDS.map(attribute)) {
        Err(error) if error.errno == Errno::EOPNOTSUPP => Listed { names: [false; HOLDS.len()], others: false },
        listed => listed?,
    };
    for (hold, _) in HOLDS.into_iter().zip(names).filter(|(_, may_have)| *may_have) {
        match load_for(target, hold)? {
            Stored::Absent => {}
            stored => return Ok(Found { stored, others }),
        }
    }
    Ok(Found { stored: Stored::Absent, others })
}

/// Reads one hold's attribute. It may contain the record of another hold that uses the same attribute.
///
/// # Errors
/// An error of fgetxattr(2), except that there is no such attribute.
pub fn load_for(target: &Target, hold: Hold) -> Result<Stored> {
    let bytes = match xattr::get(target, attribute(hold), LIMIT) {
        // Another version may be longer than this one.
        Err(error) if error.errno == Errno::ERANGE => xattr::get(target, attribute(hold), ATTRIBUTE_LIMIT),
        read => read,
    };
    let bytes = match bytes {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Stored::Absent),
        Err(error) if error.errno == Errno::EOPNOTSUPP => return Ok(Stored::Absent),
        Err(error) => return Err(Error::from(error)),
    };
    Ok(match Record::decode(&bytes) {
        // A process that may write user.* attributes must not be able to fake an enforced hold.
        Ok(record) if attribute(record.needs.hold) != attribute(hold) => Stored::Bad(hold, "it names another hold"),
        Ok(record) if record.identity == target.identity => Stored::Own(record),
        Ok(record) => Stored::Foreign(record),
        Err(DecodeError::Version(version)) => Stored::UnknownVersion(hold, version),
        Err(DecodeError::Bad(why)) => Stored::Bad(hold, why),
    })
}
