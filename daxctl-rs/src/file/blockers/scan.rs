//! Finds the blockers of a file in one pass over its map.

use std::collections::BTreeMap;
use std::path::PathBuf;

use libdaxfile::fiemap::ExtentFlags;
use libdaxfile::fsxattr::Xflags;

use super::remedies::Describe;
use super::{Blocker, Kind, Range, Where};
use crate::error::Result;
use crate::file::dax;
use crate::file::layout::{Alignment, Placed, block_end};
use crate::file::map::Run;
use crate::file::staging::Staging;
use crate::file::target::{InodeState, Target};
use crate::needs::{Hold, Needs};
use crate::system::filesystem::Kind as FilesystemKind;
use crate::system::{quotas, swaps};

/// Facts that the map does not show, but that matter for it.
#[derive(Debug, Default)]
pub struct Context {
    /// Copy-on-write staging, on filesystems that have it.
    pub staging: Option<Staging>,
    /// The device that a realtime file's addresses refer to, if known.
    pub realtime_device: Option<PathBuf>,
    /// Whether the file stores disk quotas.
    pub keeps_quotas: bool,
    /// Whether the kernel grants `MAP_SYNC`, if it could be asked.
    pub map_sync: Option<bool>,
    /// Why the file does not meet `--dax`.
    pub dax: Option<dax::Missing>,
}

/// Finds the blockers that the map shows, in one pass.
#[derive(Debug)]
pub struct Scan {
    needs: Needs,
    block_size: u64,
    end: u64,
    mapped_to: u64,
    extents: u64,
    alignment: Option<Alignment>,
    judged_to: u64,
    found: BTreeMap<Kind, Where>,
}

impl Scan {
    /// Scans a file of `size` bytes in blocks of `block_size` bytes. Physical offsets count from `start`.
    #[must_use]
    pub fn new(size: u64, block_size: u64, start: u64, needs: Needs) -> Self {
        Scan {
            needs,
            block_size,
            end: block_end(size, block_size),
            mapped_to: 0,
            extents: 0,
            alignment: needs.align.map(|align| Alignment::new(align, start, block_end(size, block_size))),
            judged_to: 0,
            found: BTreeMap::new(),
        }
    }

    /// Takes the next run.
    pub fn push(&mut self, run: &Run) {
        let run_end = run.logical.saturating_add(run.length);
        self.extents += 1;
        self.add(Kind::Hole, self.mapped_to, run.logical.min(self.end));
        // Inline contents end at EOF, not at the end of a block: the rest of that block is no hole.
        self.mapped_to = self.mapped_to.max(block_end(run_end, self.block_size));
        self.add(Kind::PastEof, run.logical.max(self.end), run_end);
        for kind in self.kinds(run) {
            self.add(kind, run.logical, run_end.min(self.end));
        }
        let placed = self.alignment.as_mut().and_then(|alignment| alignment.push(run));
        self.judge_alignment(placed);
    }

    fn kinds(&self, run: &Run) -> impl Iterator<Item = Kind> + use<> {
        let has = |flags| run.flags.intersects(flags);
        let inline = has(ExtentFlags::DATA_INLINE | ExtentFlags::DATA_TAIL);
        let known = !has(ExtentFlags::UNKNOWN | ExtentFlags::DELALLOC);
        let within_block = [run.logical, run.physical, run.length].iter().any(|n| !n.is_multiple_of(self.block_size));
        [
            (Kind::Unwritten, has(ExtentFlags::UNWRITTEN)),
            (Kind::Shared, has(ExtentFlags::SHARED)),
            (Kind::Delalloc, has(ExtentFlags::DELALLOC)),
            (Kind::Inline, inline),
            (Kind::Encrypted, has(ExtentFlags::DATA_ENCRYPTED)),
            (Kind::Encoded, has(ExtentFlags::ENCODED) && !has(ExtentFlags::DATA_ENCRYPTED)),
            (Kind::Unaligned, !inline && known && (within_block || has(ExtentFlags::NOT_ALIGNED))),
            (Kind::UnknownAddress, has(ExtentFlags::UNKNOWN) && !has(ExtentFlags::DELALLOC)),
            (Kind::Merged, has(ExtentFlags::MERGED)),
        ]
        .into_iter()
        .filter_map(|(kind, found)| found.then_some(kind))
    }

    fn judge_alignment(&mut self, placed: Option<Placed>) {
        let Some(Placed { part: (from, to), off, whole }) = placed else { return };
        self.add_off(Kind::Misaligned, self.judged_to, from, None);
        self.judged_to = to;
        if off != 0 {
            return self.add_off(Kind::Misaligned, from, to, Some(off));
        }
        // The run is aligned, but its start or end cuts a piece in two.
        let (first, last) = whole.unwrap_or((to, to));
        self.add_off(Kind::Misaligned, from, first, None);
        self.add_off(Kind::Misaligned, last, to, None);
    }

    fn add(&mut self, kind: Kind, from: u64, to: u64) {
        self.add_off(kind, from, to, None);
    }

    fn add_off(&mut self, kind: Kind, from: u64, to: u64, off: Option<u64>) {
        if from >= to || kind.allowed_by(self.needs.allow) {
            return;
        }
        let found = self.found.entry(kind).or_default();
        found.bytes += to - from;
        match found.ranges.last_mut() {
            Some(last) if last.logical + last.length == from && last.off == off => last.length += to - from,
            _ => found.ranges.push(Range { logical: from, length: to - from, off }),
        }
    }

    fn end_map(&mut self) {
        self.add(Kind::Hole, self.mapped_to, self.end);
        let placed = self.alignment.as_mut().and_then(Alignment::finish);
        self.judge_alignment(placed);
        if self.alignment.is_some() {
            self.add(Kind::Misaligned, self.judged_to, self.end);
        }
    }

    /// Ends the map, and adds the blockers of size and inode. `own_record` says that this tool set IMMUTABLE.
    ///
    /// # Errors
    /// An error of reading /proc/swaps.
    pub fn finish(
        mut self,
        target: &Target,
        inode: &InodeState,
        own_record: bool,
        context: &Context,
    ) -> Result<Vec<Blocker>> {
        self.end_map();
        if inode.encrypted() {
            self.found.remove(&Kind::Encrypted);
            self.add(Kind::Encrypted, 0, self.end);
        }
        if target.filesystem.kind == FilesystemKind::F2fs {
            // f2fs sets this flag on every extent.
            self.found.remove(&Kind::Merged);
        }
        if target.filesystem.lacks_extents() {
            // The refusal of the filesystem already covers this.
            self.found.remove(&Kind::Merged);
        }
        let xflags = inode.xflags();
        let refused = target.filesystem.refusal(self.needs.hold).is_some();
        let whole_file = [
            (Kind::Staging, stages(context.staging, self.needs.hold) && !Kind::Staging.allowed_by(self.needs.allow)),
            (Kind::Empty, inode.statx.size == 0 && !Kind::Empty.allowed_by(self.needs.allow)),
            (Kind::TooManyExtents, self.needs.max_extents.is_some_and(|most| self.extents > most)),
            (Kind::Immutable, xflags.contains(Xflags::IMMUTABLE) && !own_record),
            (Kind::AppendOnly, xflags.contains(Xflags::APPEND)),
            (Kind::Verity, xflags.contains(Xflags::VERITY)),
            (Kind::Realtime, xflags.contains(Xflags::REALTIME) && context.realtime_device.is_none()),
            // A record alone interferes with nothing: swapon(8) and swapoff(8) treat a file that is only recorded like
            // any other.
            (Kind::Swapfile, self.needs.hold != Hold::None && swaps::active(&inode.statx)?),
            (Kind::QuotaFile, self.needs.hold != Hold::None && keeps_quotas(target, inode, own_record, context)?),
            (Kind::F2fsUnpinned, !refused && !target.filesystem.keeps_blocks(target)?),
            (Kind::UnsupportedFilesystem, refused),
        ];
        for (kind, _) in whole_file.into_iter().filter(|(_, found)| *found) {
            self.found.insert(kind, Where::default());
        }
        if let Some(missing) = &context.dax {
            self.found.insert(Kind::from_dax(missing), Where::default());
        }
        let dax = context.dax.as_ref();
        let describe = Describe {
            target,
            needs: self.needs,
            extents: self.extents,
            size: inode.statx.size,
            device: inode.statx.device,
            pinned: own_record,
            immutable: inode.immutable(),
            dax,
        };
        Ok(self.found.into_iter().map(|(kind, found)| describe.blocker(kind, found)).collect())
    }
}

/// Whether the file stores quotas, or, if it is about to be pinned, may later store them.
fn keeps_quotas(target: &Target, inode: &InodeState, own_record: bool, context: &Context) -> Result<bool> {
    if context.keeps_quotas || own_record || !target.filesystem.may_keep_quotas_in_files() {
        return Ok(context.keeps_quotas);
    }
    target.spare_access_time()?;
    quotas::has_form(target, inode.statx.size)
}

/// Whether writes may go elsewhere. If nothing writes to the file, staging that cannot be determined counts as none.
fn stages(staging: Option<Staging>, hold: Hold) -> bool {
    match staging {
        Some(Staging::Found { .. }) => true,
        Some(Staging::CannotTell { .. }) => hold == Hold::Writable,
        Some(Staging::None) | None => false,
    }
}

/// The blocker for a file on a filesystem that shows no map.
#[must_use]
pub fn unsupported(target: &Target, needs: Needs) -> Blocker {
    let describe =
        Describe { target, needs, extents: 0, size: 0, device: (0, 0), pinned: false, immutable: false, dax: None };
    describe.blocker(Kind::UnsupportedFilesystem, Where::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::needs::Allow;

    fn scan(needs: Needs, size: u64, runs: &[(u64, u64, u64, ExtentFlags)]) -> BTreeMap<Kind, Vec<(u64, u64)>> {
        let mut scan = Scan::new(size, 4096, 0, needs);
        for &(logical, physical, length, flags) in runs {
            scan.push(&Run { logical, physical, length, flags });
        }
        scan.end_map();
        let pairs = |found: Where| found.ranges.iter().map(|range| (range.logical, range.length)).collect();
        scan.found.into_iter().map(|(kind, found)| (kind, pairs(found))).collect()
    }

    #[test]
    fn adjacent_ranges_are_joined_and_those_past_the_end_are_told_apart() {
        let unwritten = ExtentFlags::UNWRITTEN;
        let found = scan(
            Needs::default(),
            20_000,
            &[(4096, 40960, 4096, unwritten), (8192, 81920, 4096, unwritten), (16384, 8192, 8192, unwritten)],
        );
        assert_eq!(found[&Kind::Hole], [(0, 4096), (12288, 4096)]);
        assert_eq!(found[&Kind::Unwritten], [(4096, 8192), (16384, 4096)]);
        assert_eq!(found[&Kind::PastEof], [(20480, 4096)]);
    }

    #[test]
    fn allowed_blockers_are_not_found() {
        let needs = Needs { allow: Allow::HOLE | Allow::SHARED, ..Needs::default() };
        assert!(scan(needs, 8192, &[(4096, 40960, 4096, ExtentFlags::SHARED)]).is_empty());
    }

    #[test]
    fn alignment_is_judged_piece_by_piece() {
        let needs = Needs { align: Some(65536), ..Needs::default() };
        let none = ExtentFlags::empty();
        assert!(scan(needs, 100_000, &[(0, 65536, 102_400, none)]).is_empty());
        assert_eq!(scan(needs, 100_000, &[(0, 4096, 102_400, none)])[&Kind::Misaligned], [(0, 102_400)]);
        // Two runs in one physical piece count as one; a piece cut in two is misaligned.
        assert!(scan(needs, 131_072, &[(0, 65536, 4096, none), (4096, 69632, 126_976, ExtentFlags::LAST)]).is_empty());
        assert_eq!(
            scan(needs, 196_608, &[(0, 65536, 69_632, none), (69_632, 1_052_672, 126_976, none)])[&Kind::Misaligned],
            [(65536, 65536)]
        );
    }
}
