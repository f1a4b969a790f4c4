//! The pin record: the facts that were true when a file was pinned, kept with the file in an extended attribute.
//!
//! The attribute is `security.daxfile.pin` for enforced holds: every user can read it, but only a process with
//! CAP_SYS_ADMIN can write it, so the file's owner can neither forge nor remove it. For hold `none` it is
//! `user.daxfile.pin`. All integers are little-endian:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 7 | `daxfile` |
//! | 7 | 1 | version: 1 without a note, 2 with one |
//! | 8 | 1 | hold: 0 frozen, 1 none, 2 writable |
//! | 9 | 1 | allowed: 1 hole, 2 unwritten, 4 shared, 8 empty |
//! | 10 | 1 | form of the map: 0 runs, 1 digests |
//! | 11 | 1 | 1 if DAX was demanded, else 0 |
//! | 12 | 4 | `FS_XFLAG_*` bits that the pin added |
//! | 16 | 8 | inode number |
//! | 24 | 4 | generation |
//! | 28 | 16 | filesystem UUID; zeros where unknown |
//! | 44 | 8 | size |
//! | 52 | 12 | mtime: seconds, nanoseconds |
//! | 64 | 12 | time of the pin: seconds, nanoseconds |
//! | 76 | 8 | `--align`, or 0 |
//! | 84 | 8 | `--max-extents`, or 0 |
//! | 92 | 8 | number of runs |
//! | 100 | | version 2 only: length of the note (2), the note in UTF-8 |
//! | then | | runs, each logical (8), physical (8), length (8), 1 if unwritten else 0 (1); or |
//! | then | | length of a span (8), and for each span of the file the first 16 bytes of a SHA-256 over its runs |
//! | end - 8 | 8 | the first 8 bytes of the SHA-256 of all before |
//!
//! A daxfile that knows only version 1 reads every record without a note, and leaves records with a note alone.
//!
//! The digest of a span covers the runs that overlap the span, cut to the span, in the form in which a record keeps
//! runs. Spans are powers of two, at least 1 MiB. Runs that begin past the last span count as part of the last span.

use libdaxfile::fiemap::ExtentFlags;
use libdaxfile::fsxattr::Xflags;
use libdaxfile::statx::Time;
use sha2::{Digest, Sha256};

use crate::file::map::Run;
use crate::file::target::Identity;
use crate::needs::{self, Allow, Hold, Needs};

/// Most bytes in a record.
pub const LIMIT: usize = 3072;

/// Most bytes in a record where the filesystem has no more room: ext4 with blocks of 1 KiB.
pub(super) const TIGHT_LIMIT: usize = 800;

const MAGIC: &[u8; 7] = b"daxfile";
const VERSION: u8 = 1;
const VERSION_WITH_NOTE: u8 = 2;
pub(super) const HEAD: usize = 100;
pub(super) const RUN: usize = 25;
pub(super) const DIGEST: usize = 16;
pub(super) const CHECKSUM: usize = 8;
pub(super) const MIN_SPAN: u64 = 1 << 20;

/// The position and written state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Where it starts in the file, in bytes.
    pub logical: u64,
    /// Where it starts on the device, in bytes.
    pub physical: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// Whether the blocks are unwritten.
    pub unwritten: bool,
}

impl Position {
    pub(crate) fn of(run: &Run) -> Self {
        Position {
            logical: run.logical,
            physical: run.physical,
            length: run.length,
            unwritten: run.flags.contains(ExtentFlags::UNWRITTEN),
        }
    }

    /// Where it ends in the file.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.logical.saturating_add(self.length)
    }

    pub(super) fn encode(&self) -> [u8; RUN] {
        let mut bytes = [0; RUN];
        bytes[..8].copy_from_slice(&self.logical.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.physical.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.length.to_le_bytes());
        bytes[24] = self.unwritten.into();
        bytes
    }
}

/// An administrator's note on a pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note(String);

impl Note {
    /// Most bytes in a note.
    pub const LIMIT: usize = 256;

    /// Makes a note of text of 1 to [`Note::LIMIT`] bytes, with any characters.
    ///
    /// # Errors
    /// The text is empty or too long.
    pub fn new(text: impl Into<String>) -> std::result::Result<Self, NoteError> {
        let text = text.into();
        match text.len() {
            0 => Err(NoteError::Empty),
            1..=Note::LIMIT => Ok(Note(text)),
            length => Err(NoteError::TooLong(length)),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bytes that a note takes in a record.
    pub(super) fn room(note: Option<&Note>) -> usize {
        note.map_or(0, |note| 2 + note.0.len())
    }
}

/// The reason why a text is not a note.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// No text.
    #[error("an empty note")]
    Empty,
    /// This number of bytes, more than [`Note::LIMIT`].
    #[error("{0} bytes, and a note has {limit} at most", limit = Note::LIMIT)]
    TooLong(usize),
}

/// What a record keeps of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordedMap {
    /// Every run.
    Runs(Vec<Position>),
    /// A digest of each span.
    Digests {
        /// Bytes in a span.
        span: u64,
        /// One digest per span, in order.
        digests: Vec<[u8; DIGEST]>,
    },
}

/// The facts that were true when a file was pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The options of the pin.
    pub needs: Needs,
    /// The note on the pin.
    pub note: Option<Note>,
    /// The flags that the pin added; unpinning clears them.
    pub added: Xflags,
    /// The file's identity.
    pub identity: Identity,
    /// The filesystem's UUID.
    pub uuid: Option<[u8; 16]>,
    /// Size in bytes.
    pub size: u64,
    /// The time of the last change to the contents.
    pub mtime: Time,
    /// When it was pinned.
    pub time: Time,
    /// Number of runs.
    pub extents: u64,
    /// The map.
    pub map: RecordedMap,
}

impl Record {
    /// Encodes the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LIMIT);
        bytes.extend(MAGIC);
        let hold = match self.needs.hold {
            Hold::Frozen => 0,
            Hold::None => 1,
            Hold::Writable => 2,
        };
        let form = matches!(self.map, RecordedMap::Digests { .. });
        let version = if self.note.is_some() { VERSION_WITH_NOTE } else { VERSION };
        bytes.extend([version, hold, self.needs.allow.bits(), form.into(), self.needs.dax.into()]);
        bytes.extend(self.added.bits().to_le_bytes());
        bytes.extend(self.identity.inode.to_le_bytes());
        bytes.extend(self.identity.generation.to_le_bytes());
        bytes.extend(self.uuid.unwrap_or_default());
        bytes.extend(self.size.to_le_bytes());
        for time in [self.mtime, self.time] {
            bytes.extend(time.seconds.to_le_bytes());
            bytes.extend(time.nanoseconds.to_le_bytes());
        }
        bytes.extend(self.needs.align.unwrap_or(0).to_le_bytes());
        bytes.extend(self.needs.max_extents.unwrap_or(0).to_le_bytes());
        bytes.extend(self.extents.to_le_bytes());
        if let Some(note) = &self.note {
            bytes.extend(u16::try_from(note.0.len()).unwrap_or(u16::MAX).to_le_bytes());
            bytes.extend(note.0.as_bytes());
        }
        match &self.map {
            RecordedMap::Runs(runs) => bytes.extend(runs.iter().flat_map(Position::encode)),
            RecordedMap::Digests { span, digests } => {
                bytes.extend(span.to_le_bytes());
                bytes.extend(digests.as_flattened());
            }
        }
        bytes.extend(checksum(&bytes));
        bytes
    }

    /// Decodes a record. Everything that [`encode`](Self::encode) could not have written is an error.
    ///
    /// # Errors
    /// The defect of the record, or its version if that is not known here.
    pub fn decode(bytes: &[u8]) -> std::result::Result<Record, DecodeError> {
        let bad = DecodeError::Bad;
        let rest = bytes.strip_prefix(MAGIC.as_slice()).ok_or(bad("does not begin with 'daxfile'"))?;
        let with_note = match rest.first() {
            Some(&VERSION) => false,
            Some(&VERSION_WITH_NOTE) => true,
            Some(&version) => return Err(DecodeError::Version(version)),
            None => return Err(bad("too short")),
        };
        if bytes.len() > LIMIT {
            return Err(bad("too long"));
        }
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(bad("too short"))?;
        if *sum != checksum(body) {
            return Err(bad("its checksum is wrong"));
        }
        let mut reader = Reader(body.get(MAGIC.len() + 1..).unwrap_or_default());
        let [hold, allow, form, dax] = reader.bytes()?;
        let hold = match hold {
            0 => Hold::Frozen,
            1 => Hold::None,
            2 => Hold::Writable,
            _ => return Err(bad("an unknown hold")),
        };
        let allow = Allow::from_bits(allow).ok_or(bad("unknown allowed kinds"))?;
        let added = Xflags::from_bits_retain(u32::from_le_bytes(reader.bytes()?));
        let may_add = match hold {
            Hold::Frozen => Xflags::IMMUTABLE | Xflags::NODEFRAG,
            Hold::Writable => Xflags::NODEFRAG,
            Hold::None => Xflags::empty(),
        };
        if !may_add.contains(added) {
            return Err(bad("flags that no pin adds"));
        }
        let dax = match dax {
            0 => false,
            1 => true,
            _ => return Err(bad("an unknown DAX requirement")),
        };
        let inode = reader.u64()?;
        let identity = Identity { inode, generation: u32::from_le_bytes(reader.bytes()?) };
        let uuid: [u8; 16] = reader.bytes()?;
        let size = reader.u64()?;
        let mtime = reader.time()?;
        let time = reader.time()?;
        let nonzero = |number: u64| (number != 0).then_some(number);
        let align = nonzero(reader.u64()?);
        if !align.is_none_or(needs::is_alignment) {
            return Err(bad("an impossible alignment"));
        }
        let max_extents = nonzero(reader.u64()?);
        let extents = reader.u64()?;
        let note = if with_note { Some(reader.note()?) } else { None };
        let map = match form {
            0 => RecordedMap::Runs(reader.runs()?),
            1 => reader.digests(size)?,
            _ => return Err(bad("an unknown form of map")),
        };
        if matches!(&map, RecordedMap::Runs(runs) if runs.len() as u64 != extents) {
            return Err(bad("a wrong number of runs"));
        }
        Ok(Record {
            needs: Needs { hold, align, max_extents, allow, dax },
            note,
            added,
            identity,
            uuid: (uuid != [0; 16]).then_some(uuid),
            size,
            mtime,
            time,
            extents,
            map,
        })
    }
}

/// The reason why a record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A version that this program does not know.
    #[error("version {0} is not known")]
    Version(u8),
    /// Not a record.
    #[error("{0}")]
    Bad(&'static str),
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> std::result::Result<[u8; N], DecodeError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(DecodeError::Bad("too short"))?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn u64(&mut self) -> std::result::Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn time(&mut self) -> std::result::Result<Time, DecodeError> {
        let time = Time { seconds: i64::from_le_bytes(self.bytes()?), nanoseconds: u32::from_le_bytes(self.bytes()?) };
        if time.nanoseconds < 1_000_000_000 { Ok(time) } else { Err(DecodeError::Bad("an impossible time")) }
    }

    fn note(&mut self) -> std::result::Result<Note, DecodeError> {
        let length = usize::from(u16::from_le_bytes(self.bytes()?));
        let (text, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Bad("too short"))?;
        self.0 = rest;
        let text = std::str::from_utf8(text).map_err(|_| DecodeError::Bad("a note that is not UTF-8"))?;
        Note::new(text).map_err(|_| DecodeError::Bad("a note that is empty or too long"))
    }

    fn runs(&mut self) -> std::result::Result<Vec<Position>, DecodeError> {
        let mut runs: Vec<Position> = Vec::with_capacity(self.0.len() / RUN);
        while !self.0.is_empty() {
            let (logical, physical, length) = (self.u64()?, self.u64()?, self.u64()?);
            let unwritten = match self.bytes()? {
                [0] => false,
                [1] => true,
                _ => return Err(DecodeError::Bad("an unknown state of a run")),
            };
            let ordered = runs.last().is_none_or(|last| last.end() <= logical);
            if !ordered
                || length == 0
                || logical.checked_add(length).is_none()
                || physical.checked_add(length).is_none()
            {
                return Err(DecodeError::Bad("impossible runs"));
            }
            runs.push(Position { logical, physical, length, unwritten });
        }
        Ok(runs)
    }

    fn digests(&mut self, size: u64) -> std::result::Result<RecordedMap, DecodeError> {
        let span = self.u64()?;
        let (digests, rest) = self.0.as_chunks();
        if !span.is_power_of_two() || span < MIN_SPAN || !rest.is_empty() {
            return Err(DecodeError::Bad("impossible spans"));
        }
        if digests.len() as u64 != size.div_ceil(span).max(1) {
            return Err(DecodeError::Bad("a number of digests that does not match its size"));
        }
        Ok(RecordedMap::Digests { span, digests: digests.to_vec() })
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&Sha256::digest(bytes)[..CHECKSUM]);
    sum
}

#[cfg(test)]
mod tests {
    use super::super::digests::Recorder;
    use super::*;

    fn record(runs: u64, limit: usize) -> Record {
        record_with(runs, limit, None)
    }

    fn record_with(runs: u64, limit: usize, note: Option<Note>) -> Record {
        let size = runs * 8192;
        let mut recorder = Recorder::new(size, limit, note.as_ref());
        for n in 0..runs {
            recorder.push(&Run { logical: n * 8192, physical: n * 65536, length: 4096, flags: ExtentFlags::empty() });
        }
        let (extents, map) = recorder.finish();
        Record {
            needs: Needs { hold: Hold::Frozen, align: Some(4096), max_extents: None, allow: Allow::HOLE, dax: true },
            note,
            added: Xflags::IMMUTABLE,
            identity: Identity { inode: 131, generation: 7 },
            uuid: Some([9; 16]),
            size,
            mtime: Time { seconds: -5, nanoseconds: 999_999_999 },
            time: Time { seconds: 1_700_000_000, nanoseconds: 0 },
            extents,
            map,
        }
    }

    #[test]
    fn written_record_fits_and_reads_back() {
        let notes = [None, Note::new("x").ok(), Note::new("ö".repeat(128)).ok()];
        for (limit, note) in [LIMIT, TIGHT_LIMIT].into_iter().flat_map(|limit| notes.clone().map(|note| (limit, note)))
        {
            for runs in [0, 1, 17, 18, 27, 28, 108, 109, 118, 119, 1_000, 100_000] {
                let record = record_with(runs, limit, note.clone());
                let bytes = record.encode();
                assert!(bytes.len() <= limit, "{runs} runs take {} of {limit} bytes", bytes.len());
                assert_eq!(Record::decode(&bytes), Ok(record));
            }
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = record_with(3, LIMIT, Note::new("why\n\x1b").ok()).encode();
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&other).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(Record::decode(&bytes[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn impossible_record_with_a_right_checksum_is_refused() {
        let seal = |mut bytes: Vec<u8>| {
            bytes.truncate(bytes.len() - CHECKSUM);
            let sum = checksum(&bytes);
            bytes.extend(sum);
            bytes
        };
        let good = record(3, LIMIT).encode();
        assert!(Record::decode(&seal(good.clone())).is_ok());
        // (offset, byte): hold, allowed, form, DAX, flags, nanoseconds, run's state, run's length
        for (offset, byte) in [(8, 9), (9, 0x80), (10, 2), (11, 2), (13, 1), (63, 0xff), (124, 2), (117, 0)] {
            let mut bytes = good.clone();
            bytes[offset] = byte;
            if offset == 117 {
                bytes[116..124].fill(0);
            }
            assert!(Record::decode(&seal(bytes)).is_err(), "byte {offset}");
        }
        let mut newer = good.clone();
        newer[7] = 3;
        assert_eq!(Record::decode(&newer), Err(DecodeError::Version(3)));

        // (version, what follows the head) of notes
        for (version, note) in [(2, &b""[..]), (2, b"\0\0"), (2, b"\x01\0\xff"), (2, b"\xff\xff"), (1, b"\x01\0x")] {
            let mut bytes = good.clone();
            bytes[7] = version;
            bytes.splice(HEAD..HEAD, note.iter().copied());
            assert!(Record::decode(&seal(bytes)).is_err(), "{version} {note:?}");
        }
        let mut long = good;
        long[7] = 2;
        long.splice(HEAD..HEAD, [&257u16.to_le_bytes()[..], &[b'x'; 257]].concat());
        assert!(Record::decode(&seal(long)).is_err());
    }

    /// Byte for byte the format from before notes existed, so that a daxfile from then can read it.
    #[test]
    fn a_record_without_a_note_is_of_version_1() {
        let bytes = record(1, LIMIT).encode();
        assert_eq!((bytes[7], bytes.len()), (1, HEAD + RUN + CHECKSUM));
    }
}
