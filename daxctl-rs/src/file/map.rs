//! Extent maps: read in one pass, joined into runs, and proved untorn where that can be.

use std::collections::VecDeque;
use std::sync::mpsc::sync_channel;
use std::thread;

use libdaxfile::fiemap::{self, Extent, ExtentFlags, Extents, Request};
use libdaxfile::fsxattr::Xflags;
use libdaxfile::lease::Lease;
use libdaxfile::xfs;
use serde::Serialize;

use crate::error::Result;
use crate::file::target::{InodeState, Target};
use crate::system::filesystem::Kind;

/// Extents joined where they are adjacent both logically and physically and their material flags are equal.
pub type Run = Extent;

/// Flags that say nothing of where the bytes are: the record boundaries of FIEMAP change by themselves on ext4.
const IMMATERIAL: ExtentFlags = ExtentFlags::LAST.union(ExtentFlags::MERGED);

/// Most extents that are asked of XFS in one call: 48 bytes each.
const ONE_CALL: usize = 1 << 22;

/// Joins extents into runs, one at a time.
///
/// ```
/// use daxfile::file::map::Joiner;
/// use libdaxfile::fiemap::{Extent, ExtentFlags};
///
/// let extent = |logical, physical, flags| Extent { logical, physical, length: 4096, flags };
/// let mut joiner = Joiner::new();
/// assert_eq!(joiner.push(extent(0, 40960, ExtentFlags::empty())), None);
/// assert_eq!(joiner.push(extent(4096, 45056, ExtentFlags::empty())), None); // it goes on
/// let run = joiner.push(extent(8192, 0, ExtentFlags::LAST)); // elsewhere
/// assert_eq!(run.map(|run| (run.physical, run.length)), Some((40960, 8192)));
/// assert_eq!(joiner.finish().map(|run| run.logical), Some(8192));
/// ```
#[derive(Debug)]
pub struct Joiner {
    ignored: ExtentFlags,
    last: Option<Run>,
}

impl Joiner {
    /// Joins what differs in nothing but record boundaries.
    #[must_use]
    pub fn new() -> Self {
        Joiner { ignored: IMMATERIAL, last: None }
    }

    /// Joins by position and written state alone; who else has the blocks is left out.
    #[must_use]
    pub fn by_position() -> Self {
        Joiner { ignored: IMMATERIAL | ExtentFlags::SHARED, last: None }
    }

    /// Takes the next extent; gives the run that it ended.
    pub fn push(&mut self, extent: Extent) -> Option<Run> {
        let extent = Run { flags: extent.flags - (self.ignored - ExtentFlags::MERGED), ..extent };
        if let Some(last) = &mut self.last
            && last.logical.checked_add(last.length) == Some(extent.logical)
            && last.physical.checked_add(last.length) == Some(extent.physical)
            && last.flags - ExtentFlags::MERGED == extent.flags - ExtentFlags::MERGED
            && !extent.flags.contains(ExtentFlags::UNKNOWN)
        {
            last.length = last.length.saturating_add(extent.length);
            last.flags |= extent.flags;
            return None;
        }
        self.last.replace(extent)
    }

    /// Gives the last run.
    pub fn finish(&mut self) -> Option<Run> {
        self.last.take()
    }
}

impl Default for Joiner {
    fn default() -> Self {
        Joiner::new()
    }
}

/// A map that was read, held once: as XFS gave it in one call, or as a list.
#[derive(Debug)]
pub enum Runs {
    /// What one call gave.
    Whole(xfs::WholeMap),
    /// Each run.
    Listed(Vec<Run>),
}

impl Default for Runs {
    fn default() -> Self {
        Runs::Listed(Vec::new())
    }
}

impl Runs {
    /// Goes through its runs, in logical order.
    pub fn iter(&self) -> impl Iterator<Item = Run> {
        let (whole, listed) = match self {
            Runs::Whole(map) => (Some(map.extents()), None),
            Runs::Listed(runs) => (None, Some(runs.iter().copied())),
        };
        let extents = whole.into_iter().flatten().chain(listed.into_iter().flatten());
        let mut joiner = Joiner::new();
        extents.map(Some).chain([None]).filter_map(move |extent| match extent {
            Some(extent) => joiner.push(extent),
            None => joiner.finish(),
        })
    }
}

/// Reads the whole map, blocks past EOF included, and gives each run to `visit` in logical order; `kept` gets them to go
/// through again. Dirty pages are written back first. Returns whether the map is proved to have been like this at one
/// moment: because the file was immutable all the while since `before`, because `lease` stood undisturbed, or because XFS
/// gave all of it in one call.
///
/// # Errors
/// Those of FIEMAP; `EOPNOTSUPP` where the filesystem has no extents to show.
pub fn read(
    target: &Target,
    before: &InodeState,
    lease: Option<&Lease<'_>>,
    kept: Option<&mut Runs>,
    mut visit: impl FnMut(Run),
) -> Result<bool> {
    target.filesystem.require_extents()?;
    let certain_anyway = lease.is_some() || before.immutable();
    let whole = if certain_anyway { None } else { one_call(target, before)? };
    let lists = kept.is_some() && whole.is_none();
    let mut listed = Vec::new();
    let mut visit = |run| {
        if lists {
            listed.push(run);
        }
        visit(run);
    };
    let mut joiner = Joiner::new();
    let mut join = |extent| {
        if let Some(run) = joiner.push(extent) {
            visit(run);
        }
    };
    let consistent = if let Some(map) = &whole {
        map.extents().for_each(&mut join);
        true
    } else {
        each_extent(target, &mut join)?;
        let leased = match lease {
            Some(lease) => lease.undisturbed()?,
            None => false,
        };
        leased || before.immutable() && before.immutable_since() == target.inode_state()?.immutable_since()
    };
    if let Some(run) = joiner.finish() {
        visit(run);
    }
    if let Some(kept) = kept {
        *kept = whole.map_or(Runs::Listed(listed), Runs::Whole);
    }
    Ok(consistent)
}

/// Gives every extent to `act`. Of a long map, the next are fetched meanwhile.
fn each_extent(target: &Target, mut act: impl FnMut(Extent)) -> Result<()> {
    /// Calls before another thread pays.
    const SHORT: usize = 2;
    let mut extents = Extents::new(target, 0..u64::MAX, Request::SYNC);
    for _ in 0..SHORT {
        extents.batch()?.into_iter().for_each(&mut act);
    }
    let next = extents.batch()?;
    if next.is_empty() {
        return Ok(());
    }
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(4);
        scope.spawn(move || {
            loop {
                let batch = extents.batch();
                let over = batch.as_ref().is_ok_and(VecDeque::is_empty);
                // Nobody listens any more after an error.
                if over || sender.send(batch).is_err() {
                    return;
                }
            }
        });
        next.into_iter().for_each(&mut act);
        receiver.into_iter().try_for_each(|batch| {
            batch?.into_iter().for_each(&mut act);
            Ok(())
        })
    })
}

fn one_call(target: &Target, state: &InodeState) -> Result<Option<xfs::WholeMap>> {
    if target.filesystem.kind != Kind::Xfs || state.xflags().contains(Xflags::REALTIME) {
        return Ok(None);
    }
    // The inode tells its number of extents, but shared ones come in more pieces than that.
    let mut limit = state.fsxattr.map_or(0, |fsxattr| fsxattr.nextents as usize) + 16;
    // GETBMAPX writes back only what awaits allocation. Writing back the rest changes the map where blocks are unwritten, or
    // where others wait to replace them.
    let sync = || fiemap::count(target, 0..1, Request::SYNC);
    let mut synced = !target.filesystem.overwrites_in_place(&state.statx);
    if synced {
        sync()?;
    }
    while limit <= ONE_CALL {
        match xfs::whole_map(target, limit)? {
            Some(extents) if !synced && extents.has_unwritten() => {
                sync()?;
                synced = true;
            }
            Some(extents) => return Ok(Some(extents)),
            None => limit *= 2,
        }
    }
    Ok(None)
}

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

/// Cells of a strip.
pub const CELLS: usize = 64;

/// Adds up a map in one pass: the totals, and a strip of [`CELLS`] cells each of which shows the worst that lies in it.
#[derive(Debug)]
pub struct Overview {
    /// The totals.
    pub summary: Summary,
    /// The strip; none for a file without contents.
    pub strip: Option<[Layout; CELLS]>,
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
            strip: (size > 0).then_some([Layout::Written; CELLS]),
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
        let to = to.min(self.end);
        let Some(strip) = &mut self.strip else { return };
        if from >= to || layout == Layout::Written {
            return;
        }
        let end = self.end;
        let cell = |byte: u64| {
            let cell = u128::from(byte) * CELLS as u128 / u128::from(end);
            usize::try_from(cell).unwrap_or(CELLS - 1).min(CELLS - 1)
        };
        let cells = cell(from)..=cell(to - 1);
        for cell in &mut strip[cells] {
            *cell = (*cell).max(layout);
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

    fn extent(logical: u64, physical: u64, length: u64, flags: ExtentFlags) -> Extent {
        Extent { logical, physical, length, flags }
    }

    fn joined(mut joiner: Joiner, extents: &[Extent]) -> Vec<Run> {
        let mut runs: Vec<Run> = extents.iter().filter_map(|&extent| joiner.push(extent)).collect();
        runs.extend(joiner.finish());
        runs
    }

    #[test]
    fn adjacent_extents_become_one_run() {
        let none = ExtentFlags::empty();
        let extents = [extent(0, 4096, 4096, none), extent(4096, 8192, 4096, ExtentFlags::LAST)];
        assert_eq!(joined(Joiner::new(), &extents), [extent(0, 4096, 8192, none)]);
    }

    #[test]
    fn what_differs_in_place_or_flags_stays_apart() {
        let none = ExtentFlags::empty();
        for second in [
            extent(8192, 8192, 4096, none),
            extent(4096, 12288, 4096, none),
            extent(4096, 8192, 4096, ExtentFlags::UNWRITTEN),
            extent(4096, 8192, 4096, ExtentFlags::SHARED),
            extent(4096, 8192, 4096, ExtentFlags::from_bits_retain(0x8000_0000)),
        ] {
            assert_eq!(joined(Joiner::new(), &[extent(0, 4096, 4096, none), second]).len(), 2, "{second:?}");
        }
    }

    #[test]
    fn sharing_does_not_split_a_position() {
        let extents = [extent(0, 4096, 4096, ExtentFlags::SHARED), extent(4096, 8192, 4096, ExtentFlags::empty())];
        assert_eq!(joined(Joiner::by_position(), &extents), [extent(0, 4096, 8192, ExtentFlags::empty())]);
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
        let cells = overview.strip.map(|strip| [0, CELLS / 2, CELLS - 1].map(|cell| strip[cell]));
        assert_eq!(cells, Some([Layout::Written, Layout::Hole, Layout::Unwritten]));
    }
}
