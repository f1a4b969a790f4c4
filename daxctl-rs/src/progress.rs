//! How a verb tells how far it is, and learns that it should stop, without knowing where either comes from.

/// Receives how far a verb is.
pub trait Progress {
    /// Work of `total` units begins.
    fn begin(&self, total: u64, unit: Unit);
    /// So many units more are done.
    fn advance(&self, units: u64);
    /// The work is over.
    fn end(&self);
    /// Whether the user wants it to stop. A verb that sees this undoes what it has begun.
    fn interrupted(&self) -> bool {
        false
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of one file.
    Bytes,
    /// Files of a list.
    Files,
    /// Files that are found; nobody knows how many there are.
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
