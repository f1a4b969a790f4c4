//! Prepares a file that other processes have open, on an XFS that can share blocks: the kernel compares blocks and
//! swaps them if they are equal.
//!
//! Blocks of zeros from a donor file replace holes and unwritten blocks, but only where the file reads as zeros at that
//! moment. Then everything is unshared. A concurrent writer loses no data.

use libdaxfile::Errno;
use libdaxfile::dedupe::dedupe;
use nix::unistd::ftruncate;

use super::{Permit, check_interrupt, drop_staging, each_gap, unshare, unshare_range};
use crate::error::{Error, Result, ResultExt};
use crate::file::layout::block_end;
use crate::file::open;
use crate::file::target::{Target, unnamed};
use crate::needs::{Allow, Needs};
use crate::prepare::zeros::Zeros;
use crate::progress::Progress;
use crate::status::Status;

/// Bytes in the donor file.
const DONOR: u64 = 16 << 20;

struct Watched<'a>(&'a dyn Progress);

impl Permit for Watched<'_> {
    fn check(&self) -> Result<()> {
        check_interrupt(self.0)
    }
}

/// The space that the donor takes, for `gaps` bytes of gaps.
#[must_use]
pub fn donor_bytes(gaps: u64) -> u64 {
    DONOR.min(gaps)
}

/// Prepares a file that other processes may write to, with a donor of `donor_size` bytes. Their changes may make
/// another round necessary.
///
/// # Errors
/// An error of the calls that read the map, make the donor, or swap and unshare blocks; interrupted, if the user stops
/// the work.
pub fn prepare(target: &Target, needs: &Needs, donor_size: u64, progress: &dyn Progress) -> Result<()> {
    let permit = Watched(progress);
    let block_size = target.filesystem.block_size;
    let size = target.statx()?.size;
    let end = block_end(size, block_size);
    // If shared extents are to stay shared, the donor's blocks must not remain among them.
    let at_once = needs.allow.contains(Allow::SHARED);
    if !needs.allow.contains(Allow::HOLE | Allow::UNWRITTEN) && donor_size > 0 {
        let donor_size = block_end(donor_size, block_size);
        let zeros = donor(target, donor_size)?;
        each_gap(target, end, needs.allow, |gap| {
            let (whole, tail) = gap.split(size, block_size);
            let mut offset = whole.start;
            while offset < whole.end {
                permit.check()?;
                let length = donor_size.min(whole.end - offset);
                swap(&zeros, target, offset, length, block_size)?;
                progress.advance(length);
                offset += length;
            }
            if tail > 0 {
                swap_tail(target, whole.end, tail)?;
                progress.advance(tail);
            }
            if at_once {
                unshare_range(target, gap.range.start..gap.range.end.min(size), &permit)?;
            }
            Ok(())
        })?;
    }
    if !at_once {
        unshare(target, size, needs, &permit)?;
        // Truncating the staging past EOF would be faster, but would destroy what an appender has written there. A
        // caller without permission to free staging finds it at the next look.
        if let Err(error) = drop_staging(target, size)
            && error.status != Status::NotPermitted
        {
            return Err(error);
        }
    }
    target.fsync()
}

/// Makes an unnamed file of written zeros on the same filesystem.
fn donor(target: &Target, size: u64) -> Result<Target> {
    let directory = open::directory(target.parent())?;
    let donor = unnamed(&directory, &target.path)?;
    if donor.statx()?.device != target.statx()?.device {
        return Err(Error::new(
            Status::Busy,
            "busy: other processes have it open, and its directory is on another filesystem",
        ));
    }
    Zeros::new(&donor)?.write(&donor, 0..block_end(size, target.filesystem.block_size), |_| Ok(()))?;
    donor.fsync()?;
    Ok(donor)
}

/// Swaps in zeros where the file reads as zeros. Halves a range that differs, and leaves alone the blocks that do.
fn swap(donor: &Target, target: &Target, offset: u64, length: u64, block_size: u64) -> Result<()> {
    let mut rest = vec![(offset, length)];
    while let Some((offset, length)) = rest.pop() {
        match dedupe(donor, 0, length, target, offset) {
            Ok(Some(done)) if done > 0 && done < length => rest.push((offset + done, length - done)),
            Ok(Some(_)) => {}
            Ok(None) if length > block_size => {
                let half = (length / 2).next_multiple_of(block_size);
                rest.extend([(offset + half, length - half), (offset, half)]);
            }
            Ok(None) => {}
            // Truncated or grown meanwhile: the next look at the file shows what remains.
            Err(error) if error.errno == Errno::EINVAL => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Swaps the part of the last block that is within the file. That works only with a file that ends at the same offset.
fn swap_tail(target: &Target, offset: u64, tail: u64) -> Result<()> {
    let donor = donor(target, tail)?;
    ftruncate(&donor, i64::try_from(tail).unwrap_or(i64::MAX)).call("ftruncate")?;
    swap(&donor, target, offset, tail, u64::MAX)
}
