//! The caller's requirements on a file's map: the options that `check`, `prepare` and `pin` share.

use std::iter::zip;

use serde::Serialize;
use strum::IntoStaticStr;

/// The method that keeps a map from changing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[serde(into = "&'static str")]
pub enum Hold {
    /// The IMMUTABLE inode flag.
    #[default]
    Frozen,
    /// BPF LSM programs; the contents may change in place.
    Writable,
    /// Nothing: `verify` detects drift, but nothing prevents it.
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
    /// Kinds of blockers that the caller accepts, so that pin holds the map as it is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Allow: u8 {
        /// Ranges without blocks.
        const HOLE = 1;
        /// Unwritten blocks.
        const UNWRITTEN = 2;
        /// Blocks shared with other files.
        const SHARED = 4;
        /// A file without contents.
        const EMPTY = 8;
    }
}

impl Allow {
    /// Each kind with the name that `--allow` takes.
    pub const KINDS: [(Allow, &'static str); 4] =
        [(Allow::HOLE, "hole"), (Allow::UNWRITTEN, "unwritten"), (Allow::SHARED, "shared"), (Allow::EMPTY, "empty")];

    /// The names of the kinds that are set.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        Allow::KINDS.iter().filter(|(kind, _)| self.contains(*kind)).map(|(_, name)| *name).collect()
    }
}

/// Whether a number of bytes can be an alignment: a power of two, at least a sector.
#[must_use]
pub fn is_alignment(bytes: u64) -> bool {
    bytes.is_power_of_two() && bytes >= 512
}

/// The requirements of one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// The hold to use.
    pub hold: Hold,
    /// Each piece of this many bytes must be one extent aligned to that size.
    pub align: Option<u64>,
    /// The most extents that the map may have.
    pub max_extents: Option<u64>,
    /// Accepted blockers.
    pub allow: Allow,
    /// The file must be accessed as DAX, and the kernel must grant `MAP_SYNC`.
    pub dax: bool,
}

impl Needs {
    /// The command-line options for these requirements, each with its value, without those that have their default.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let default = Needs::default().all();
        zip(self.all(), default).filter(|(one, default)| one != default).map(|(one, _)| one).collect()
    }

    /// The options that differ: first those for these requirements, then those for the others.
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
