//! Checks whether a file has room for its record, without writing one.
//!
//! ext4 keeps all attributes of a file in the rest of its inode and in one additional block (`fs/ext4/xattr.c`). XFS
//! has no such limit, but sets blocks aside while it stores an attribute.

use std::ffi::CStr;

use libdaxfile::fiemap::{ExtentFlags, Extents, Request};
use libdaxfile::quota::Type;
use libdaxfile::{Errno, xattr};
use nix::sys::stat::fstat;

use super::format::{CHECKSUM, HEAD, RUN, TIGHT_LIMIT};
use super::storage::{ATTRIBUTE_LIMIT, attribute};
use crate::error::{Error, Result, ResultExt, if_known};
use crate::file::target::{InodeState, Target};
use crate::needs::Hold;
use crate::system::filesystem::Kind;
use crate::system::quotas::{self, Left};

/// The room for a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Room {
    /// There is room.
    Enough,
    /// This process cannot know whether there is room, for this reason.
    Unknown(String),
    /// There is room for root; a pin by this process would fail with this error.
    ForRoot(Error),
}

/// What is known about a file and its filesystem before the room is looked at.
pub struct Facts<'a, F> {
    /// The quotas that the filesystem enforces.
    pub enforced: &'a [Type],
    /// Whether the file may have attributes besides its record.
    pub other_attributes: bool,
    /// The free space that this process may use, which may be a moment old.
    pub free: F,
}

/// Determines whether a file has room for the record of `runs` runs, with a note of `note` bytes.
///
/// # Errors
/// `ENOSPC` or `EDQUOT` if root has no room for it either; an error of the calls that check.
pub fn room(
    target: &Target,
    inode: &InodeState,
    hold: Hold,
    runs: u64,
    note: usize,
    known: Facts<'_, impl FnOnce() -> Result<u64>>,
) -> Result<Room> {
    let runs = usize::try_from(runs).unwrap_or(usize::MAX);
    let length = runs.saturating_mul(RUN).saturating_add(HEAD + CHECKSUM + note).min(TIGHT_LIMIT);
    match target.filesystem.kind {
        Kind::Ext => in_ext4(target, inode, hold, length, known),
        Kind::Xfs => in_xfs(target, inode, hold, length, known),
        _ => Ok(Room::Enough),
    }
}

fn in_ext4(
    target: &Target,
    inode: &InodeState,
    hold: Hold,
    length: usize,
    Facts { enforced, other_attributes, free }: Facts<'_, impl FnOnce() -> Result<u64>>,
) -> Result<Room> {
    let filesystem = &target.filesystem;
    let mut bytes = entry(attribute(hold), length);
    // Attributes that pin overwrites or first removes leave their room.
    let replaced = [attribute(hold), attribute(Hold::Frozen)];
    let names = if other_attributes { if_known(xattr::names(target))?.unwrap_or_default() } else { Vec::new() };
    for name in names {
        if !replaced.contains(&name.as_c_str()) {
            bytes += entry(&name, xattr::get(target, &name, ATTRIBUTE_LIMIT)?.map_or(0, |value| value.len()));
        }
    }
    let block = usize::try_from(filesystem.block_size).unwrap_or(0).saturating_sub(HEADER);
    let full = free()? < filesystem.block_size;
    let limited = !enforced.is_empty() && !filesystem.lets_exceed_quotas()?;
    if bytes <= block && !full && !limited {
        return Ok(Room::Enough);
    }
    let told = filesystem.room_in_inode(target)?;
    let (in_inode, unbounded) = told.unwrap_or_default();
    if bytes <= in_inode || bytes <= block + in_inode && has_block(target)? {
        return Ok(Room::Enough);
    }
    let no_space = |why: &str| Error::from_errno(Errno::ENOSPC).because(why);
    if bytes > block + in_inode && !unbounded {
        return Err(no_space("the file's other extended attributes leave no room for the pin record"));
    }
    let no_block = no_space("the pin record needs one more block");
    if filesystem.free_bytes_for_root(target)? < filesystem.block_size {
        return Err(no_block);
    }
    if full {
        return Ok(Room::ForRoot(no_block));
    }
    if !limited {
        return Ok(Room::Enough);
    }
    Ok(match quotas::left(target, enforced, &owners(target, inode)?, filesystem.block_size)? {
        Left::Enough => Room::Enough,
        Left::TooLittle(owner) => Room::ForRoot(over_quota(&owner)),
        Left::Hidden(owner) => Room::Unknown(hidden(&owner)),
    })
}

fn in_xfs(
    target: &Target,
    inode: &InodeState,
    hold: Hold,
    length: usize,
    Facts { enforced, free, .. }: Facts<'_, impl FnOnce() -> Result<u64>>,
) -> Result<Room> {
    let filesystem = &target.filesystem;
    let name = attribute(hold).to_bytes();
    let name = name.iter().position(|&byte| byte == b'.').map_or(name, |dot| &name[dot + 1..]);
    let bytes = filesystem.set_aside_for_attribute(name.len() as u64, length as u64);
    let there = if free()? >= bytes { Ok(()) } else { filesystem.require_space(target, bytes) };
    let lacking = match there {
        Err(error) if error.errno == Some(Errno::ENOSPC) => {
            let message = format!("to store the pin record, XFS {}", error.message);
            Some(error.because(message))
        }
        Ok(()) if enforced.is_empty() => None,
        there => {
            there?;
            // Root's own user, group and project have no limits.
            let owners = owners(target, inode)?.map(|(of, id)| (id > 0).then_some((of, id)));
            let owners: Vec<_> = owners.into_iter().flatten().collect();
            match quotas::left(target, enforced, &owners, bytes)? {
                Left::Enough => None,
                Left::TooLittle(owner) => Some(over_quota(&owner)),
                Left::Hidden(owner) => return Ok(Room::Unknown(hidden(&owner))),
            }
        }
    };
    match lacking {
        None => Ok(Room::Enough),
        Some(error) if hold == Hold::None => Err(error),
        // `xfs_attr_change()` has reserved blocks for security attributes in Linux 6.12 and newer, but not in 6.1.
        Some(error) => Ok(Room::Unknown(format!(
            "{error}; on Linux 6.12 and newer, pin succeeds with blocks that XFS keeps in reserve"
        ))),
    }
}

fn owners(target: &Target, inode: &InodeState) -> Result<[(Type, u32); 3]> {
    let stat = fstat(target).call("fstat")?;
    Ok([
        (Type::User, stat.st_uid),
        (Type::Group, stat.st_gid),
        (Type::Project, inode.fsxattr.map_or(0, |fsxattr| fsxattr.projid)),
    ])
}

fn over_quota(owner: &str) -> Error {
    Error::from_errno(Errno::EDQUOT).because(format!("the quota of {owner} leaves no room for the pin record"))
}

fn hidden(owner: &str) -> String {
    format!("whether the quota of {owner} leaves room for the pin record is visible only with CAP_SYS_ADMIN")
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
