//! The other files that share a file's blocks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::PathBuf;

use libdaxfile::fsmap::{FMR_OWN_UNKNOWN, RecordFlags, Records};
use nix::sys::stat::makedev;
use serde::Serialize;

use crate::error::Result;
use crate::file::open;
use crate::file::target::Target;
use crate::name;

/// Most directory entries to look at when searching for names.
const BOUND: usize = 10_000;

/// Another file that shares some of the blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sharer {
    /// Its inode number.
    pub inode: u64,
    /// One of its names, if it has one in the same directory.
    #[serde(serialize_with = "name::serialize_some")]
    pub path: Option<PathBuf>,
}

/// Number of ranges in one lookup.
const TOGETHER: usize = 4096;

/// Finds the other inodes that own blocks in given ranges of the device.
#[derive(Debug)]
pub struct Sharers<'a> {
    target: &'a Target,
    ranges: Vec<Range<u64>>,
    /// `None` if the filesystem does not record owners, or does not report them to this process: that needs
    /// CAP_SYS_ADMIN.
    owners: Result<Option<BTreeMap<u64, Option<PathBuf>>>>,
}

impl<'a> Sharers<'a> {
    /// Starts with no owners. Queries nothing if the owners are not `wanted`.
    #[must_use]
    pub fn new(target: &'a Target, wanted: bool) -> Self {
        let told = wanted && target.filesystem.records_owners();
        Sharers { target, ranges: Vec::new(), owners: Ok(told.then(BTreeMap::new)) }
    }

    /// Adds a range of shared blocks.
    pub fn add(&mut self, range: Range<u64>) {
        if !matches!(self.owners, Ok(Some(_))) {
            return;
        }
        self.ranges.push(range);
        if self.ranges.len() >= TOGETHER {
            self.look();
        }
    }

    /// Returns the owners found.
    ///
    /// # Errors
    /// An error of GETFSMAP.
    pub fn found(mut self) -> Result<Option<Vec<Sharer>>> {
        self.look();
        let Some(mut owners) = self.owners? else { return Ok(None) };
        owners.remove(&self.target.identity.inode);
        find_names(self.target, &mut owners);
        Ok(Some(owners.into_iter().map(|(inode, path)| Sharer { inode, path }).collect()))
    }

    fn look(&mut self) {
        let ranges = std::mem::take(&mut self.ranges);
        let Ok(Some(owners)) = &mut self.owners else { return };
        match add_owners(self.target, ranges, owners) {
            Ok(true) => {}
            Ok(false) => self.owners = Ok(None),
            Err(error) => self.owners = Err(error),
        }
    }
}

/// Adds the owners of these ranges; returns `false` if the filesystem does not report them.
fn add_owners(target: &Target, ranges: Vec<Range<u64>>, owners: &mut BTreeMap<u64, Option<PathBuf>>) -> Result<bool> {
    for range in merged(ranges) {
        for record in Records::new(target, target.device(), range.start, range.end - range.start) {
            let record = record?;
            match record.flags.contains(RecordFlags::SPECIAL_OWNER) {
                true if record.owner == FMR_OWN_UNKNOWN => return Ok(false),
                true => {}
                false => _ = owners.insert(record.owner, None),
            }
        }
    }
    Ok(true)
}

/// Merges ranges: one query covers everything that is adjacent on the device.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// XFS leads from an inode to its name only by parent pointers, which few filesystems have. So this searches the file's
/// own directory.
fn find_names(target: &Target, owners: &mut BTreeMap<u64, Option<PathBuf>>) {
    let (major, minor) = target.device();
    let Ok(parent) = open::directory(target.parent()) else { return };
    // If a file is mounted over another one, the inode numbers in its directory mean something else.
    let here = makedev(major.into(), minor.into());
    if parent.metadata().map(|metadata| metadata.dev()).ok() != Some(here) {
        return;
    }
    let Ok(entries) = std::fs::read_dir(format!("/proc/self/fd/{}", parent.as_raw_fd())) else { return };
    for entry in entries.take(BOUND).flatten() {
        if let Some(path) = owners.get_mut(&entry.ino()) {
            *path = Some(target.parent().join(entry.file_name()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::merged;

    #[test]
    fn ranges_that_touch_become_one() {
        assert_eq!(merged(vec![8..12, 0..4, 4..6, 10..11, 20..30]), [0..6, 8..12, 20..30]);
    }
}
