//! A map drawn as a strip of cells.

use super::layout::Layout;

/// Number of cells of a strip. It has many divisors, so that the strip can be drawn in many widths.
pub const CELLS: usize = 960;

/// A file from start to end in [`CELLS`] cells. Each cell shows the worst state within it.
#[derive(Debug, Clone)]
pub struct Strip {
    /// `None` while all bytes count as written, as in most files. On the heap, because reports are moved often.
    cells: Option<Box<[Layout; CELLS]>>,
    end: u64,
}

impl Strip {
    /// Creates the strip of a file that ends at byte `end`. All bytes count as written until painted.
    #[must_use]
    pub fn new(end: u64) -> Self {
        Strip { cells: None, end }
    }

    /// Paints the bytes from `from` up to `to`; a cell keeps the worst of its states.
    pub fn paint(&mut self, from: u64, to: u64, layout: Layout) {
        let to = to.min(self.end);
        if from >= to || layout == Layout::Written {
            return;
        }
        let end = self.end;
        let cell = |byte: u64| {
            let cell = u128::from(byte) * CELLS as u128 / u128::from(end);
            usize::try_from(cell).unwrap_or(CELLS - 1).min(CELLS - 1)
        };
        let cells = cell(from)..=cell(to - 1);
        let painted = self.cells.get_or_insert_with(|| Box::new([Layout::Written; CELLS]));
        for cell in &mut painted[cells] {
            *cell = (*cell).max(layout);
        }
    }

    /// Returns the strip in as many equal parts as fit into `width`, each in the worst state of its cells.
    #[must_use]
    pub fn in_width(&self, width: usize) -> Vec<Layout> {
        let parts = (1..=width.clamp(1, CELLS)).rev().find(|parts| CELLS.is_multiple_of(*parts)).unwrap_or(1);
        match &self.cells {
            Some(cells) => cells.chunks(CELLS / parts).filter_map(|cells| cells.iter().max().copied()).collect(),
            None => vec![Layout::Written; parts],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_shows_each_state() {
        let mut strip = Strip::new(1 << 20);
        assert_eq!(strip.in_width(27), [Layout::Written; 24]);
        strip.paint(1 << 19, (1 << 19) + 1, Layout::Hole);
        for (width, parts) in [(0, 1), (1, 1), (27, 24), (64, 64), (67, 64), (187, 160), (1000, 960)] {
            let drawn = strip.in_width(width);
            assert_eq!(drawn.len(), parts, "{width}");
            let hole = drawn.iter().position(|state| *state == Layout::Hole);
            assert_eq!(hole, Some(parts / 2), "{width}");
        }
    }
}
