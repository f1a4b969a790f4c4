//! Extent maps: read in one pass, joined into runs, and proved consistent where possible. The verb `map` is
//! in verbs/map.rs.

use std::collections::VecDeque;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::{iter, thread};

use libdaxfile::fiemap::{self, Extent, ExtentFlags, Extents, Request};
use libdaxfile::fsxattr::Xflags;
use libdaxfile::lease::Lease;
use libdaxfile::statx::{Attributes, Statx, Time};
use libdaxfile::xfs;

use crate::error::Result;
use crate::file::target::{InodeState, Target};
use crate::system::filesystem::Kind;

/// Extents joined where they are adjacent both logically and physically and their material flags are equal.
pub type Run = Extent;

/// Flags that say nothing about where the bytes are. On ext4, FIEMAP's record boundaries change by themselves.
const IMMATERIAL: ExtentFlags = ExtentFlags::LAST.union(ExtentFlags::MERGED);

/// The most extents to request from XFS in one call, 48 bytes each: first the limit for a map to be shown, then the
/// limit for a map that is read in one call only to prove it consistent, then the limit where that is proved anyway, but
/// with more calls.
const ONE_CALL: [usize; 3] = [1 << 22, 1 << 18, 1 << 10];

/// Joins extents into runs, one at a time.
///
/// ```
/// use daxfile::file::map::Joiner;
/// use libdaxfile::fiemap::{Extent, ExtentFlags};
///
/// let extent = |logical, physical, flags| Extent { logical, physical, length: 4096, flags };
/// let mut joiner = Joiner::new();
/// assert_eq!(joiner.push(extent(0, 40960, ExtentFlags::empty())), None);
/// assert_eq!(joiner.push(extent(4096, 45056, ExtentFlags::empty())), None); // it goes on
/// let run = joiner.push(extent(8192, 0, ExtentFlags::LAST)); // elsewhere
/// assert_eq!(run.map(|run| (run.physical, run.length)), Some((40960, 8192)));
/// assert_eq!(joiner.finish().map(|run| run.logical), Some(8192));
/// ```
#[derive(Debug)]
pub struct Joiner {
    ignored: ExtentFlags,
    last: Option<Run>,
}

impl Joiner {
    /// Joins extents that differ only in record boundaries.
    #[must_use]
    pub fn new() -> Self {
        Joiner { ignored: IMMATERIAL, last: None }
    }

    /// Joins extents by position and written state alone, and ignores whether they are shared.
    #[must_use]
    pub fn by_position() -> Self {
        Joiner { ignored: IMMATERIAL | ExtentFlags::SHARED, last: None }
    }

    /// Takes the next extent and returns the run that this extent ends.
    pub fn push(&mut self, extent: Extent) -> Option<Run> {
        let extent = Run { flags: extent.flags - (self.ignored - ExtentFlags::MERGED), ..extent };
        if let Some(last) = &mut self.last
            && last.logical.checked_add(last.length) == Some(extent.logical)
            && last.physical.checked_add(last.length) == Some(extent.physical)
            && last.flags - ExtentFlags::MERGED == extent.flags - ExtentFlags::MERGED
            && !extent.flags.contains(ExtentFlags::UNKNOWN)
        {
            last.length = last.length.saturating_add(extent.length);
            last.flags |= extent.flags;
            return None;
        }
        self.last.replace(extent)
    }

    /// Returns the last run.
    pub fn finish(&mut self) -> Option<Run> {
        self.last.take()
    }
}

impl Default for Joiner {
    fn default() -> Self {
        Joiner::new()
    }
}

/// A map that was read, in one of two forms: as XFS returned it in one call, or as a list of runs.
#[derive(Debug)]
pub enum Runs {
    /// The result of one call.
    Whole(xfs::WholeMap),
    /// All runs.
    Listed(Vec<Run>),
}

impl Default for Runs {
    fn default() -> Self {
        Runs::Listed(Vec::new())
    }
}

impl Runs {
    /// Iterates over the runs in logical order.
    pub fn iter(&self) -> impl Iterator<Item = Run> {
        let (whole, listed) = match self {
            Runs::Whole(map) => (Some(map.extents()), None),
            Runs::Listed(runs) => (None, Some(runs.iter().copied())),
        };
        let extents = whole.into_iter().flatten().chain(listed.into_iter().flatten());
        let mut joiner = Joiner::new();
        extents.map(Some).chain([None]).filter_map(move |extent| match extent {
            Some(extent) => joiner.push(extent),
            None => joiner.finish(),
        })
    }
}

/// Reads the whole map, including blocks past EOF, and passes each run to `visit` in logical order; `runs` receives the
/// runs for a second pass. The kernel first writes back dirty pages. Returns whether the map is proved to have been
/// like this at one moment. Any of these proves it: the file was immutable the whole time since `before`, `lease` was
/// not broken, or XFS returned the whole map in one call.
///
/// # Errors
/// An error of FIEMAP; `EOPNOTSUPP` where the filesystem has no extents to show.
pub fn read(
    target: &Target,
    before: &InodeState,
    lease: Option<&Lease<'_>>,
    runs: Option<&mut Runs>,
    mut visit: impl FnMut(Run),
) -> Result<bool> {
    target.filesystem.require_extents()?;
    let most = match () {
        () if lease.is_some() || before.immutable() => ONE_CALL[2],
        () if runs.is_none() => ONE_CALL[1],
        () => ONE_CALL[0],
    };
    let whole = one_call(target, before, most)?;
    let lists = runs.is_some() && whole.is_none();
    let mut listed = Vec::new();
    let mut visit = |run| {
        if lists {
            listed.push(run);
        }
        visit(run);
    };
    let mut joiner = Joiner::new();
    let mut join = |extent| {
        if let Some(run) = joiner.push(extent) {
            visit(run);
        }
    };
    let consistent = if let Some(map) = &whole {
        map.extents().for_each(&mut join);
        true
    } else {
        each_extent(target, &mut join)?;
        let leased = match lease {
            Some(lease) => lease.is_unbroken()?,
            None => false,
        };
        leased || before.immutable() && before.immutable_since() == immutable_since(&target.statx()?)
    };
    if let Some(run) = joiner.finish() {
        visit(run);
    }
    if let Some(runs) = runs {
        *runs = whole.map_or(Runs::Listed(listed), Runs::Whole);
    }
    Ok(consistent)
}

/// Returns the ctime of an immutable inode. Clearing the flag and setting it again changes that time.
fn immutable_since(statx: &Statx) -> Option<Time> {
    statx.attributes.contains(Attributes::IMMUTABLE).then_some(statx.ctime)
}

/// Calls `act` with every extent. For a long map, another thread fetches the next extents meanwhile.
fn each_extent(target: &Target, mut act: impl FnMut(Extent)) -> Result<()> {
    /// The number of calls from which a second thread pays off.
    const SHORT: usize = 2;
    let mut extents = Extents::new(target, 0..u64::MAX, Request::SYNC);
    for _ in 0..SHORT {
        extents.batch()?.into_iter().for_each(&mut act);
    }
    let next = extents.batch()?;
    if next.is_empty() {
        return Ok(());
    }
    let extents = Mutex::new(extents);
    let fetch = || extents.lock().unwrap_or_else(PoisonError::into_inner).batch();
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(4);
        let ahead = move || {
            loop {
                let batch = fetch();
                let over = batch.as_ref().is_ok_and(VecDeque::is_empty);
                // After an error the receiver is gone.
                if over || sender.send(batch).is_err() {
                    return;
                }
            }
        };
        let alone = thread::Builder::new().spawn_scoped(scope, ahead).is_err();
        next.into_iter().for_each(&mut act);
        let rest = iter::from_fn(|| if alone { Some(fetch()) } else { receiver.recv().ok() });
        for batch in rest {
            let batch = batch?;
            if batch.is_empty() {
                break;
            }
            batch.into_iter().for_each(&mut act);
        }
        Ok(())
    })
}

fn one_call(target: &Target, state: &InodeState, most: usize) -> Result<Option<xfs::WholeMap>> {
    if target.filesystem.kind != Kind::Xfs || state.xflags().contains(Xflags::REALTIME) {
        return Ok(None);
    }
    // The inode reports its number of extents, but FIEMAP may split shared extents into more pieces.
    let mut limit = state.fsxattr.map_or(0, |fsxattr| fsxattr.nextents as usize) + 16;
    // GETBMAPX writes back only delayed allocations. Writing back the rest changes the map where blocks are unwritten,
    // or where copy-on-write blocks wait to replace others.
    let sync = || fiemap::count(target, 0..1, Request::SYNC);
    let mut synced = !target.filesystem.overwrites_in_place(&state.statx);
    if synced {
        sync()?;
    }
    while limit <= most {
        match xfs::whole_map(target, limit)? {
            Some(extents) if !synced && extents.has_unwritten() => {
                sync()?;
                synced = true;
            }
            Some(extents) => return Ok(Some(extents)),
            None => limit *= 2,
        }
    }
    Ok(None)
}

#[cfg(test)]
pub(super) fn extent(logical: u64, physical: u64, length: u64, flags: ExtentFlags) -> Extent {
    Extent { logical, physical, length, flags }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(mut joiner: Joiner, extents: &[Extent]) -> Vec<Run> {
        let mut runs: Vec<Run> = extents.iter().filter_map(|&extent| joiner.push(extent)).collect();
        runs.extend(joiner.finish());
        runs
    }

    #[test]
    fn adjacent_extents_become_one_run() {
        let none = ExtentFlags::empty();
        let extents = [extent(0, 4096, 4096, none), extent(4096, 8192, 4096, ExtentFlags::LAST)];
        assert_eq!(joined(Joiner::new(), &extents), [extent(0, 4096, 8192, none)]);
    }

    #[test]
    fn extents_with_other_place_or_flags_are_not_joined() {
        let none = ExtentFlags::empty();
        for second in [
            extent(8192, 8192, 4096, none),
            extent(4096, 12288, 4096, none),
            extent(4096, 8192, 4096, ExtentFlags::UNWRITTEN),
            extent(4096, 8192, 4096, ExtentFlags::SHARED),
            extent(4096, 8192, 4096, ExtentFlags::from_bits_retain(0x8000_0000)),
        ] {
            assert_eq!(joined(Joiner::new(), &[extent(0, 4096, 4096, none), second]).len(), 2, "{second:?}");
        }
    }

    #[test]
    fn sharing_does_not_split_a_position() {
        let extents = [extent(0, 4096, 4096, ExtentFlags::SHARED), extent(4096, 8192, 4096, ExtentFlags::empty())];
        assert_eq!(joined(Joiner::by_position(), &extents), [extent(0, 4096, 8192, ExtentFlags::empty())]);
    }
}
