//! A map drawn as a strip of cells.

use super::layout::Layout;

/// Number of cells of a strip.
pub const CELLS: usize = 64;

/// A file from start to end in [`CELLS`] cells. Each cell shows the worst state within it.
#[derive(Debug, Clone, Copy)]
pub struct Strip {
    /// The cells.
    pub cells: [Layout; CELLS],
    end: u64,
}

impl Strip {
    /// Creates the strip of a file that ends at byte `end`. All bytes count as written until painted.
    #[must_use]
    pub fn new(end: u64) -> Self {
        Strip { cells: [Layout::Written; CELLS], end }
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
        for cell in &mut self.cells[cells] {
            *cell = (*cell).max(layout);
        }
    }
}
