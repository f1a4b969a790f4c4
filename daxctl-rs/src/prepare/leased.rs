//! Prepares a file under an exclusive lease: no other process has the file open, and a process that tries to open it
//! waits.

use libdaxfile::Errno;
use libdaxfile::fallocate::{Mode, fallocate};
use libdaxfile::fiemap::{Extents, Request};
use libdaxfile::lease::{Kind, Lease};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::uio::pwrite;
use nix::unistd::ftruncate;

use super::{Gap, Permit, check_interrupt, each_gap, unshare};
use crate::error::{Error, Result, ResultExt};
use crate::file::layout::block_end;
use crate::file::target::Target;
use crate::needs::{Allow, Needs};
use crate::prepare::zeros::Zeros;
use crate::progress::Progress;
use crate::status::Status;

struct Leased<'a> {
    lease: Lease<'a>,
    progress: &'a dyn Progress,
}

impl Permit for Leased<'_> {
    fn check(&self) -> Result<()> {
        check_interrupt(self.progress)?;
        if self.lease.is_unbroken()? {
            return Ok(());
        }
        Err(Error::new(Status::Busy, "busy: another process waits to open it; run prepare again to continue"))
    }
}

/// Prepares a file whose only descriptor is `target`, open for writing. `unshares` says that shared extents or staging
/// are to be removed. Returns `None` if other processes have the file open.
///
/// # Errors
/// An error of the calls that read or change the map; busy if another process tried to open the file meanwhile.
pub fn prepare(target: &Target, needs: &Needs, unshares: bool, progress: &dyn Progress) -> Result<Option<()>> {
    let lease = match Lease::take(target, Kind::Write) {
        Err(error) if error.errno == Errno::EAGAIN => return Ok(None),
        lease => lease?,
    };
    let permit = Leased { lease, progress };
    target.fsync()?;
    let size = target.statx()?.size;
    if unshares {
        unshare(target, size, needs, &permit)?;
    }
    let end = block_end(size, target.filesystem.block_size);
    let zeros = Zeros::new(target)?;
    each_gap(target, end, needs.allow, |gap| fill(target, gap, size, needs.allow, &zeros, &permit))?;
    free_past_eof(target, size, end, unshares, &permit)?;
    target.fsync()?;
    Ok(Some(()))
}

/// Frees the blocks past EOF: those found there, and those that an extent-size hint added to the calls above. Staging
/// past EOF, which unsharing the last block leaves, shows in no map.
fn free_past_eof(target: &Target, size: u64, end: u64, staged: bool, permit: &dyn Permit) -> Result<()> {
    if staged || Extents::new(target, end..u64::MAX, Request::SYNC).next().transpose()?.is_some() {
        permit.check()?;
        ftruncate(target, i64::try_from(size).unwrap_or(i64::MAX)).call("ftruncate")?;
    }
    Ok(())
}

/// Writes zeros over ranges that read as zeros.
fn fill(target: &Target, gap: &Gap, size: u64, allow: Allow, zeros: &Zeros, permit: &Leased<'_>) -> Result<()> {
    let progress = permit.progress;
    let (start, length) = (gap.range.start, gap.range.end - gap.range.start);
    permit.check()?;
    if gap.hole {
        let reserve = fallocate(target, Mode::KEEP_SIZE, start, length);
        if let Err(error) = reserve {
            // When the disk is full, ext4 keeps the blocks allocated so far. The range was a hole, and stays a hole as
            // long as the lease is unbroken.
            if permit.lease.is_unbroken()? {
                fallocate(target, Mode::PUNCH_HOLE | Mode::KEEP_SIZE, start, length)?;
            }
            return Err(error.into());
        }
        if allow.contains(Allow::UNWRITTEN) {
            progress.advance(length);
            return Ok(());
        }
        // That call may have taken long, and the kernel breaks a lease by force after a time.
        permit.check()?;
    }
    let (whole, tail) = gap.split(size, target.filesystem.block_size);
    let tail_start = whole.end;
    set_direct(target, true)?;
    zeros.write(target, whole, |written| {
        progress.advance(written);
        permit.check()
    })?;
    if tail > 0 {
        set_direct(target, false)?;
        let bytes = vec![0u8; usize::try_from(tail).unwrap_or(0)];
        pwrite(target, &bytes, i64::try_from(tail_start).unwrap_or(i64::MAX)).call("pwrite64")?;
        progress.advance(tail);
    }
    Ok(())
}

fn set_direct(target: &Target, direct: bool) -> Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(target, FcntlArg::F_GETFL).call("fcntl(F_GETFL)")?);
    let mut wanted = flags;
    wanted.set(OFlag::O_DIRECT, direct);
    if wanted != flags {
        fcntl(target, FcntlArg::F_SETFL(wanted)).call("fcntl(F_SETFL)")?;
    }
    Ok(())
}
