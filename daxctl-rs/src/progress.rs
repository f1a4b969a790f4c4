//! How a verb reports its progress, and learns that it should stop, independent of any terminal or signal.

/// Receives a verb's progress. Several threads may work, and ask whether to stop.
pub trait Progress: Sync {
    /// Begins work of `total` units.
    fn begin(&self, total: u64, unit: Unit);
    /// Reports `units` more units as done.
    fn advance(&self, units: u64);
    /// Ends the work.
    fn end(&self);
    /// Whether the user wants the work to stop. A verb that sees this undoes what it has begun.
    fn interrupted(&self) -> bool {
        false
    }
}

/// The unit of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of one file.
    Bytes,
    /// Files of a list.
    Files,
    /// Files found by a search; their total is not known.
    Found,
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: u64, _: Unit) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}
