//! Beside others who have the file open, on XFS that can share blocks: the kernel compares, and swaps what is equal.
//!
//! Blocks of zeros from a donor take the place of holes and unwritten blocks, but only where the file reads as zeros at
//! that moment; then everything is unshared. A writer who comes between finds its data kept.

use libdaxfile::Errno;
use libdaxfile::dedupe::dedupe;
use nix::unistd::ftruncate;

use super::{Permit, check_interrupt, drop_staging, each_gap, unshare, unshare_range};
use crate::error::{Error, Named, Result};
use crate::file::layout::block_end;
use crate::file::open;
use crate::file::target::{Target, unnamed};
use crate::needs::{Allow, Needs};
use crate::prepare::zeros::Zeros;
use crate::progress::Progress;
use crate::status::Status;

/// Bytes of the donor.
const DONOR: u64 = 16 << 20;

struct Watched<'a>(&'a dyn Progress);

impl Permit for Watched<'_> {
    fn check(&self) -> Result<()> {
        check_interrupt(self.0)
    }
}

/// Space that the donor takes, where there are so many bytes of gaps.
#[must_use]
pub fn donor_bytes(gaps: u64) -> u64 {
    DONOR.min(gaps)
}

/// Mends a file that others may be writing to, with a donor of `donor_size` bytes. What they change meanwhile may need
/// another round.
///
/// # Errors
/// Those of the calls.
pub fn mend(target: &Target, needs: &Needs, donor_size: u64, progress: &dyn Progress) -> Result<()> {
    let permit = Watched(progress);
    let block_size = target.filesystem.block_size;
    let size = target.statx()?.size;
    let end = block_end(size, block_size);
    // Where what is shared is to stay so, the donor's blocks must not stay among it.
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
        // To cut what was staged past EOF would be quicker, and would destroy what an appender has written there.
        // Who may not ask for it sees what is left.
        if let Err(error) = drop_staging(target, size)
            && error.status != Status::NotPermitted
        {
            return Err(error);
        }
    }
    target.fsync()
}

/// An unnamed file of written zeros on the same filesystem.
fn donor(target: &Target, size: u64) -> Result<Target> {
    let directory = open::directory(target.parent())?;
    let donor = unnamed(&directory, &target.path)?;
    if donor.statx()?.device != target.statx()?.device {
        return Err(Error::new(Status::Busy, "others have it open, and its directory is on another filesystem"));
    }
    Zeros::new(&donor)?.write(&donor, 0..block_end(size, target.filesystem.block_size), |_| Ok(()))?;
    donor.fsync()?;
    Ok(donor)
}

/// Swaps zeros in where there are zeros; halves what differs, and leaves alone the blocks that do.
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
            // Cut or grown meanwhile: what is left shows at the next look.
            Err(error) if error.errno == Errno::EINVAL => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The last block's part within the file: it can be swapped only with a file that ends there, too.
fn swap_tail(target: &Target, offset: u64, tail: u64) -> Result<()> {
    let donor = donor(target, tail)?;
    ftruncate(&donor, i64::try_from(tail).unwrap_or(i64::MAX)).named("ftruncate")?;
    swap(&donor, target, offset, tail, u64::MAX)
}
