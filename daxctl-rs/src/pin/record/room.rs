//! Checks whether a file has room for its record, without writing one.
//!
//! ext4 keeps all attributes of a file in the rest of its inode and in one additional block (`fs/ext4/xattr.c`). XFS
//! has no such limit, and reserves blocks for attributes.

use std::ffi::CStr;

use libdaxfile::fiemap::{ExtentFlags, Extents, Request};
use libdaxfile::{Errno, xattr};

use super::format::{CHECKSUM, HEAD, RUN, TIGHT_LIMIT};
use super::storage::{ATTRIBUTE_LIMIT, attribute};
use crate::error::{Error, Result, if_known};
use crate::file::target::Target;
use crate::needs::Hold;
use crate::system::filesystem::Kind;

/// Refuses a file that has no room for the record of `runs` runs, with a note of `note` bytes.
///
/// # Errors
/// `ENOSPC` if it has no room; an error of the calls that check.
pub fn require_room(target: &Target, hold: Hold, runs: u64, note: usize) -> Result<()> {
    if target.filesystem.kind != Kind::Ext {
        return Ok(());
    }
    let runs = usize::try_from(runs).unwrap_or(usize::MAX);
    let length = runs.saturating_mul(RUN).saturating_add(HEAD + CHECKSUM + note).min(TIGHT_LIMIT);
    let mut bytes = entry(attribute(hold), length);
    // Attributes that pin overwrites or first removes leave their room.
    let replaced = [attribute(hold), attribute(Hold::Frozen)];
    for name in if_known(xattr::names(target))?.unwrap_or_default() {
        if !replaced.contains(&name.as_c_str()) {
            bytes += entry(&name, xattr::get(target, &name, ATTRIBUTE_LIMIT)?.map_or(0, |value| value.len()));
        }
    }
    let block = usize::try_from(target.filesystem.block_size).unwrap_or(0).saturating_sub(HEADER);
    let full = target.filesystem.free_bytes(target)? < target.filesystem.block_size;
    if bytes <= block && !full {
        return Ok(());
    }
    let told = target.filesystem.room_in_inode(target)?;
    let (inode, unbounded) = told.unwrap_or_default();
    if bytes <= inode || unbounded && !full || bytes <= block + inode && (!full || has_block(target)?) {
        return Ok(());
    }
    Err(Error::from_errno(Errno::ENOSPC).because(match full {
        true => "the pin record needs one more block",
        false => "the file's other extended attributes leave no room for the pin record",
    }))
}

/// Bytes of a block that attributes cannot use: `struct ext4_xattr_header`, and the end marker of the entries.
const HEADER: usize = 32 + 4;

/// Bytes that an attribute takes: `EXT4_XATTR_LEN()` without the prefix of its name, and `EXT4_XATTR_SIZE()`.
fn entry(name: &CStr, length: usize) -> usize {
    const ENTRY: usize = 16;
    let name = name.to_bytes();
    let prefix = name.iter().position(|&byte| byte == b'.').map_or(0, |dot| dot + 1);
    ENTRY + (name.len() - prefix).next_multiple_of(4) + length.next_multiple_of(4)
}

/// Whether the file already has a block for attributes.
fn has_block(target: &Target) -> Result<bool> {
    for extent in Extents::new(target, 0..u64::MAX, Request::SYNC | Request::XATTR) {
        if !extent?.flags.contains(ExtentFlags::DATA_INLINE) {
            return Ok(true);
        }
    }
    Ok(false)
}
