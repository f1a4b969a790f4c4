//! The state of a pin: computed, never stored.

use libdaxfile::statx::{Statx, Time};
use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};

use super::drift::Drift;
use super::record::{Record, Stored};
use crate::needs::Hold;

/// The state of a pin, computed from flag or guard, record and map. The state is not stored, because a file with
/// IMMUTABLE cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
#[serde(into = "&'static str")]
pub enum State {
    /// Held, and matches the record.
    Pinned,
    /// Held or only recorded, and differs from the record.
    Drifted,
    /// Held and matches the record, but a process still has it open for writing.
    WriterInside,
    /// Recorded, but the flag is off, or the guard does not have the file.
    NotHeld,
    /// No record.
    Unpinned,
    /// A record of another file.
    ForeignRecord,
    /// A record that cannot be read.
    BadRecord,
}

impl State {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Computes the state. `held` says whether the recorded hold is in effect; `drift` is the result of comparing the map
/// with the file's own record.
#[must_use]
pub fn state(stored: &Stored, held: bool, statx: &Statx, drift: Option<&Drift>) -> State {
    match stored {
        Stored::Absent => State::Unpinned,
        Stored::Foreign(_) => State::ForeignRecord,
        Stored::Bad(..) | Stored::UnknownVersion(..) => State::BadRecord,
        Stored::Own(record) if record.needs.hold != Hold::None && !held => State::NotHeld,
        Stored::Own(record) => {
            let differs = drift.is_none_or(|drift| !drift.changes.is_empty()) || attributes_differ(record, statx);
            if differs { State::Drifted } else { State::Pinned }
        }
    }
}

/// Whether the size differs from the record, or the mtime under a hold that fixes the contents.
#[must_use]
pub fn attributes_differ(record: &Record, statx: &Statx) -> bool {
    record.size != statx.size || mtime_drift(record, statx).is_some()
}

/// Returns the recorded mtime if the hold fixes it and it differs from the current one.
#[must_use]
pub fn mtime_drift(record: &Record, statx: &Statx) -> Option<Time> {
    (record.needs.hold == Hold::Frozen && record.mtime != statx.mtime).then_some(record.mtime)
}
