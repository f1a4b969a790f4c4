//! Blockers: each reason that prevents a pin, its place, and its remedy.

mod remedies;
mod scan;

pub(crate) use remedies::turn_extents_on;
pub use scan::{Context, Scan, unsupported};

use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};

use super::dax;
use super::sharers::Sharer;
use crate::bounded::BoundedList;
use crate::needs::Allow;
use crate::status::Status;

/// Reasons why a map cannot be pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
#[serde(into = "&'static str")]
pub enum Kind {
    /// Ranges without blocks: the first store into one allocates blocks.
    Hole,
    /// Unwritten blocks: the first store changes their state.
    Unwritten,
    /// Blocks shared with other files: the first store goes to a copy elsewhere.
    Shared,
    /// Blocks not allocated yet.
    Delalloc,
    /// Bytes stored among the metadata.
    Inline,
    /// Bytes that are stored in another form than they are read in, for example compressed.
    Encoded,
    /// Bytes encrypted by the filesystem.
    Encrypted,
    /// Extents that begin or end within a block.
    Unaligned,
    /// Extents at no known physical address.
    UnknownAddress,
    /// Blocks mapped by pointers instead of extents.
    Merged,
    /// More extents than `--max-extents`.
    TooManyExtents,
    /// Pieces of `--align` bytes that are not one extent aligned to that size.
    Misaligned,
    /// Copy-on-write staging: the next write to a written block goes elsewhere.
    Staging,
    /// Blocks past the end of the file, which the filesystem may free at any time.
    PastEof,
    /// No contents, so there is no map.
    Empty,
    /// Made immutable by another program or user.
    Immutable,
    /// Append-only.
    AppendOnly,
    /// An active swapfile.
    Swapfile,
    /// A file that stores disk quotas, or has the format of one: the kernel writes to it whatever its flags.
    QuotaFile,
    /// Sealed by fs-verity.
    Verity,
    /// On the realtime device of XFS, and the tool cannot determine which device that is.
    Realtime,
    /// Not accessed as DAX.
    NotDax,
    /// On a device, or a mount, that has no DAX.
    DaxUnavailable,
    /// Accessed as DAX, without `MAP_SYNC`.
    NoMapSync,
    /// On f2fs, which has not pinned the file, and so may move its blocks.
    F2fsUnpinned,
    /// A filesystem that does not leave blocks in place, or on which no hold works.
    UnsupportedFilesystem,
}

impl Kind {
    /// Its name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Its name for people.
    #[must_use]
    pub fn words(self) -> String {
        self.name().replace('_', " ").replace("eof", "EOF").replace("dax", "DAX")
    }

    /// The exit status for a file with this blocker.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Kind::UnsupportedFilesystem | Kind::DaxUnavailable | Kind::NoMapSync => Status::Unable,
            Kind::Swapfile => Status::Busy,
            _ => Status::No,
        }
    }

    /// The blocker for an unmet requirement of DAX.
    fn from_dax(missing: &dax::Missing) -> Self {
        match missing {
            dax::Missing::Device | dax::Missing::BlockSize { .. } | dax::Missing::Never(_) => Kind::DaxUnavailable,
            dax::Missing::Flag | dax::Missing::Stale | dax::Missing::Excepted => Kind::NotDax,
            dax::Missing::MapSync => Kind::NoMapSync,
        }
    }

    fn allowed_by(self, allow: Allow) -> bool {
        match self {
            Kind::Hole => allow.contains(Allow::HOLE),
            Kind::Unwritten => allow.contains(Allow::UNWRITTEN),
            // If the map is pinned with its shared extents, the user accepts that stores go elsewhere.
            Kind::Shared | Kind::Staging => allow.contains(Allow::SHARED),
            Kind::Empty => allow.contains(Allow::EMPTY),
            _ => false,
        }
    }
}

/// A range of a file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Range {
    /// Where it starts.
    pub logical: u64,
    /// How long it is.
    pub length: u64,
    /// The remainder of its physical position modulo the requested alignment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off: Option<u64>,
}

/// The ranges of a blocker; none if it concerns the whole file.
#[derive(Debug, Default)]
struct Where {
    ranges: BoundedList<Range>,
    bytes: u64,
}

/// One blocker, with all its ranges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blocker {
    /// Which reason.
    pub kind: Kind,
    /// More about it.
    pub detail: String,
    /// Its ranges, with adjacent ones joined; empty if it concerns the whole file.
    pub ranges: Vec<Range>,
    /// The number of ranges, if the list is incomplete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range_count: Option<u64>,
    /// Bytes in all ranges.
    pub bytes: u64,
    /// The remedy: a command if there is one.
    pub remedy: String,
    /// An option that the caller may use instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alternative: Option<String>,
    /// The other files that share the blocks, if the filesystem reports them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharers: Option<Vec<Sharer>>,
}
