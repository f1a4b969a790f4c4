//! What the caller asks of a file's map: the options that `check`, `prepare` and `pin` share.

use std::iter::zip;

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

impl Needs {
    /// The options of the command line that ask for this, each with its value, as far as they are not the defaults.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let default = Needs::default().all();
        zip(self.all(), default).filter(|(one, default)| one != default).map(|(one, _)| one).collect()
    }

    /// The options that differ: those that ask for this, then those that ask for the other.
    #[must_use]
    pub fn differences(&self, other: &Needs) -> (Vec<String>, Vec<String>) {
        zip(self.all(), other.all()).filter(|(one, other)| one != other).unzip()
    }

    fn all(&self) -> [String; 5] {
        let valued = |option: &str, value: Option<u64>| match value {
            Some(value) => format!("{option} {value}"),
            None => format!("no {option}"),
        };
        let allow = self.allow.names().join(",");
        [
            format!("--hold {}", self.hold.name()),
            valued("--align", self.align),
            valued("--max-extents", self.max_extents),
            if allow.is_empty() { "no --allow".into() } else { format!("--allow {allow}") },
            if self.dax { "--dax".into() } else { "no --dax".into() },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_ask_for_the_same_needs() {
        assert!(Needs::default().options().is_empty());
        let needs = Needs {
            hold: Hold::None,
            align: Some(65536),
            max_extents: Some(3),
            allow: Allow::HOLE | Allow::SHARED,
            dax: true,
        };
        let options = ["--hold none", "--align 65536", "--max-extents 3", "--allow hole,shared", "--dax"];
        assert_eq!(needs.options(), options);
        let ours = Needs { align: None, ..needs };
        assert_eq!(needs.differences(&ours), (vec!["--align 65536".to_owned()], vec!["no --align".to_owned()]));
    }
}
