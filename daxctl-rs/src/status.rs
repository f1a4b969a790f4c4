//! The exit status.

use serde::{Serialize, Serializer};

/// The exit status; for several files, the largest one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum Status {
    /// Done; or the answer is yes.
    #[default]
    Done = 0,
    /// Answered, and the answer is no.
    No = 1,
    /// Wrong usage, not a regular file, or a failed operation.
    Failed = 2,
    /// This kernel, filesystem or mount cannot do it.
    Unable = 3,
    /// Not permitted.
    NotPermitted = 4,
    /// Busy.
    Busy = 5,
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}
