//! What the caller asks of a file's map: the options that `check`, `prepare` and `pin` share.

use serde::Serialize;
use strum::IntoStaticStr;

/// What keeps a map from changing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[serde(into = "&'static str")]
pub enum Hold {
    /// The IMMUTABLE inode flag.
    #[default]
    Frozen,
    /// BPF LSM programs: the contents may change in place.
    Writable,
    /// Nothing: drift is found, not prevented.
    None,
}

impl Hold {
    /// Every hold.
    pub const ALL: [Hold; 3] = [Hold::Frozen, Hold::Writable, Hold::None];

    /// The name that `--hold` takes.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

bitflags::bitflags! {
    /// Kinds of blockers that the caller puts up with, so that the map is pinned as it stands.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Allow: u8 {
        /// Ranges without blocks.
        const HOLE = 1;
        /// Blocks never written.
        const UNWRITTEN = 2;
        /// Blocks that other files have, too.
        const SHARED = 4;
        /// A file without contents.
        const EMPTY = 8;
    }
}

impl Allow {
    /// Each kind with the name that `--allow` takes.
    pub const KINDS: [(Allow, &'static str); 4] =
        [(Allow::HOLE, "hole"), (Allow::UNWRITTEN, "unwritten"), (Allow::SHARED, "shared"), (Allow::EMPTY, "empty")];

    /// The names of those that are set.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        Allow::KINDS.iter().filter(|(kind, _)| self.contains(*kind)).map(|(_, name)| *name).collect()
    }
}

/// The needs of one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// What is to hold the map.
    pub hold: Hold,
    /// Every piece of so many bytes must be one extent that starts at a multiple of it.
    pub align: Option<u64>,
    /// The map may have no more extents than this.
    pub max_extents: Option<u64>,
    /// What is put up with.
    pub allow: Allow,
    /// The file must be accessed as DAX, and the kernel grant `MAP_SYNC`.
    pub dax: bool,
}
