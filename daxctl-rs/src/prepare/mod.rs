//! Making a file pinnable in place, without losing a byte of whoever else is at work on it.
//!
//! Two ways are safe. Under an exclusive lease nobody else has the file open, and zeros may be written where zeros are
//! read ([`leased`]). Where others have it, XFS can compare and swap blocks under its own locks ([`deduped`]). Touching
//! pages through a mapping, which looks like a third, loses the data of O_DIRECT writers.

pub mod deduped;
pub mod leased;
pub(crate) mod zeros;

use std::ops::Range;

use libdaxfile::fallocate::{Mode, fallocate};
use libdaxfile::fiemap::{ExtentFlags, Extents, Request};
use libdaxfile::xfs;
use nix::unistd::syncfs;

use crate::error::{Error, Named, Result};
use crate::file::target::Target;
use crate::needs::{Allow, Needs};
use crate::progress::Progress;

/// Bytes unshared by one call: a lease must be looked at well within the 45 seconds after which it is broken.
const UNSHARE_CHUNK: u64 = 64 << 20;

const UNSHARE: Mode = Mode::UNSHARE_RANGE.union(Mode::KEEP_SIZE);

/// Calls over the whole file, at most: others at work on it may never let it come to rest.
const UNSHARE_ROUNDS: u32 = 8;

/// Ranges looked up at a time.
const WINDOW: usize = 4096;

/// What is done to a file between two looks at whether one may go on.
trait Permit {
    /// An error where somebody waits for the file, or the user wants to stop.
    fn check(&self) -> Result<()>;
}

fn check_interrupt(progress: &dyn Progress) -> Result<()> {
    if progress.interrupted() {
        return Err(Error::interrupted("what is done stays, and the contents are unchanged"));
    }
    Ok(())
}

/// A piece of a file that is to become written.
#[derive(Debug, Clone)]
struct Gap {
    range: Range<u64>,
    /// Whether it has no blocks at all.
    hole: bool,
}

impl Gap {
    /// Its whole blocks, as far as a file of `size` bytes fills them, and what of it is in the last block: a direct write
    /// over all of that would grow the file.
    fn split(&self, size: u64, block_size: u64) -> (Range<u64>, u64) {
        let whole = self.range.end.min(size - size % block_size).max(self.range.start);
        (self.range.start..whole, self.range.end.min(size).saturating_sub(whole))
    }
}

/// Gives each gap before `end` to `act`, as the map is when it comes to it.
fn each_gap(target: &Target, end: u64, allow: Allow, mut act: impl FnMut(&Gap) -> Result<()>) -> Result<()> {
    let mut from = 0;
    while from < end {
        let (gaps, next) = gaps(target, from, end, allow)?;
        gaps.iter().try_for_each(&mut act)?;
        from = next;
    }
    Ok(())
}

/// The next gaps at or after `from` and before `end`, as far as `allow` does not leave them alone, and where to go on.
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

/// Gives the file blocks of its own for all that it shares, and drops its staging. The size is kept explicitly: with a
/// stale one the call would grow the file.
///
/// Over the whole file, this fills holes with unwritten blocks. Where holes are to stay, only what is shared is
/// unshared, and the filesystem is asked to free its unused staging.
fn unshare(target: &Target, size: u64, needs: &Needs, permit: &dyn Permit) -> Result<()> {
    if size == 0 {
        return Ok(()); // Emptied meanwhile; the kernel takes a length of 0 for an error (EINVAL).
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
    // A sub-range leaves the staging beside it. And one call does not do: over staged blocks it copies once more, and since
    // Linux 6.12 staging stays while the inode is marked as having dirty pages (`xfs_can_free_cowblocks()`), a mark that
    // these copies leave and only writeback of the whole filesystem takes away. A call that changes nothing was the last.
    for _ in 0..UNSHARE_ROUNDS {
        permit.check()?;
        syncfs(target).named("syncfs")?;
        let before = target.statx()?.allocated;
        fallocate(target, UNSHARE, 0, size)?;
        if target.statx()?.allocated == before {
            break;
        }
    }
    Ok(())
}

/// Has the filesystem free its unused staging. Dirty pages keep it, and fsync alone is not enough.
fn drop_staging(target: &Target, size: u64) -> Result<()> {
    syncfs(target).named("syncfs")?;
    let freed = xfs::free_eofblocks(target, size);
    freed.map_err(|error| Error::from(error).because("dropping copy-on-write staging needs CAP_SYS_ADMIN here"))
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

/// The next shared ranges within this one, and where to go on.
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
