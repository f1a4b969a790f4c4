//! Copy-on-write staging of XFS: blocks that wait to replace written ones, and that no map shows.
//!
//! When one block of a file was shared, then written, and is no longer shared, FIEMAP shows no trace of this. But the
//! file keeps a preallocation of 128 KiB by default, and the next write to a neighbouring block goes there. `st_blocks`
//! counts these blocks (`xfs_inode.i_nblocks`). So the staging is what `st_blocks` counts beyond the map, the
//! attributes and the map's own btree. The btree's size is known exactly where GETFSMAP names owners, and within bounds
//! elsewhere.

use libdaxfile::fiemap::{Extents, Request};
use libdaxfile::fsmap::{FMR_OWN_UNKNOWN, RecordFlags, Records};
use libdaxfile::fsxattr::Xflags;
use serde::Serialize;

use crate::error::Result;
use crate::file::target::{InodeState, Target};

/// What this tool knows about a file's staging.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Staging {
    /// There is none.
    None,
    /// There is some.
    Found {
        /// At least this many bytes.
        bytes: u64,
    },
    /// The size of the map's btree is not known, so there may be some.
    CannotTell {
        /// At most this many bytes.
        bytes: u64,
    },
}

/// Looks for staging; returns `None` where the filesystem has no staging. `mapped` is the sum of the map's extents,
/// including blocks past EOF. `before` is the state of the inode before the map was read. XFS keeps the owners of
/// realtime blocks elsewhere, and this function does not read them.
///
/// # Errors
/// An error of statx(2), FIEMAP or GETFSMAP.
pub fn detect(target: &Target, before: &InodeState, mapped: u64) -> Result<Option<Staging>> {
    let Some(geometry) = target.filesystem.reflinking_xfs() else { return Ok(None) };
    if target.filesystem.overwrites_in_place(&before.statx) {
        return Ok(Some(Staging::None));
    }
    // Reading the map wrote back the dirty pages.
    let statx = target.statx()?;
    if statx.allocated <= mapped {
        return Ok(Some(Staging::None));
    }
    let mut attributes = 0u64;
    for extent in Extents::new(target, 0..u64::MAX, Request::SYNC | Request::XATTR) {
        attributes = attributes.saturating_add(extent?.length);
    }
    let extents = target.inode_state()?.fsxattr.map_or(0, |fsxattr| u64::from(fsxattr.nextents));
    let (least, most) = btree(extents, geometry.block_size.into(), geometry.inode_size.into());
    let unexplained = statx.allocated.saturating_sub(mapped).saturating_sub(attributes);
    let verdict = if unexplained > most {
        Staging::Found { bytes: unexplained - most }
    } else if unexplained == least {
        Staging::None
    } else {
        let realtime = before.xflags().contains(Xflags::REALTIME);
        let owned = if realtime { None } else { owned(target, statx.device, statx.inode)? };
        match owned {
            Some(owned) if owned == statx.allocated => Staging::None,
            Some(owned) if owned < statx.allocated => Staging::Found { bytes: statx.allocated - owned },
            _ => Staging::CannotTell { bytes: unexplained.saturating_sub(least) },
        }
    };
    // Another process changed the file meanwhile, so the numbers belong to different moments.
    let moved = target.statx()?.allocated != statx.allocated;
    Ok(Some(if moved { Staging::CannotTell { bytes: unexplained } } else { verdict }))
}

/// Bytes that the inode owns on the device, if the filesystem records owners and reports them to this process.
fn owned(target: &Target, device: (u32, u32), inode: u64) -> Result<Option<u64>> {
    let mut owned = 0u64;
    for record in Records::new(target, device, 0, u64::MAX) {
        let record = record?;
        let special = record.flags.contains(RecordFlags::SPECIAL_OWNER);
        if special && record.owner == FMR_OWN_UNKNOWN {
            return Ok(None);
        }
        if !special && record.owner == inode {
            owned = owned.saturating_add(record.length);
        }
    }
    Ok(Some(owned))
}

/// Least and most bytes of the btree that maps `extents` extents (`fs/xfs/libxfs/xfs_bmap_btree.c`).
fn btree(extents: u64, block_size: u64, inode_size: u64) -> (u64, u64) {
    /// `XFS_BMBT_BLOCK_LEN` with checksums.
    const HEAD: u64 = 72;
    /// Bytes of an extent record, and of a key with its pointer.
    const RECORD: u64 = 16;
    /// The inode's core of version 3.
    const CORE: u64 = 176;
    /// Extents, or pointers, that always fit into the inode (`MINDBTPTRS`).
    const ALWAYS_FIT: u64 = 3;
    let full = ((block_size.saturating_sub(HEAD)) / RECORD).max(2);
    let half = full / 2;
    let may_fit = inode_size.saturating_sub(CORE) / RECORD;
    let blocks = |per_block: u64, fit: u64, round_up: bool| {
        let (mut level, mut total) = (extents, 0);
        while level > fit {
            level = if round_up { level.div_ceil(per_block) } else { (level / per_block).max(1) };
            total += level;
            if level == 1 {
                break;
            }
        }
        total
    };
    (blocks(full, may_fit, true) * block_size, blocks(half, ALWAYS_FIT, false) * block_size)
}

#[cfg(test)]
mod tests {
    use super::btree;

    #[test]
    fn the_btree_is_bounded_as_measured() {
        let blocks = |extents| {
            let (least, most) = btree(extents, 4096, 512);
            (least / 4096, most / 4096)
        };
        assert_eq!(blocks(3), (0, 0));
        assert_eq!(blocks(11), (0, 1));
        assert_eq!(blocks(21), (0, 1));
        assert_eq!(blocks(250), (1, 2));
        let (least, most) = blocks(20_000);
        assert_eq!(least, 80 + 1);
        assert!(most >= 160, "{most}");
    }
}
