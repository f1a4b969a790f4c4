//! Manifests: the output of `stat --json --extents`, read back to compare files with it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use libdaxfile::fiemap::{Extent, ExtentFlags};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::file::map::Joiner;
use crate::file::target::Identity;
use crate::name::quote;
use crate::pin::record::{Position, RecordedMap};
use crate::status::Status;

/// The files of a manifest.
#[derive(Debug)]
pub struct Manifest {
    entries: Vec<Entry>,
    /// Every entry with the same inode number and generation: snapshots and copies of a filesystem share both.
    by_identity: BTreeMap<Identity, Vec<usize>>,
    /// The first entry of each path.
    by_path: BTreeMap<PathBuf, usize>,
}

/// One file of a manifest.
#[derive(Debug)]
pub struct Entry {
    /// The name it was shown under.
    pub path: PathBuf,
    /// The file's identity, if `stat` could read it.
    pub identity: Option<Identity>,
    /// The UUID of its filesystem, as recorded.
    pub uuid: Option<[u8; 16]>,
    /// Size in bytes.
    pub size: u64,
    /// Its runs; `None` without `--extents`.
    pub map: Option<RecordedMap>,
}

#[derive(Deserialize)]
struct RawVersion {
    schema_version: u64,
}

#[derive(Deserialize)]
struct RawManifest {
    schema_version: u64,
    files: Vec<RawEntry>,
}

#[derive(Deserialize)]
struct RawEntry {
    path: RawPath,
    file: Option<RawFile>,
    extents: Option<Vec<RawExtent>>,
}

enum RawPath {
    Text(String),
    Bytes(String),
}

impl<'de> Deserialize<'de> for RawPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(PathVisitor)
    }
}

/// serde's untagged enums first collect the whole value, at many times its length.
struct PathVisitor;

impl<'de> Visitor<'de> for PathVisitor {
    type Value = RawPath;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a path, or its bytes in base64")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<RawPath, E> {
        Ok(RawPath::Text(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<RawPath, A::Error> {
        #[derive(Deserialize)]
        struct Raw {
            bytes: String,
        }
        Raw::deserialize(MapAccessDeserializer::new(map)).map(|raw| RawPath::Bytes(raw.bytes))
    }
}

#[derive(Deserialize)]
struct RawFile {
    inode: u64,
    generation: u32,
    filesystem_uuid: Option<String>,
    size: u64,
}

#[derive(Deserialize)]
struct RawExtent {
    logical: u64,
    physical: u64,
    length: u64,
    raw_flags: u32,
}

/// The reason why a text is not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Not of the form that `stat --json` writes.
    #[error("{}", describe(.0))]
    Form(serde_json::Error),
    /// A format of another version.
    #[error("schema_version {0} is not known")]
    UnknownVersion(u64),
    /// A path whose bytes are not in base64.
    #[error("{0}")]
    Path(data_encoding::DecodeError),
    /// Extents that no file can have.
    #[error("{}: {defect}", quote(path))]
    Extents {
        /// The path of the file.
        path: PathBuf,
        /// The defect.
        defect: &'static str,
    },
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// The defect of the manifest.
    pub fn parse(json: &[u8]) -> std::result::Result<Self, ParseError> {
        let raw: RawManifest = serde_json::from_slice(json).map_err(|error| match serde_json::from_slice(json) {
            // In another version everything else may differ, too.
            Ok(RawVersion { schema_version }) if schema_version != 1 => ParseError::UnknownVersion(schema_version),
            _ => ParseError::Form(error),
        })?;
        if raw.schema_version != 1 {
            return Err(ParseError::UnknownVersion(raw.schema_version));
        }
        let entries = raw.files.into_iter().map(Entry::new).collect::<std::result::Result<Vec<_>, _>>()?;
        let mut by_identity = BTreeMap::<_, Vec<usize>>::new();
        let mut by_path = BTreeMap::new();
        for (index, entry) in entries.iter().enumerate() {
            if let Some(identity) = entry.identity {
                by_identity.entry(identity).or_default().push(index);
            }
            by_path.entry(relative(&entry.path)).or_insert(index);
        }
        Ok(Manifest { entries, by_identity, by_path })
    }

    /// The files, in the order of the manifest.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Finds a file's entry: by inode, generation and the UUID of its filesystem, else by its path below `root`. If
    /// several entries agree in the first three, returns the one with that path.
    #[must_use]
    pub fn find(&self, file: Option<(Identity, Option<[u8; 16]>)>, path: &Path, root: Option<&Path>) -> Option<usize> {
        let path = plain(path);
        let path = relative(root.and_then(|root| path.strip_prefix(plain(root)).ok()).unwrap_or(&path));
        let alike = file.and_then(|(identity, _)| self.by_identity.get(&identity)).map_or(&[][..], Vec::as_slice);
        let uuid = file.and_then(|(_, uuid)| uuid);
        let named = |index: &&usize| relative(&self.entries[**index].path) == path;
        let of_the_filesystem = |index: &&usize| match (self.entries[**index].uuid, uuid) {
            (Some(was), Some(now)) => was == now,
            _ => true,
        };
        let same = || alike.iter().filter(of_the_filesystem);
        let found = same().find(named).or_else(|| alike.iter().find(named)).or_else(|| same().next());
        found.or_else(|| self.by_path.get(&path)).copied()
    }
}

impl Entry {
    fn new(raw: RawEntry) -> std::result::Result<Self, ParseError> {
        let path = match raw.path {
            RawPath::Text(text) => PathBuf::from(text),
            RawPath::Bytes(bytes) => {
                let bytes = data_encoding::BASE64.decode(bytes.as_bytes()).map_err(ParseError::Path)?;
                PathBuf::from(OsString::from_vec(bytes))
            }
        };
        let identity = raw.file.as_ref().map(|file| Identity { inode: file.inode, generation: file.generation });
        let map = match raw.extents.map(runs).transpose() {
            Ok(map) => map,
            Err(defect) => return Err(ParseError::Extents { path, defect }),
        };
        let size = raw.file.as_ref().map_or(0, |file| file.size);
        let uuid = raw.file.and_then(|file| Uuid::parse_str(&file.filesystem_uuid?).ok()).map(Uuid::into_bytes);
        Ok(Entry { path, identity, uuid, size, map })
    }

    /// The path where its file should be.
    #[must_use]
    pub fn path_below(&self, root: Option<&Path>) -> PathBuf {
        root.map_or_else(|| self.path.clone(), |root| root.join(relative(&self.path)))
    }

    /// Refuses a path that leads out of `--root`: a manifest may come from elsewhere.
    ///
    /// # Errors
    /// Status 2 if the path leads out of `--root`.
    pub fn require_below_root(&self, root: Option<&Path>) -> Result<()> {
        let climbs = root.is_some() && self.path.components().any(|component| component == Component::ParentDir);
        if climbs { Err(Error::new(Status::Failed, "a path with '..' in the manifest")) } else { Ok(()) }
    }
}

/// Describes the defect of a manifest. The parser repeats unexpected input, however long that is.
fn describe(error: &serde_json::Error) -> String {
    const LONGEST: usize = 300;
    let text = error.to_string();
    if text.len() <= LONGEST {
        return text;
    }
    format!("not the output of stat --json --extents, at line {} column {}", error.line(), error.column())
}

/// The path without `.` components; components() keeps a leading one.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

fn relative(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir)).collect()
}

fn runs(extents: Vec<RawExtent>) -> std::result::Result<RecordedMap, &'static str> {
    let mut joiner = Joiner::by_position();
    let mut runs = Vec::new();
    let mut end = 0;
    for raw in extents {
        let ordered = raw.length > 0 && raw.logical >= end;
        end = raw.logical.checked_add(raw.length).filter(|_| ordered).ok_or("extents out of order")?;
        raw.physical.checked_add(raw.length).ok_or("an impossible extent")?;
        let flags = ExtentFlags::from_bits_retain(raw.raw_flags);
        let extent = Extent { logical: raw.logical, physical: raw.physical, length: raw.length, flags };
        runs.extend(joiner.push(extent));
    }
    runs.extend(joiner.finish());
    Ok(RecordedMap::Runs(runs.iter().map(Position::of).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused() {
        for json in [
            "",
            "[]",
            r#"{"schema_version": 2, "files": []}"#,
            r#"{"schema_version": 1, "files": [{"path": 7}]}"#,
            r#"{"schema_version": 1, "files": [{"path": {"bytes": "!"}}]}"#,
            r#"{"schema_version": 1, "files": [{"path": "a", "extents": [{"logical": 0, "physical": 0, "length": 0, "raw_flags": 0}]}]}"#,
            r#"{"schema_version": 1, "files": [{"path": "a", "extents": [{"logical": 18446744073709551615, "physical": 0, "length": 1, "raw_flags": 0}]}]}"#,
            r#"{"schema_version": 1, "files": [{"path": "a", "extents": [{"logical": 0, "physical": 18446744073709551615, "length": 1, "raw_flags": 0}]}]}"#,
        ] {
            assert!(Manifest::parse(json.as_bytes()).is_err(), "{json}");
        }
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn a_file_is_found_by_identity_before_path() {
        let json = br#"{"schema_version": 1, "files": [
            {"path": "/a", "file": {"inode": 1, "generation": 1, "size": 0}, "extents": []},
            {"path": "./b", "file": {"inode": 2, "generation": 1, "size": 0}, "extents": []},
            {"path": "b", "file": {"inode": 2, "generation": 1, "size": 0}, "extents": []}]}"#;
        let manifest = Manifest::parse(json).unwrap();
        let identity = |inode| Some((Identity { inode, generation: 1 }, None));
        assert_eq!(manifest.find(identity(2), Path::new("/a"), None), Some(1));
        assert_eq!(manifest.find(identity(9), Path::new("/mnt/a"), Some(Path::new("/mnt"))), Some(0));
        assert_eq!(manifest.find(None, Path::new("b"), None), Some(1));
        assert_eq!(manifest.find(identity(2), Path::new("/elsewhere"), None), Some(1));
        assert_eq!(manifest.find(identity(9), Path::new("c"), None), None);
    }
}
