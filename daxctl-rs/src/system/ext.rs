//! ext2, ext3 and ext4. They share a magic number; the feature `extent` decides whether extents can map files.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use libdaxfile::{inode, statx};
use nix::sys::stat::makedev;

use super::mounts::Mount;
use crate::error::{Result, if_known};

/// Whether the feature `extent` is on in the filesystem of an open file or directory. `None` if nothing reports it.
///
/// # Errors
/// An error of statx(2), or of reading the inode's flags.
pub(super) fn has_extents(fd: impl AsFd) -> Result<Option<bool>> {
    // Every file created with the feature has this flag (`ext4_ext_tree_init()`), and no file created without it.
    if if_known(inode::is_mapped_by_extents(&fd))? == Some(true) {
        return Ok(Some(true));
    }
    if let Some(superblock) = Superblock::of(&fd)? {
        return Ok(Some(superblock.incompatible & Superblock::EXTENTS != 0));
    }
    // A filesystem mounted as ext2 or ext3 does not have the feature (`ext3_feature_set_ok()`).
    let mount = Mount::of(&fd)?;
    Ok(mount.filter(|mount| matches!(mount.filesystem.as_str(), "ext2" | "ext3")).map(|_| false))
}

/// Returns how many bytes of attributes fit into an inode, and whether the feature `ea_inode` gives attributes their
/// own inodes. `None` if nothing reports it.
///
/// # Errors
/// An error of statx(2).
pub(super) fn room_for_attributes(fd: impl AsFd) -> Result<Option<(usize, bool)>> {
    Ok(Superblock::of(fd)?
        .map(|superblock| (superblock.room_for_attributes(), superblock.incompatible & Superblock::EA_INODE != 0)))
}

/// The fields of `struct ext4_super_block` that this module uses.
struct Superblock {
    incompatible: u32,
    inode_size: usize,
    extra_inode_size: usize,
}

impl Superblock {
    const EXTENTS: u32 = 0x40;
    const EA_INODE: u32 = 0x400;

    /// Reads the superblock, if the caller may read the device.
    fn of(fd: impl AsFd) -> Result<Option<Self>> {
        let (major, minor) = statx::get(&fd)?.device;
        let by_number = PathBuf::from(format!("/dev/block/{major}:{minor}"));
        let names = [Some(by_number), Mount::of(&fd)?.map(|mount| mount.source)];
        let number = makedev(major.into(), minor.into());
        Ok(names.into_iter().flatten().find_map(|name| Superblock::read(&name, number)))
    }

    fn read(name: &Path, number: u64) -> Option<Self> {
        let metadata = std::fs::metadata(name).ok()?;
        // Opens nothing but the block device: opening has side effects on some other files.
        if !metadata.file_type().is_block_device() || metadata.rdev() != number {
            return None;
        }
        let mut block = [0; 0x160];
        File::open(name).ok()?.read_exact_at(&mut block, 1024).ok()?;
        let short = |at: usize| Some(u16::from_le_bytes(block.get(at..at + 2)?.try_into().ok()?));
        let superblock = Superblock {
            incompatible: u32::from_le_bytes(block.get(0x60..0x64)?.try_into().ok()?),
            inode_size: short(0x58)?.into(),
            extra_inode_size: short(0x15e)?.into(),
        };
        (short(0x38)? == 0xef53).then_some(superblock)
    }

    fn room_for_attributes(&self) -> usize {
        /// `EXT4_GOOD_OLD_INODE_SIZE`; `struct ext4_xattr_ibody_header`, and the end of the entries.
        const USED: usize = 128 + 4 + 4;
        self.inode_size.saturating_sub(USED + self.extra_inode_size)
    }
}
