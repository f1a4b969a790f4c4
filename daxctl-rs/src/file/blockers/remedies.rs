//! Descriptions of blockers and their remedies, in words.

use std::os::fd::AsFd;

use super::{Blocker, Kind, Where};
use crate::file::dax;
use crate::file::target::Target;
use crate::name::{for_shell, quote};
use crate::needs::{Hold, Needs};
use crate::size;
use crate::system::filesystem::Kind as FilesystemKind;
use crate::system::mounts::Mount;

/// The facts that the wording depends on.
pub(super) struct Describe<'a> {
    pub(super) target: &'a Target,
    pub(super) needs: Needs,
    pub(super) extents: u64,
    pub(super) size: u64,
    pub(super) device: (u32, u32),
    /// Whether the file has its own record.
    pub(super) pinned: bool,
    pub(super) immutable: bool,
    pub(super) dax: Option<&'a dax::Missing>,
}

impl Describe<'_> {
    pub(super) fn blocker(&self, kind: Kind, found: Where) -> Blocker {
        let (range_count, bytes) = (found.ranges.total(), found.bytes);
        Blocker {
            kind,
            detail: self.detail(kind),
            ranges: found.ranges.into_vec(),
            range_count,
            bytes,
            remedy: self.remedy(kind),
            alternative: self.alternative(kind),
            sharers: None,
        }
    }

    fn detail(&self, kind: Kind) -> String {
        let align = self.needs.align.map_or(String::new(), |align| size::format(align, false).to_string());
        match kind {
            Kind::Hole => "no blocks: a write would allocate them".into(),
            Kind::Unwritten => "allocated, never written: a write would change the map".into(),
            Kind::Shared => "other files have these blocks, too: a write would go elsewhere".into(),
            Kind::Delalloc => "not allocated yet".into(),
            Kind::Inline => "stored within metadata, in no block of its own".into(),
            Kind::Encoded => "the bytes on the device differ from the bytes that are read".into(),
            Kind::Encrypted => "encrypted by the filesystem".into(),
            Kind::Unaligned => "begins or ends within a block".into(),
            Kind::UnknownAddress => "at no known place on the device".into(),
            Kind::Merged => "mapped by block pointers, not by extents".into(),
            Kind::TooManyExtents => {
                format!("{} extents, more than {}", self.extents, self.needs.max_extents.unwrap_or(0))
            }
            Kind::Misaligned => format!("not in pieces of {align} that are aligned to {align}"),
            Kind::Staging => "copy-on-write staging, which no map shows: a write would go elsewhere".into(),
            Kind::PastEof => "blocks past the end, which the filesystem may free at any time".into(),
            Kind::Empty => "no contents, so no map".into(),
            Kind::Immutable => "made immutable, but not by a pin".into(),
            Kind::AppendOnly => "append-only".into(),
            Kind::Swapfile if self.needs.hold == Hold::Writable => {
                "an active swap file: the kernel's writes to it bypass the guard".into()
            }
            Kind::Swapfile => "an active swap file: swapoff would fail on a frozen file".into(),
            Kind::QuotaFile => {
                "has the format of a disk quota file, which the kernel writes to regardless of its flags".into()
            }
            Kind::Verity => "sealed by fs-verity".into(),
            Kind::Realtime => "on a realtime device that /proc does not name".into(),
            Kind::NotDax | Kind::DaxUnavailable | Kind::NoMapSync => {
                self.dax.map_or(String::new(), dax::Missing::detail)
            }
            Kind::F2fsUnpinned => "not pinned by f2fs, whose garbage collection may move its blocks".into(),
            Kind::UnsupportedFilesystem => {
                let filesystem = &self.target.filesystem;
                format!("{}: {}", filesystem.name(), filesystem.refusal(self.needs.hold).unwrap_or_default())
            }
        }
    }

    /// Returns the remedy: a shell command if there is one. The command includes the caller's options, and ends a pin
    /// that would be in its way.
    fn remedy(&self, kind: Kind) -> String {
        let file = self.file();
        match kind {
            Kind::Hole | Kind::Unwritten | Kind::Shared | Kind::Staging | Kind::PastEof => {
                let options: String = self.needs.options().iter().map(|option| format!("{option} ")).collect();
                self.in_place(&format!("daxfile prepare {options}{file}"))
            }
            Kind::Delalloc => format!("sync {file}"),
            // ext4 moves inline contents to blocks before any fallocate.
            Kind::Inline => self.in_place(&format!("fallocate -n -l 1 {file}")),
            Kind::Merged if self.target.filesystem.extents == Some(true) => self.in_place(&format!("chattr +e {file}")),
            Kind::Merged => self.turn_extents_on(),
            Kind::TooManyExtents => match self.target.filesystem.kind {
                // If a file's extents fit into the inode, xfs_fsr may silently leave them all in place.
                FilesystemKind::Xfs if self.extents > self.target.filesystem.extents_in_inode() => {
                    self.in_place(&format!("xfs_fsr -v {file}"))
                }
                FilesystemKind::Ext => self.in_place(&format!("e4defrag {file}")),
                _ => self.anew(self.size),
            },
            Kind::Misaligned => self.anew(self.size),
            Kind::Empty => "--allow empty, or write to it first".into(),
            Kind::Immutable => format!("chattr -i {file}"),
            // unpin must change the flags, and ext4 refuses that while the file is append-only.
            Kind::AppendOnly if self.pinned && self.immutable => format!("chattr -ia {file} && daxfile unpin {file}"),
            Kind::AppendOnly if self.pinned => format!("chattr -a {file} && daxfile unpin {file}"),
            Kind::AppendOnly => format!("chattr -a {file}"),
            Kind::Swapfile => format!("swapoff {file}"),
            Kind::QuotaFile => "quotaoff, and make the filesystem keep its quotas itself (tune2fs -O quota)".into(),
            Kind::Encoded | Kind::UnknownAddress | Kind::Verity | Kind::Unaligned => {
                format!("cp --reflink=never {file} NEW")
            }
            Kind::Encrypted => format!("cp {file} NEW, where NEW is in a directory without encryption"),
            Kind::Realtime => format!("cp --reflink=never {file} NEW, where NEW is in a directory without rtinherit"),
            Kind::NotDax | Kind::DaxUnavailable | Kind::NoMapSync => {
                self.dax.map_or(String::new(), |missing| missing.remedy(&file))
            }
            // f2fs pins whole sections.
            Kind::F2fsUnpinned => self.anew(self.size.next_multiple_of(2 << 20)),
            Kind::UnsupportedFilesystem if self.target.filesystem.lacks_extents() => self.turn_extents_on(),
            Kind::UnsupportedFilesystem if self.target.filesystem.is_overlay() => {
                "name the file in the upperdir or the lowerdir of the mount".into()
            }
            Kind::UnsupportedFilesystem => format!("cp {file} NEW, where NEW is on XFS, or on ext4 with extents"),
        }
    }

    /// An option that the caller may use instead.
    fn alternative(&self, kind: Kind) -> Option<String> {
        (kind == Kind::Shared && self.needs.hold == Hold::Frozen).then(|| "--allow shared".into())
    }

    fn file(&self) -> String {
        for_shell(&self.target.path)
    }

    /// A command that changes the file in place. If the file is pinned, the command ends the pin first: the hold would
    /// refuse the change, or the record would no longer match.
    fn in_place(&self, command: &str) -> String {
        if self.pinned { format!("daxfile unpin {} && {command}", self.file()) } else { command.into() }
    }

    /// A new file that meets the caller's requirements.
    fn anew(&self, size: u64) -> String {
        let shape = Needs { align: self.needs.align, max_extents: self.needs.max_extents, ..Needs::default() };
        let options: String = shape.options().iter().map(|option| format!("{option} ")).collect();
        let file = self.file();
        format!("daxfile alloc {options}-s {size} NEW && dd if={file} of=NEW bs=8M conv=notrunc,fsync")
    }

    /// The remedy for a file mapped by block pointers because its filesystem has no extents.
    fn turn_extents_on(&self) -> String {
        let tune = turn_extents_on(self.target, self.device);
        self.in_place(&format!("{tune} && chattr +e {}", self.file()))
    }
}

/// The command that turns on the feature `extent` of an ext2 or ext3, mounted or not.
pub(crate) fn turn_extents_on(fd: impl AsFd, (major, minor): (u32, u32)) -> String {
    let source = Mount::of(fd).ok().flatten().map(|mount| quote(&mount.source).into_owned());
    format!("tune2fs -O extents {}", source.unwrap_or_else(|| format!("/dev/block/{major}:{minor}")))
}
