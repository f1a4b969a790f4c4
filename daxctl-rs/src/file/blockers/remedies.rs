//! What a blocker is in words, and what removes it.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::scan::Where;
use super::{Blocker, Kind};
use crate::file::dax;
use crate::file::target::Target;
use crate::name::quote;
use crate::needs::Needs;
use crate::size;
use crate::system::filesystem::Kind as FilesystemKind;

/// What the words depend on.
pub(super) struct Describe<'a> {
    pub(super) target: &'a Target,
    pub(super) needs: Needs,
    pub(super) extents: u64,
    pub(super) size: u64,
    pub(super) dax: Option<&'a dax::Lack>,
}

impl Describe<'_> {
    pub(super) fn blocker(&self, kind: Kind, found: Where) -> Blocker {
        let (range_count, bytes) = (found.ranges.total(), found.bytes);
        let (detail, remedy) = (self.detail(kind), self.remedy(kind));
        Blocker { kind, detail, ranges: found.ranges.into_kept(), range_count, bytes, remedy, sharers: None }
    }

    fn detail(&self, kind: Kind) -> String {
        let align = self.needs.align.map_or(String::new(), |align| size::format(align, false).to_string());
        match kind {
            Kind::Hole => "no blocks: a store allocates".into(),
            Kind::Unwritten => "allocated, never written: a store changes the map".into(),
            Kind::Shared => "other files have these blocks, too: a store goes elsewhere".into(),
            Kind::Delalloc => "not allocated yet".into(),
            Kind::Inline => "kept among metadata, in no block of its own".into(),
            Kind::Encoded => "the device does not hold the bytes that are read".into(),
            Kind::Encrypted => "encrypted by the filesystem".into(),
            Kind::Unaligned => "begins or ends within a block".into(),
            Kind::UnknownAddress => "at no known place".into(),
            Kind::Merged => "mapped by block pointers, not by extents".into(),
            Kind::TooManyExtents => {
                format!("{} extents, more than {}", self.extents, self.needs.max_extents.unwrap_or(0))
            }
            Kind::Misaligned => format!("not in pieces of {align} at multiples of {align}"),
            Kind::Staging => "copy-on-write staging, which no map shows: a store goes elsewhere".into(),
            Kind::PastEof => "blocks past the end, which the filesystem may free at any time".into(),
            Kind::Empty => "no contents, so no map".into(),
            Kind::Immutable => "made immutable, but not by a pin".into(),
            Kind::AppendOnly => "append-only".into(),
            Kind::Swapfile => "an active swapfile could not be swapped off".into(),
            Kind::QuotaFile => "of the form of a disk quota file, to which the kernel writes whatever its flags".into(),
            Kind::Verity => "sealed by fs-verity".into(),
            Kind::Realtime => "on a realtime device whose name /proc does not tell".into(),
            Kind::NotDax | Kind::DaxUnavailable | Kind::NoMapSync => self.dax.map_or(String::new(), dax::Lack::detail),
            Kind::F2fsUnpinned => "not pinned by f2fs, whose garbage collection may move its blocks".into(),
            Kind::UnsupportedFilesystem => {
                let filesystem = &self.target.filesystem;
                format!("{}: {}", filesystem.name(), filesystem.refusal(self.needs.hold).unwrap_or_default())
            }
        }
    }

    fn remedy(&self, kind: Kind) -> String {
        let path = &self.target.path;
        // A name like an option must not be taken for one.
        let path = if path.as_os_str().as_bytes().starts_with(b"-") { &Path::new(".").join(path) } else { path };
        let file = quote(path);
        let anew =
            |wanted: String| format!("daxfile alloc {wanted} NEW && dd if={file} of=NEW bs=8M conv=notrunc,fsync");
        match kind {
            Kind::Hole | Kind::Unwritten | Kind::Shared | Kind::Staging | Kind::PastEof => {
                format!("daxfile prepare {file}")
            }
            Kind::Delalloc => format!("sync {file}"),
            // ext4 gives inline contents blocks of their own before any fallocate.
            Kind::Inline => format!("fallocate -n -l 1 {file}"),
            Kind::Merged => format!("chattr +e {file}"),
            Kind::TooManyExtents if self.target.filesystem.kind == FilesystemKind::Xfs => format!("xfs_fsr -v {file}"),
            Kind::TooManyExtents => format!("e4defrag {file}"),
            Kind::Misaligned => anew(format!("--align {} -s {}", self.needs.align.unwrap_or(0), self.size)),
            Kind::Empty => "--allow empty, or write to it first".into(),
            Kind::Immutable => format!("chattr -i {file}"),
            Kind::AppendOnly => format!("chattr -a {file}"),
            Kind::Swapfile => format!("swapoff {file}"),
            Kind::QuotaFile => "quotaoff, and have quotas kept by the filesystem (tune2fs -O quota)".into(),
            Kind::Encoded | Kind::UnknownAddress | Kind::Verity | Kind::Unaligned => {
                format!("cp --reflink=never {file} NEW")
            }
            Kind::Encrypted => format!("cp {file} NEW, where NEW is in a directory without encryption"),
            Kind::Realtime => format!("cp --reflink=never {file} NEW, where NEW is in a directory without rtinherit"),
            Kind::NotDax | Kind::DaxUnavailable | Kind::NoMapSync => {
                self.dax.map_or(String::new(), |lack| lack.remedy(&file))
            }
            // f2fs pins whole sections.
            Kind::F2fsUnpinned => anew(format!("-s {}", self.size.next_multiple_of(2 << 20))),
            Kind::UnsupportedFilesystem => format!("cp {file} to XFS, or to ext4 with extents"),
        }
    }
}
