//! How a record keeps a map: as whole runs, or as a digest of each span where the runs do not fit.

use sha2::{Digest, Sha256};

use super::format::{CHECKSUM, DIGEST, HEAD, MIN_SPAN, Note, Position, RUN, RecordedMap};
use crate::file::map::{Joiner, Run};

/// Computes the digests of a map span by span.
#[derive(Debug)]
pub struct Digester {
    span: u64,
    last: u64,
    current: u64,
    hasher: Sha256,
    digests: Vec<[u8; DIGEST]>,
}

impl Digester {
    /// Starts on a file of `size` bytes in spans of `span` bytes.
    #[must_use]
    pub fn new(size: u64, span: u64) -> Self {
        let last = size.div_ceil(span).max(1) - 1;
        Digester { span, last, current: 0, hasher: Sha256::new(), digests: Vec::new() }
    }

    /// Takes the next run.
    pub fn push(&mut self, run: &Position) {
        let mut rest = *run;
        while rest.length > 0 {
            let index = (rest.logical / self.span).min(self.last);
            while self.current < index {
                self.end_span();
            }
            let cut =
                if index == self.last { rest.length } else { rest.length.min((index + 1) * self.span - rest.logical) };
            self.hasher.update(Position { length: cut, ..rest }.encode());
            rest.logical = rest.logical.saturating_add(cut);
            rest.physical = rest.physical.saturating_add(cut);
            rest.length -= cut;
        }
    }

    fn end_span(&mut self) {
        let mut digest = [0; DIGEST];
        digest.copy_from_slice(&self.hasher.finalize_reset()[..DIGEST]);
        self.digests.push(digest);
        self.current += 1;
    }

    /// Ends the map.
    #[must_use]
    pub fn finish(mut self) -> Vec<[u8; DIGEST]> {
        while self.current <= self.last {
            self.end_span();
        }
        self.digests
    }
}

/// Computes, in one pass and bounded memory, the form in which a record keeps a map.
#[derive(Debug)]
pub struct Recorder {
    joiner: Joiner,
    room: usize,
    runs: Vec<Position>,
    extents: u64,
    digester: Digester,
    span: u64,
}

impl Recorder {
    /// Starts on a file of `size` bytes, for a record of at most `limit` bytes including the note.
    #[must_use]
    pub fn new(size: u64, limit: usize, note: Option<&Note>) -> Self {
        let room = limit - HEAD - CHECKSUM - Note::room(note);
        let spans = (room - 8) / DIGEST;
        let span = size.div_ceil(spans as u64).next_power_of_two().max(MIN_SPAN);
        Recorder {
            joiner: Joiner::by_position(),
            room: room / RUN,
            runs: Vec::new(),
            extents: 0,
            digester: Digester::new(size, span),
            span,
        }
    }

    /// Takes the next run.
    pub fn push(&mut self, run: &Run) {
        if let Some(run) = self.joiner.push(*run) {
            self.add(&run);
        }
    }

    fn add(&mut self, run: &Run) {
        let position = Position::of(run);
        self.extents += 1;
        if self.runs.len() <= self.room {
            self.runs.push(position);
        }
        self.digester.push(&position);
    }

    /// Ends the map; returns the number of runs and what the record keeps of them.
    #[must_use]
    pub fn finish(mut self) -> (u64, RecordedMap) {
        if let Some(run) = self.joiner.finish() {
            self.add(&run);
        }
        let map = if self.runs.len() <= self.room {
            RecordedMap::Runs(self.runs)
        } else {
            RecordedMap::Digests { span: self.span, digests: self.digester.finish() }
        };
        (self.extents, map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_depends_on_runs_alone_not_on_how_they_are_cut() {
        let whole = Position { logical: 0, physical: 1 << 30, length: 5 << 20, unwritten: false };
        let digests = |size, runs: &[Position]| {
            let mut digester = Digester::new(size, MIN_SPAN);
            runs.iter().for_each(|run| digester.push(run));
            digester.finish()
        };
        let spans = digests(5 << 20, &[whole]);
        assert_eq!(spans.len(), 5);
        let moved = Position { physical: 2 << 30, ..whole };
        assert!(digests(5 << 20, &[moved]).iter().zip(&spans).all(|(a, b)| a != b));
        let (head, tail) = (
            Position { length: 3 << 20, ..whole },
            Position { logical: 3 << 20, physical: 3 << 30, length: 2 << 20, unwritten: false },
        );
        let partly = digests(5 << 20, &[head, tail]);
        assert_eq!(partly[..3], spans[..3]);
        assert_ne!(partly[3..], spans[3..]);
    }
}
