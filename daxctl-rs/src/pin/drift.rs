//! Drift: where the positions in a map differ from the recorded ones.

use serde::Serialize;

use crate::bounded::BoundedList;
use crate::file::layout::Layout;
use crate::file::map::{Joiner, Run};
use crate::file::strip::Strip;
use crate::pin::record::{Digester, Position, RecordedMap};
use libdaxfile::fiemap::ExtentFlags;

/// The place of a piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Place {
    /// No blocks.
    Hole,
    /// In written blocks.
    Written {
        /// Offset on the device.
        physical: u64,
    },
    /// In unwritten blocks.
    Unwritten {
        /// Offset on the device.
        physical: u64,
    },
    /// Not known, because the record keeps a digest.
    Digest,
}

/// A piece of a file that has moved, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Where it starts in the file.
    pub logical: u64,
    /// How long it is.
    pub length: u64,
    /// Where it was.
    pub was: Place,
    /// Where it is.
    pub now: Place,
}

/// Finds, in one pass, the differences from the recorded runs.
#[derive(Debug)]
struct Differ<'a> {
    was: &'a [Position],
    position: u64,
    changes: BoundedList<Change>,
}

impl<'a> Differ<'a> {
    fn new(was: &'a [Position]) -> Self {
        Differ { was, position: 0, changes: BoundedList::new() }
    }

    fn push(&mut self, now: &Position) {
        self.walk_to(now.logical, None);
        self.walk_to(now.end(), Some(now));
    }

    fn finish(mut self) -> BoundedList<Change> {
        let end = self.was.last().map_or(0, Position::end);
        self.walk_to(end, None);
        self.changes
    }

    /// Compares from the current position up to `end`. Only `now` is mapped in that range.
    fn walk_to(&mut self, end: u64, now: Option<&Position>) {
        while self.position < end {
            while self.was.first().is_some_and(|was| was.end() <= self.position) {
                self.was = &self.was[1..];
            }
            let (was, until) = match self.was.first() {
                Some(was) if was.logical <= self.position => (Some(was), was.end()),
                Some(was) => (None, was.logical),
                None => (None, end),
            };
            let until = until.min(end);
            let (was, now) = (place(was, self.position), place(now, self.position));
            if was != now {
                self.add(Change { logical: self.position, length: until - self.position, was, now });
            }
            self.position = until;
        }
    }

    fn add(&mut self, change: Change) {
        match self.changes.last_mut() {
            Some(last)
                if last.logical + last.length == change.logical
                    && follows(last.was, change.was, last.length)
                    && follows(last.now, change.now, last.length) =>
            {
                last.length += change.length;
            }
            _ => self.changes.push(change),
        }
    }
}

fn place(run: Option<&Position>, logical: u64) -> Place {
    match run {
        None => Place::Hole,
        Some(run) => {
            let physical = run.physical.saturating_add(logical - run.logical);
            if run.unwritten { Place::Unwritten { physical } } else { Place::Written { physical } }
        }
    }
}

fn follows(first: Place, second: Place, length: u64) -> bool {
    match (first, second) {
        (Place::Written { physical: a }, Place::Written { physical: b })
        | (Place::Unwritten { physical: a }, Place::Unwritten { physical: b }) => a.checked_add(length) == Some(b),
        (a, b) => a == b,
    }
}

/// Compares a map with the recorded one, in one pass.
#[derive(Debug)]
pub struct Comparison<'a> {
    joiner: Joiner,
    method: Method<'a>,
    shared: u64,
}

#[derive(Debug)]
enum Method<'a> {
    Runs(Differ<'a>),
    Digests { span: u64, size: u64, was: &'a [[u8; 16]], now: Digester },
}

impl<'a> Comparison<'a> {
    /// Starts a comparison with the map recorded for a file of `size` bytes.
    #[must_use]
    pub fn new(recorded: &'a RecordedMap, size: u64) -> Self {
        let method = match recorded {
            RecordedMap::Runs(runs) => Method::Runs(Differ::new(runs)),
            RecordedMap::Digests { span, digests } => {
                Method::Digests { span: *span, size, was: digests, now: Digester::new(size, *span) }
            }
        };
        Comparison { joiner: Joiner::by_position(), method, shared: 0 }
    }

    /// Takes the next run.
    pub fn push(&mut self, run: &Run) {
        if run.flags.contains(ExtentFlags::SHARED) {
            self.shared += run.length;
        }
        if let Some(run) = self.joiner.push(*run) {
            self.add(&run);
        }
    }

    fn add(&mut self, run: &Run) {
        let position = Position::of(run);
        match &mut self.method {
            Method::Runs(differ) => differ.push(&position),
            Method::Digests { now, .. } => now.push(&position),
        }
    }

    /// Ends the map.
    #[must_use]
    pub fn finish(mut self) -> Drift {
        if let Some(run) = self.joiner.finish() {
            self.add(&run);
        }
        let changes = match self.method {
            Method::Runs(differ) => differ.finish(),
            Method::Digests { span, size, was, now } => changed_spans(span, size, was, &now.finish()),
        };
        Drift { change_count: changes.total(), changes: changes.into_vec(), shared: self.shared }
    }
}

fn changed_spans(span: u64, size: u64, was: &[[u8; 16]], now: &[[u8; 16]]) -> BoundedList<Change> {
    let differing = (0u64..).zip(was.iter().zip(now)).filter(|(_, (was, now))| was != now);
    let mut changes: BoundedList<Change> = BoundedList::new();
    for (index, _) in differing {
        let logical = index * span;
        let length = span.min(size.saturating_sub(logical));
        match changes.last_mut() {
            Some(last) if last.logical + last.length == logical => last.length += length,
            _ => changes.push(Change { logical, length, was: Place::Digest, now: Place::Digest }),
        }
    }
    changes
}

/// Draws a file of `end` bytes twice: with these runs as recorded, and after the changes.
#[must_use]
pub fn strips(was: &[Position], changes: &[Change], end: u64) -> [Strip; 2] {
    let [mut before, mut after] = [(); 2].map(|()| Strip::new(end));
    let mut paint = |from: u64, to: u64, layout| {
        before.paint(from, to, layout);
        let mut at = from;
        let first = changes.partition_point(|change| change.logical.saturating_add(change.length) <= from);
        for change in changes[first..].iter().take_while(|change| change.logical < to) {
            after.paint(at, change.logical, layout);
            at = change.logical.saturating_add(change.length);
        }
        after.paint(at, to, layout);
    };
    let mut mapped_to = 0;
    for run in was {
        paint(mapped_to, run.logical, Layout::Hole);
        if run.unwritten {
            paint(run.logical, run.end(), Layout::Unwritten);
        }
        mapped_to = run.end();
    }
    paint(mapped_to, end, Layout::Hole);
    for change in changes {
        let layout = match change.now {
            Place::Hole => Layout::Hole,
            Place::Unwritten { .. } => Layout::Unwritten,
            Place::Written { .. } | Place::Digest => Layout::Moved,
        };
        after.paint(change.logical, change.logical.saturating_add(change.length), layout);
    }
    [before, after]
}

/// The result of a comparison of maps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Drift {
    /// Pieces that have moved.
    pub changes: Vec<Change>,
    /// The number of all pieces, if the list is incomplete.
    pub change_count: Option<u64>,
    /// Bytes whose blocks are now shared with other files.
    pub shared: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(logical: u64, physical: u64, length: u64) -> Position {
        Position { logical, physical, length, unwritten: false }
    }

    fn diff(was: &[Position], now: &[Position]) -> Vec<Change> {
        let mut differ = Differ::new(was);
        now.iter().for_each(|run| differ.push(run));
        differ.finish().into_vec()
    }

    #[test]
    fn equal_maps_do_not_differ() {
        let map = [run(0, 100, 10), run(20, 500, 5)];
        assert_eq!(diff(&map, &map), []);
        assert_eq!(diff(&[], &[]), []);
    }

    #[test]
    fn cutting_a_run_in_two_is_no_drift() {
        assert_eq!(diff(&[run(0, 100, 10)], &[run(0, 100, 4), run(4, 104, 6)]), []);
        assert_eq!(diff(&[run(0, 100, 4), run(4, 104, 6)], &[run(0, 100, 10)]), []);
    }

    #[test]
    fn a_moved_middle_is_named_alone() {
        let now = [run(0, 100, 4), run(4, 900, 2), run(6, 106, 4)];
        let change = Change {
            logical: 4,
            length: 2,
            was: Place::Written { physical: 104 },
            now: Place::Written { physical: 900 },
        };
        assert_eq!(diff(&[run(0, 100, 10)], &now), [change]);
    }

    #[test]
    fn holes_growth_and_truncation_are_named() {
        let at = |physical| Place::Written { physical };
        assert_eq!(
            diff(&[run(0, 100, 10)], &[run(0, 100, 4), run(8, 108, 2)]),
            [Change { logical: 4, length: 4, was: at(104), now: Place::Hole }]
        );
        assert_eq!(
            diff(&[run(0, 100, 10)], &[run(0, 100, 12)]),
            [Change { logical: 10, length: 2, was: Place::Hole, now: at(110) }]
        );
        assert_eq!(
            diff(&[run(0, 100, 10), run(30, 300, 5)], &[run(0, 100, 5)]),
            [
                Change { logical: 5, length: 5, was: at(105), now: Place::Hole },
                Change { logical: 30, length: 5, was: at(300), now: Place::Hole },
            ]
        );
    }

    #[test]
    fn strips_show_what_was_and_what_is() {
        let was = [run(0, 0, 16), Position { unwritten: true, ..run(24, 24, 8) }, run(32, 32, 32)];
        let now = [run(0, 0, 8), run(8, 900, 8), run(16, 800, 16), run(32, 32, 16), run(56, 56, 8)];
        let text = |strip: &Strip| -> String {
            let sign = |layout: &Layout| match layout {
                Layout::Written => '#',
                Layout::Unwritten => 'u',
                Layout::Moved => 'M',
                Layout::Hole => '.',
                other => panic!("{other:?}"),
            };
            strip.in_width(64).iter().map(sign).collect()
        };
        let strips = strips(&was, &diff(&was, &now), 64);
        assert_eq!(text(&strips[0]), "################........uuuuuuuu################################");
        assert_eq!(text(&strips[1]), "########MMMMMMMMMMMMMMMMMMMMMMMM################........########");
    }

    #[test]
    fn the_written_state_counts() {
        let now = [Position { unwritten: true, ..run(0, 100, 10) }];
        let changes = diff(&[run(0, 100, 10)], &now);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].now, Place::Unwritten { physical: 100 });
    }
}
