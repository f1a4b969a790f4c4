//! What a map adds up to: how much of a file is in which state, and how its blocks are aligned.

use libdaxfile::fiemap::ExtentFlags;
use serde::Serialize;

use super::map::Run;
use super::strip::Strip;

/// How many bytes of a file are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Runs.
    pub extents: u64,
    /// Bytes mapped by written, unshared blocks at a known place, before EOF (rounded up to a block).
    pub written: u64,
    /// Bytes mapped by blocks never written.
    pub unwritten: u64,
    /// Bytes whose blocks other files have, too.
    pub shared: u64,
    /// Bytes at no known place.
    pub unknown: u64,
    /// Bytes without blocks.
    pub hole: u64,
    /// Bytes of blocks past EOF.
    pub past_eof: u64,
    /// Bytes that page-table entries of 2 MiB can map: whole pieces that start at a multiple of it.
    pub mappable_2m: u64,
    /// Bytes that page-table entries of 1 GiB can map.
    pub mappable_1g: u64,
}

/// Joins runs that follow one another both in the file and in place, whatever their states.
#[derive(Debug, Default)]
struct Pieces(Option<Run>);

impl Pieces {
    /// Takes the next run; gives the piece that it ended.
    fn push(&mut self, run: &Run) -> Option<Run> {
        if let Some(piece) = &mut self.0
            && piece.logical.checked_add(piece.length) == Some(run.logical)
            && piece.physical.checked_add(piece.length) == Some(run.physical)
        {
            piece.length = piece.length.saturating_add(run.length);
            return None;
        }
        self.0.replace(*run)
    }

    /// Gives the last piece.
    fn finish(&mut self) -> Option<Run> {
        self.0.take()
    }
}

/// Finds which parts of a map can be reached in aligned pieces, in one pass. Physical adjacency counts, states do not.
#[derive(Debug)]
pub struct Alignment {
    align: u64,
    start: u64,
    end: u64,
    pieces: Pieces,
}

/// A part of a file that is in one physical piece, as alignment sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The part: start and end in the file.
    pub part: (u64, u64),
    /// By how much its place is off, modulo the alignment.
    pub off: u64,
    /// What of it consists of whole, well-placed pieces; at the end of the file a piece may be cut short.
    pub whole: Option<(u64, u64)>,
}

impl Alignment {
    /// Looks at a file whose last block ends at `end`, in pieces of `align` bytes. Its physical offsets count from `start`.
    #[must_use]
    pub fn new(align: u64, start: u64, end: u64) -> Self {
        Alignment { align, start: start % align, end, pieces: Pieces::default() }
    }

    /// Takes the next run; gives the part that it ended.
    pub fn push(&mut self, run: &Run) -> Option<Placed> {
        let ended = self.pieces.push(run)?;
        Some(self.place(&ended))
    }

    /// Gives the last part.
    pub fn finish(&mut self) -> Option<Placed> {
        let ended = self.pieces.finish()?;
        Some(self.place(&ended))
    }

    fn place(&self, piece: &Run) -> Placed {
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
    /// Written, unshared, at a known place.
    Written,
    /// Other files have the blocks, too.
    Shared,
    /// Never written.
    Unwritten,
    /// At no known place.
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

/// Sizes of the huge page-table entries that DAX can use.
const HUGE: [u64; 2] = [1 << 21, 1 << 30];

/// Adds up a map in one pass: the totals, and a [`Strip`].
#[derive(Debug)]
pub struct Overview {
    /// The totals.
    pub summary: Summary,
    /// The strip; none for a file without contents.
    pub strip: Option<Strip>,
    /// Bytes of all extents, blocks past EOF included.
    pub mapped: u64,
    block_size: u64,
    end: u64,
    start: u64,
    mapped_to: u64,
    pieces: Pieces,
}

impl Overview {
    /// Looks at a file of so many bytes in blocks of so many, whose physical offsets count from `start`.
    #[must_use]
    pub fn new(size: u64, block_size: u64, start: u64) -> Self {
        Overview {
            summary: Summary::default(),
            strip: (size > 0).then(|| Strip::new(block_end(size, block_size))),
            mapped: 0,
            block_size,
            end: block_end(size, block_size),
            start,
            mapped_to: 0,
            pieces: Pieces::default(),
        }
    }

    /// Takes the next run.
    pub fn push(&mut self, run: &Run) {
        let run_end = run.logical.saturating_add(run.length);
        self.summary.extents += 1;
        self.mapped = self.mapped.saturating_add(run.length);
        let piece = self.pieces.push(run);
        self.count_huge(piece);
        self.hole_up_to(run.logical);
        self.mapped_to = self.mapped_to.max(block_end(run_end, self.block_size));
        self.summary.past_eof += run_end.saturating_sub(run.logical.max(self.end));
        let layout = Layout::of(run.flags);
        let bytes = run_end.min(self.end).saturating_sub(run.logical);
        *match layout {
            Layout::Written => &mut self.summary.written,
            Layout::Shared => &mut self.summary.shared,
            Layout::Unwritten => &mut self.summary.unwritten,
            Layout::Unknown | Layout::Hole => &mut self.summary.unknown,
        } += bytes;
        self.paint(run.logical, run_end, layout);
    }

    /// Ends the map: what no run covered is a hole.
    #[must_use]
    pub fn finish(mut self) -> Self {
        self.hole_up_to(self.end);
        let piece = self.pieces.finish();
        self.count_huge(piece);
        self
    }

    fn count_huge(&mut self, piece: Option<Run>) {
        let Some(piece) = piece.filter(|piece| piece.length >= HUGE[0]) else { return };
        let counts = [&mut self.summary.mappable_2m, &mut self.summary.mappable_1g];
        for (count, align) in counts.into_iter().zip(HUGE) {
            // Only a whole entry counts: what lies past EOF cannot be mapped.
            let whole = Alignment::new(align, self.start, self.end).place(&piece).whole;
            *count += whole.map_or(0, |(first, last)| (last - first) - (last - first) % align);
        }
    }

    fn hole_up_to(&mut self, logical: u64) {
        let logical = logical.min(self.end);
        self.summary.hole += logical.saturating_sub(self.mapped_to);
        self.paint(self.mapped_to, logical, Layout::Hole);
    }

    fn paint(&mut self, from: u64, to: u64, layout: Layout) {
        if let Some(strip) = &mut self.strip {
            strip.paint(from, to, layout);
        }
    }
}

/// Where the block ends that holds a file's last byte.
#[must_use]
pub fn block_end(size: u64, block_size: u64) -> u64 {
    size.checked_next_multiple_of(block_size).unwrap_or(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::strip::CELLS;

    fn extent(logical: u64, physical: u64, length: u64, flags: ExtentFlags) -> Run {
        Run { logical, physical, length, flags }
    }

    #[test]
    fn what_lies_past_the_end_is_not_placed() {
        let mut alignment = Alignment::new(65536, 0, 100_000);
        assert_eq!(alignment.push(&extent(0, 65536, 102_400, ExtentFlags::empty())), None);
        let placed = alignment.push(&extent(1 << 20, 4096, 4096, ExtentFlags::UNWRITTEN));
        assert_eq!(placed, Some(Placed { part: (0, 100_000), off: 0, whole: Some((0, 100_000)) }));
        assert_eq!(alignment.finish().map(|placed| (placed.part, placed.whole)), Some(((100_000, 100_000), None)));
    }

    #[test]
    fn an_overview_counts_every_byte_once() {
        let mut overview = Overview::new(10_000, 4096, 0);
        overview.push(&extent(0, 4096, 4096, ExtentFlags::empty()));
        overview.push(&extent(8192, 65536, 8192, ExtentFlags::UNWRITTEN));
        let overview = overview.finish();
        let expected =
            Summary { extents: 2, written: 4096, unwritten: 4096, hole: 4096, past_eof: 4096, ..Summary::default() };
        assert_eq!(overview.summary, expected);
        let cells = overview.strip.map(|strip| [0, CELLS / 2, CELLS - 1].map(|cell| strip.cells[cell]));
        assert_eq!(cells, Some([Layout::Written, Layout::Hole, Layout::Unwritten]));
    }
}
