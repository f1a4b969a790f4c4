//! Makes a file pinnable in place, safely beside other users of it.
//!
//! Two methods are safe. Under an exclusive lease no other process has the file open, and this one may write zeros
//! where it reads zeros ([`leased`]). If other processes have the file open, XFS can compare and swap blocks under its
//! own locks ([`deduped`]). Touching pages through a mapping looks like a third method, but loses the data of O_DIRECT
//! writers.

pub mod deduped;
pub mod leased;
pub(crate) mod zeros;

use std::ops::Range;

use libdaxfile::fallocate::{Mode, fallocate};
use libdaxfile::fiemap::{ExtentFlags, Extents, Request};
use libdaxfile::{Errno, xfs};
use nix::unistd::syncfs;

use crate::error::{Error, Result, ResultExt};
use crate::file::target::Target;
use crate::needs::{Allow, Needs};
use crate::progress::Progress;

/// Bytes to unshare in one call: the lease must be checked well within the 45 seconds after which the kernel breaks it.
const UNSHARE_CHUNK: u64 = 64 << 20;

const UNSHARE: Mode = Mode::UNSHARE_RANGE.union(Mode::KEEP_SIZE);

/// Limit on the calls over the whole file, because other writers may keep changing it.
const UNSHARE_ROUNDS: u32 = 8;

/// Number of ranges in one lookup.
const WINDOW: usize = 4096;

/// Decides between two steps whether the work may go on.
trait Permit {
    /// Returns an error if another process waits for the file, or the user wants to stop.
    fn check(&self) -> Result<()>;
}

fn check_interrupt(progress: &dyn Progress) -> Result<()> {
    if progress.interrupted() {
        return Err(Error::interrupted("the contents are unchanged; run prepare again to continue"));
    }
    Ok(())
}

/// A piece of a file that is to be written.
#[derive(Debug, Clone)]
struct Gap {
    range: Range<u64>,
    /// Whether the piece is a hole.
    hole: bool,
}

impl Gap {
    /// Returns the whole blocks within a file of `size` bytes, and the number of bytes within the file in the last
    /// block: a direct write over that whole block would grow the file.
    fn split(&self, size: u64, block_size: u64) -> (Range<u64>, u64) {
        let whole = self.range.end.min(size - size % block_size).max(self.range.start);
        (self.range.start..whole, self.range.end.min(size).saturating_sub(whole))
    }
}

/// Calls `act` with each gap before `end`, as the map is at that moment.
fn each_gap(target: &Target, end: u64, allow: Allow, mut act: impl FnMut(&Gap) -> Result<()>) -> Result<()> {
    let mut from = 0;
    while from < end {
        let (gaps, next) = gaps(target, from, end, allow)?;
        gaps.iter().try_for_each(&mut act)?;
        from = next;
    }
    Ok(())
}

/// Returns the next gaps from `from` up to `end` that `allow` does not exempt, and the offset to continue at.
fn gaps(target: &Target, from: u64, end: u64, allow: Allow) -> Result<(Vec<Gap>, u64)> {
    let mut gaps = Vec::new();
    let mut position = from;
    let add = |gaps: &mut Vec<Gap>, range: Range<u64>, hole: bool| {
        let wanted = !allow.contains(if hole { Allow::HOLE } else { Allow::UNWRITTEN });
        if wanted && !range.is_empty() {
            gaps.push(Gap { range, hole });
        }
    };
    for extent in Extents::new(target, from..end, Request::SYNC) {
        let extent = extent?;
        let extent_end = extent.logical.saturating_add(extent.length).min(end);
        add(&mut gaps, position..extent.logical.min(end), true);
        if extent.flags.contains(ExtentFlags::UNWRITTEN) {
            add(&mut gaps, extent.logical.max(from)..extent_end, false);
        }
        position = position.max(extent_end);
        if gaps.len() >= WINDOW {
            return Ok((gaps, position));
        }
    }
    add(&mut gaps, position..end, true);
    Ok((gaps, end))
}

/// Replaces all shared blocks of the file by its own, and drops its staging. KEEP_SIZE is set: with a stale size the
/// call would grow the file.
///
/// Over the whole file, this call fills holes with unwritten blocks. If holes are to stay, this function unshares only
/// the shared ranges, and asks the filesystem to free its unused staging.
fn unshare(target: &Target, size: u64, needs: &Needs, permit: &dyn Permit) -> Result<()> {
    if size == 0 {
        return Ok(()); // Emptied meanwhile; the kernel rejects a length of 0 (EINVAL).
    }
    if needs.allow.contains(Allow::HOLE) {
        let mut from = 0;
        while from < size {
            let (shared, next) = shared(target, from..size)?;
            for range in shared {
                unshare_range(target, range, permit)?;
            }
            from = next;
        }
        return drop_staging(target, size);
    }
    unshare_range(target, 0..size, permit)?;
    // A call over a sub-range leaves the staging next to it. One call is not enough, because over staged blocks it
    // copies once more. Since Linux 6.12 staging also stays while the inode is marked as having dirty pages
    // (`xfs_can_free_cowblocks()`); these copies leave that mark, and only writeback of the whole filesystem clears it.
    // A call that changes nothing is the last.
    for _ in 0..UNSHARE_ROUNDS {
        permit.check()?;
        syncfs(target).call("syncfs")?;
        let before = target.statx()?.allocated;
        fallocate(target, UNSHARE, 0, size)?;
        if target.statx()?.allocated == before {
            break;
        }
    }
    Ok(())
}

/// Makes the filesystem free its unused staging. Dirty pages prevent that, and fsync alone is not enough.
fn drop_staging(target: &Target, size: u64) -> Result<()> {
    syncfs(target).call("syncfs")?;
    let freed = xfs::free_eofblocks(target, size);
    freed.map_err(|error| match error.errno {
        Errno::EPERM => Error::from(error).because("dropping copy-on-write staging needs CAP_SYS_ADMIN here"),
        _ => error.into(),
    })
}

fn unshare_range(target: &Target, range: Range<u64>, permit: &dyn Permit) -> Result<()> {
    let mut offset = range.start;
    while offset < range.end {
        permit.check()?;
        let length = UNSHARE_CHUNK.min(range.end - offset);
        fallocate(target, UNSHARE, offset, length)?;
        offset += length;
    }
    Ok(())
}

/// Returns the next shared ranges within this one, and the offset to continue at.
fn shared(target: &Target, range: Range<u64>) -> Result<(Vec<Range<u64>>, u64)> {
    let mut shared = Vec::new();
    for extent in Extents::new(target, range.clone(), Request::SYNC) {
        let extent = extent?;
        let extent_end = extent.logical.saturating_add(extent.length).min(range.end);
        if extent.flags.contains(ExtentFlags::SHARED) {
            shared.push(extent.logical.max(range.start)..extent_end);
        }
        if shared.len() >= WINDOW {
            return Ok((shared, extent_end));
        }
    }
    Ok((shared, range.end))
}
