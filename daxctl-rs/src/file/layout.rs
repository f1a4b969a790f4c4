//! The layout of blocks: their states as a person tells them apart, and their alignment.

use libdaxfile::fiemap::ExtentFlags;

use super::map::Run;

/// Joins runs that are adjacent both in the file and on the device, whatever their states.
#[derive(Debug, Default)]
pub(super) struct Pieces(Option<Run>);

impl Pieces {
    /// Takes the next run and returns the piece that this run ends.
    pub(super) fn push(&mut self, run: &Run) -> Option<Run> {
        if let Some(piece) = &mut self.0
            && piece.logical.checked_add(piece.length) == Some(run.logical)
            && piece.physical.checked_add(piece.length) == Some(run.physical)
        {
            piece.length = piece.length.saturating_add(run.length);
            return None;
        }
        self.0.replace(*run)
    }

    /// Returns the last piece.
    pub(super) fn finish(&mut self) -> Option<Run> {
        self.0.take()
    }
}

/// Finds which parts of a map can be reached in aligned pieces, in one pass. Physical adjacency counts; states do not.
#[derive(Debug)]
pub struct Alignment {
    align: u64,
    start: u64,
    end: u64,
    pieces: Pieces,
}

/// A part of a file that is physically contiguous, as the alignment check sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The part: start and end in the file.
    pub part: (u64, u64),
    /// The remainder of its physical position modulo the alignment.
    pub off: u64,
    /// The range within the part that consists of whole, aligned pieces. The last piece may be cut short by the end of
    /// the file.
    pub whole: Option<(u64, u64)>,
}

impl Alignment {
    /// Checks a file whose last block ends at `end`, in pieces of `align` bytes. Physical offsets count from `start`.
    #[must_use]
    pub fn new(align: u64, start: u64, end: u64) -> Self {
        Alignment { align, start: start % align, end, pieces: Pieces::default() }
    }

    /// Takes the next run and returns the part that this run ends.
    pub fn push(&mut self, run: &Run) -> Option<Placed> {
        let ended = self.pieces.push(run)?;
        Some(self.place(&ended))
    }

    /// Returns the last part.
    pub fn finish(&mut self) -> Option<Placed> {
        let ended = self.pieces.finish()?;
        Some(self.place(&ended))
    }

    pub(super) fn place(&self, piece: &Run) -> Placed {
        let (logical, end) = (piece.logical, piece.logical.saturating_add(piece.length));
        let place = (piece.physical % self.align + self.start) % self.align;
        let off = (place + self.align - logical % self.align) % self.align;
        let first = logical.checked_next_multiple_of(self.align).unwrap_or(u64::MAX);
        let last = if end >= self.end { self.end } else { end - end % self.align };
        let whole = (off == 0 && first < last).then_some((first, last));
        Placed { part: (logical.min(self.end), end.min(self.end)), off, whole }
    }
}

/// The states that a person tells apart, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layout {
    /// Written and unshared, at a known physical address.
    Written,
    /// Shared with other files.
    Shared,
    /// Never written.
    Unwritten,
    /// In other blocks than were recorded.
    Moved,
    /// At no known physical address.
    Unknown,
    /// No blocks.
    Hole,
}

impl Layout {
    /// The state of a run.
    #[must_use]
    pub fn of(flags: ExtentFlags) -> Self {
        match flags {
            _ if flags.intersects(ExtentFlags::UNKNOWN | ExtentFlags::DELALLOC) => Layout::Unknown,
            _ if flags.contains(ExtentFlags::UNWRITTEN) => Layout::Unwritten,
            _ if flags.contains(ExtentFlags::SHARED) => Layout::Shared,
            _ => Layout::Written,
        }
    }
}

/// Returns the end of the block that holds the file's last byte.
#[must_use]
pub fn block_end(size: u64, block_size: u64) -> u64 {
    size.checked_next_multiple_of(block_size).unwrap_or(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::map::extent;

    #[test]
    fn blocks_past_the_end_are_not_judged() {
        let mut alignment = Alignment::new(65536, 0, 100_000);
        assert_eq!(alignment.push(&extent(0, 65536, 102_400, ExtentFlags::empty())), None);
        let placed = alignment.push(&extent(1 << 20, 4096, 4096, ExtentFlags::UNWRITTEN));
        assert_eq!(placed, Some(Placed { part: (0, 100_000), off: 0, whole: Some((0, 100_000)) }));
        assert_eq!(alignment.finish().map(|placed| (placed.part, placed.whole)), Some(((100_000, 100_000), None)));
    }
}
