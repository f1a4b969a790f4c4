//! The totals of a map: the bytes in each state, and the strip.

use serde::Serialize;

use super::layout::{Alignment, Layout, Pieces, block_end};
use super::map::Run;
use super::strip::Strip;

/// The number of bytes of a file in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Number of runs.
    pub extents: u64,
    /// Bytes mapped by written, unshared blocks at a known physical address, before EOF (rounded up to a block).
    pub written: u64,
    /// Bytes mapped by unwritten blocks.
    pub unwritten: u64,
    /// Bytes whose blocks are shared with other files.
    pub shared: u64,
    /// Bytes at no known physical address.
    pub unknown: u64,
    /// Bytes without blocks.
    pub hole: u64,
    /// Bytes of blocks past EOF.
    pub past_eof: u64,
    /// Bytes that page-table entries of 2 MiB can map: whole pieces of 2 MiB, aligned to 2 MiB.
    pub mappable_2m: u64,
    /// Bytes that page-table entries of 1 GiB can map.
    pub mappable_1g: u64,
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
    /// Starts on a file of `size` bytes in blocks of `block_size` bytes. Physical offsets count from `start`.
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
            Layout::Written | Layout::Moved => &mut self.summary.written,
            Layout::Shared => &mut self.summary.shared,
            Layout::Unwritten => &mut self.summary.unwritten,
            Layout::Unknown | Layout::Hole => &mut self.summary.unknown,
        } += bytes;
        self.paint(run.logical, run_end, layout);
    }

    /// Ends the map. Whatever no run covered is a hole.
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
            // Only whole entries count: bytes past EOF cannot be mapped.
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

#[cfg(test)]
mod tests {
    use libdaxfile::fiemap::ExtentFlags;

    use super::*;
    use crate::file::map::extent;
    use crate::file::strip::CELLS;

    #[test]
    fn an_overview_counts_every_byte_once() {
        let mut overview = Overview::new(10_000, 4096, 0);
        overview.push(&extent(0, 4096, 4096, ExtentFlags::empty()));
        overview.push(&extent(8192, 65536, 8192, ExtentFlags::UNWRITTEN));
        let overview = overview.finish();
        let expected =
            Summary { extents: 2, written: 4096, unwritten: 4096, hole: 4096, past_eof: 4096, ..Summary::default() };
        assert_eq!(overview.summary, expected);
        let cells = overview.strip.map(|strip| strip.in_width(CELLS));
        let cells = cells.map(|cells| [0, CELLS / 2, CELLS - 1].map(|cell| cells[cell]));
        assert_eq!(cells, Some([Layout::Written, Layout::Hole, Layout::Unwritten]));
    }
}
