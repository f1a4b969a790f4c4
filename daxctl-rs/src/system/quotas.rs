//! Disk quotas: the files that store them, to which the kernel writes whatever their flags, and the space that a file's
//! owners may still use.

use std::os::fd::AsFd;

use libdaxfile::Errno;
use libdaxfile::quota::{self, Type, Usage};
use nix::sys::uio::pread;

use crate::error::{Result, ResultExt};
use crate::system::fresh::Fresh;

/// The first bytes of such a file, for users, groups and projects: `V2_INITQMAGICS` in `fs/quota/quotaio_v2.h`.
const MAGIC: [u32; 3] = [0xd9c0_1f11, 0xd9c0_1927, 0xd9c0_3f14];

/// No device that Linux supports has larger sectors.
const SECTOR: usize = 4096;

/// `V2_DQBLKSIZE_BITS`
const BLOCK: u64 = 1024;

/// Whether quotas are on, and this inode of the filesystem stores them.
///
/// # Errors
/// An error of quotactl_fd(2).
pub(crate) fn kept_in(fd: impl AsFd, inode: u64) -> Result<bool> {
    Ok(quota::state(fd)?.files.contains(&inode))
}

/// Whether quotas leave enough space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Left {
    Enough,
    /// The quota of this owner leaves too little.
    TooLittle(String),
    /// This process may not read the quota of this owner.
    Hidden(String),
}

/// Whether the enforced quotas leave room for more bytes of a file with these owners, on the filesystem of an open
/// file.
///
/// # Errors
/// An error of quotactl_fd(2).
pub(crate) fn left(fd: impl AsFd, enforced: &[Type], owners: &[(Type, u32)], bytes: u64) -> Result<Left> {
    let mut left = Left::Enough;
    for (of, id) in owners.iter().filter(|(of, _)| enforced.contains(of)) {
        match quota::usage(&fd, *of, *id) {
            Ok(usage) if exceeds(&usage, bytes, jiff::Timestamp::now().as_second()) => {
                return Ok(Left::TooLittle(owner(*of, *id)));
            }
            // XFS stores nothing about an owner that has neither files nor limits.
            Ok(_) | Err(libdaxfile::Error { errno: Errno::ESRCH | Errno::ENOENT, .. }) => {}
            Err(libdaxfile::Error { errno: Errno::EPERM, .. }) => left = Left::Hidden(owner(*of, *id)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(left)
}

fn owner(of: Type, id: u32) -> String {
    let kind = match of {
        Type::User => "user",
        Type::Group => "group",
        Type::Project => "project",
    };
    format!("{kind} {id}")
}

/// Whether the kernel refuses more bytes: `dquot_add_space()`, `xfs_dqresv_check()`.
fn exceeds(usage: &Usage, bytes: u64, now: i64) -> bool {
    let total = usage.used.saturating_add(bytes);
    let over = |limit: Option<u64>| limit.is_some_and(|limit| total > limit);
    let late = usage.grace_ends != 0 && i64::try_from(usage.grace_ends).is_ok_and(|ends| now > ends);
    over(usage.limit) || over(usage.soft_limit) && late
}

/// The same for one of many files on the filesystem with this device number: asks only now and then.
///
/// # Errors
/// As for [`kept_in`].
pub(crate) fn kept_in_one_of_many(fd: impl AsFd, device: (u32, u32), inode: u64) -> Result<bool> {
    static FILES: Fresh<((u32, u32), Vec<u64>)> = Fresh::new();
    FILES.get(|known| known.0 == device, || Ok((device, quota::state(fd)?.files)), |known| known.1.contains(&inode))
}

/// Whether a file of `size` bytes has the format of a quota file, so that quotaon(8) would accept it.
///
/// # Errors
/// An error of pread(2).
pub(crate) fn has_form(file: impl AsFd, size: u64) -> Result<bool> {
    if size < 2 * BLOCK || !size.is_multiple_of(BLOCK) {
        return Ok(false);
    }
    let mut magic = [0; 4];
    let magic = match pread(&file, &mut magic, 0) {
        // alloc and prepare have the file open for direct I/O, which reads whole sectors into aligned memory.
        Err(Errno::EINVAL) => {
            let mut buffer = vec![0; 2 * SECTOR];
            let start = buffer.as_ptr().align_offset(SECTOR).min(SECTOR);
            let sector = &mut buffer[start..start + SECTOR];
            let read = pread(&file, sector, 0).call("pread")?;
            sector[..read].first_chunk().copied()
        }
        read => (read.call("pread")? == magic.len()).then_some(magic),
    };
    Ok(magic.is_some_and(|magic| MAGIC.contains(&u32::from_le_bytes(magic))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soft_limit_refuses_nothing_before_its_time() {
        let usage = Usage { used: 90, limit: Some(100), soft_limit: Some(50), grace_ends: 1000 };
        assert!(!exceeds(&usage, 10, 1000) && exceeds(&usage, 11, 0) && exceeds(&usage, 1, 1001));
        assert!(!exceeds(&Usage { grace_ends: 0, ..usage }, 10, 1001));
        assert!(!exceeds(&Usage { limit: None, soft_limit: None, ..usage }, u64::MAX, 1001));
    }
}
