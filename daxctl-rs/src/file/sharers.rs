//! Who else has a file's blocks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::PathBuf;

use libdaxfile::fsmap::{FMR_OWN_UNKNOWN, RecordFlags, Records};
use nix::sys::stat::makedev;
use serde::Serialize;

use crate::error::Result;
use crate::file::target::Target;
use crate::name;

/// Directory entries that are looked at for names.
const BOUND: usize = 10_000;

/// Another file that has some of the blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sharer {
    /// Its inode number.
    pub inode: u64,
    /// A name of it, if it has one in the same directory.
    #[serde(serialize_with = "name::serialize_some")]
    pub path: Option<PathBuf>,
}

/// Names the inodes that own blocks in these ranges of the device besides the file itself. `None` where the filesystem
/// keeps no owners, or does not tell them to us: it takes CAP_SYS_ADMIN.
///
/// # Errors
/// Those of GETFSMAP.
pub fn find(target: &Target, device: (u32, u32), ranges: Vec<Range<u64>>) -> Result<Option<Vec<Sharer>>> {
    if !target.filesystem.records_owners() {
        return Ok(None);
    }
    let mut owners = BTreeMap::new();
    for range in merged(ranges) {
        for record in Records::new(target, device, range.start, range.end - range.start) {
            let record = record?;
            match record.flags.contains(RecordFlags::SPECIAL_OWNER) {
                true if record.owner == FMR_OWN_UNKNOWN => return Ok(None),
                true => {}
                false => _ = owners.insert(record.owner, None),
            }
        }
    }
    owners.remove(&target.identity.inode);
    find_names(target, device, &mut owners);
    Ok(Some(owners.into_iter().map(|(inode, path)| Sharer { inode, path }).collect()))
}

/// One query serves all that lies together on the device.
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

/// XFS has no way from an inode to its name but parent pointers, which few have: a look around has to do.
fn find_names(target: &Target, (major, minor): (u32, u32), owners: &mut BTreeMap<u64, Option<PathBuf>>) {
    let parent = target.parent();
    // A file can be mounted over another: then its directory's inode numbers mean something else.
    let here = makedev(major.into(), minor.into());
    if std::fs::metadata(parent).map(|metadata| metadata.dev()).ok() != Some(here) {
        return;
    }
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.take(BOUND).flatten() {
        if let Some(path) = owners.get_mut(&entry.ino()) {
            *path = Some(entry.path());
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
