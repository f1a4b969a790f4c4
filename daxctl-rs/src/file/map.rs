//! Extent maps: read in one pass, joined into runs, and proved untorn where that can be.

use std::collections::VecDeque;
use std::sync::mpsc::sync_channel;
use std::thread;

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

/// Flags that say nothing of where the bytes are: the record boundaries of FIEMAP change by themselves on ext4.
const IMMATERIAL: ExtentFlags = ExtentFlags::LAST.union(ExtentFlags::MERGED);

/// Most extents that are asked of XFS in one call, 48 bytes each: where they are to be shown, and where they only prove that
/// the map is untorn.
const ONE_CALL: [usize; 2] = [1 << 22, 1 << 18];

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
    /// Joins what differs in nothing but record boundaries.
    #[must_use]
    pub fn new() -> Self {
        Joiner { ignored: IMMATERIAL, last: None }
    }

    /// Joins by position and written state alone; who else has the blocks is left out.
    #[must_use]
    pub fn by_position() -> Self {
        Joiner { ignored: IMMATERIAL | ExtentFlags::SHARED, last: None }
    }

    /// Takes the next extent; gives the run that it ended.
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

    /// Gives the last run.
    pub fn finish(&mut self) -> Option<Run> {
        self.last.take()
    }
}

impl Default for Joiner {
    fn default() -> Self {
        Joiner::new()
    }
}

/// A map that was read, held once: as XFS gave it in one call, or as a list.
#[derive(Debug)]
pub enum Runs {
    /// What one call gave.
    Whole(xfs::WholeMap),
    /// Each run.
    Listed(Vec<Run>),
}

impl Default for Runs {
    fn default() -> Self {
        Runs::Listed(Vec::new())
    }
}

impl Runs {
    /// Goes through its runs, in logical order.
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

/// Reads the whole map, blocks past EOF included, and gives each run to `visit` in logical order; `kept` gets them to go
/// through again. Dirty pages are written back first. Returns whether the map is proved to have been like this at one
/// moment: because the file was immutable all the while since `before`, because `lease` stood undisturbed, or because XFS
/// gave all of it in one call.
///
/// # Errors
/// Those of FIEMAP; `EOPNOTSUPP` where the filesystem has no extents to show.
pub fn read(
    target: &Target,
    before: &InodeState,
    lease: Option<&Lease<'_>>,
    kept: Option<&mut Runs>,
    mut visit: impl FnMut(Run),
) -> Result<bool> {
    target.filesystem.require_extents()?;
    let certain_anyway = lease.is_some() || before.immutable();
    let whole = if certain_anyway { None } else { one_call(target, before, ONE_CALL[usize::from(kept.is_none())])? };
    let lists = kept.is_some() && whole.is_none();
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
            Some(lease) => lease.undisturbed()?,
            None => false,
        };
        leased || before.immutable() && before.immutable_since() == immutable_since(&target.statx()?)
    };
    if let Some(run) = joiner.finish() {
        visit(run);
    }
    if let Some(kept) = kept {
        *kept = whole.map_or(Runs::Listed(listed), Runs::Whole);
    }
    Ok(consistent)
}

/// The time of the last change to an inode that is immutable. Clearing the flag and setting it again changes that time.
fn immutable_since(statx: &Statx) -> Option<Time> {
    statx.attributes.contains(Attributes::IMMUTABLE).then_some(statx.ctime)
}

/// Gives every extent to `act`. Of a long map, the next are fetched meanwhile.
fn each_extent(target: &Target, mut act: impl FnMut(Extent)) -> Result<()> {
    /// Calls before another thread pays.
    const SHORT: usize = 2;
    let mut extents = Extents::new(target, 0..u64::MAX, Request::SYNC);
    for _ in 0..SHORT {
        extents.batch()?.into_iter().for_each(&mut act);
    }
    let next = extents.batch()?;
    if next.is_empty() {
        return Ok(());
    }
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(4);
        scope.spawn(move || {
            loop {
                let batch = extents.batch();
                let over = batch.as_ref().is_ok_and(VecDeque::is_empty);
                // Nobody listens any more after an error.
                if over || sender.send(batch).is_err() {
                    return;
                }
            }
        });
        next.into_iter().for_each(&mut act);
        receiver.into_iter().try_for_each(|batch| {
            batch?.into_iter().for_each(&mut act);
            Ok(())
        })
    })
}

fn one_call(target: &Target, state: &InodeState, most: usize) -> Result<Option<xfs::WholeMap>> {
    if target.filesystem.kind != Kind::Xfs || state.xflags().contains(Xflags::REALTIME) {
        return Ok(None);
    }
    // The inode tells its number of extents, but shared ones come in more pieces than that.
    let mut limit = state.fsxattr.map_or(0, |fsxattr| fsxattr.nextents as usize) + 16;
    // GETBMAPX writes back only what awaits allocation. Writing back the rest changes the map where blocks are unwritten, or
    // where others wait to replace them.
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
mod tests {
    use super::*;

    fn extent(logical: u64, physical: u64, length: u64, flags: ExtentFlags) -> Extent {
        Extent { logical, physical, length, flags }
    }

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
    fn what_differs_in_place_or_flags_stays_apart() {
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
