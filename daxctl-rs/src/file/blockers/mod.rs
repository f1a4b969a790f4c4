//! Blockers: each reason that prevents a pin, where it is, and what removes it.

mod remedies;
mod scan;

pub(crate) use remedies::turn_extents_on;
pub use scan::{Beside, Scan, unsupported};

use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};

use super::dax::Lack;
use super::sharers::Sharer;
use crate::needs::Allow;
use crate::status::Status;

/// Reasons why a map cannot be pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
#[serde(into = "&'static str")]
pub enum Kind {
    /// Ranges without blocks: the first store into one allocates.
    Hole,
    /// Blocks never written: the first store changes their state.
    Unwritten,
    /// Blocks that other files have, too: the first store is copied elsewhere.
    Shared,
    /// Blocks not allocated yet.
    Delalloc,
    /// Bytes kept among metadata.
    Inline,
    /// Bytes that are not on the device as they are read: compressed, say.
    Encoded,
    /// Bytes encrypted by the filesystem.
    Encrypted,
    /// Extents that begin or end within a block.
    Unaligned,
    /// Extents at no known place.
    UnknownAddress,
    /// Blocks mapped by pointers instead of extents.
    Merged,
    /// More extents than `--max-extents`.
    TooManyExtents,
    /// Pieces of `--align` bytes that are not one extent starting at a multiple of it.
    Misaligned,
    /// Copy-on-write staging: the next write to a written block goes elsewhere.
    Staging,
    /// Blocks past the end of the file, which the filesystem may free at any time.
    PastEof,
    /// No contents, so no map.
    Empty,
    /// Made immutable by somebody else.
    Immutable,
    /// Append-only.
    AppendOnly,
    /// An active swapfile.
    Swapfile,
    /// A file that disk quotas are kept in, or of the form of one: the kernel writes to it whatever its flags.
    QuotaFile,
    /// Sealed by fs-verity.
    Verity,
    /// On the realtime device of XFS, and which one that is cannot be told.
    Realtime,
    /// Not accessed as DAX.
    NotDax,
    /// On a device, or a mount, that has no DAX.
    DaxUnavailable,
    /// Accessed as DAX, without `MAP_SYNC`.
    NoMapSync,
    /// On f2fs, which has not pinned it, and so may move its blocks.
    F2fsUnpinned,
    /// A filesystem that does not leave blocks where they are, or that cannot hold a map.
    UnsupportedFilesystem,
}

impl Kind {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The exit status of a file that has it.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Kind::UnsupportedFilesystem | Kind::DaxUnavailable | Kind::NoMapSync => Status::Unable,
            Kind::Swapfile => Status::Busy,
            _ => Status::No,
        }
    }

    /// Which blocker a missing part of DAX is.
    fn of_dax(lack: &Lack) -> Self {
        match lack {
            Lack::Device | Lack::BlockSize { .. } | Lack::Never(_) => Kind::DaxUnavailable,
            Lack::Flag | Lack::Stale | Lack::Excepted => Kind::NotDax,
            Lack::MapSync => Kind::NoMapSync,
        }
    }

    fn allowed_by(self, allow: Allow) -> bool {
        match self {
            Kind::Hole => allow.contains(Allow::HOLE),
            Kind::Unwritten => allow.contains(Allow::UNWRITTEN),
            // Where the map is pinned with its shared extents, stores are known to go elsewhere.
            Kind::Shared | Kind::Staging => allow.contains(Allow::SHARED),
            Kind::Empty => allow.contains(Allow::EMPTY),
            _ => false,
        }
    }
}

/// A piece of a file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Range {
    /// Where it starts.
    pub logical: u64,
    /// How long it is.
    pub length: u64,
    /// By how much its place is off, modulo the alignment that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off: Option<u64>,
}

/// One reason, everywhere it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blocker {
    /// Which reason.
    pub kind: Kind,
    /// More about it.
    pub detail: String,
    /// Where, adjacent ranges joined; empty where it is the whole file's.
    pub ranges: Vec<Range>,
    /// How many ranges there are, where not all are listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range_count: Option<u64>,
    /// Bytes in all ranges.
    pub bytes: u64,
    /// What removes it: a command where there is one.
    pub remedy: String,
    /// What the caller may ask for instead: an option.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alternative: Option<String>,
    /// Who else has the blocks, where the filesystem tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharers: Option<Vec<Sharer>>,
}
