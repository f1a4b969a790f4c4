//! Filesystems: the one that a file is on, the meaning of its addresses, and whether a hold works there.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use caps::Capability;
use libdaxfile::statx::{self, Statx};
use libdaxfile::xfs::{Geometry, GeometryFlags};
use libdaxfile::{Errno, f2fs, fsuuid, xfs};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::fstatfs;
use nix::sys::statvfs::{FsFlags, Statvfs, fstatvfs};
use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};

use super::{devices, ext};
use crate::error::{Error, Result, ResultExt, if_known};
use crate::needs::Hold;
use crate::size;
use crate::system::kernel::{effective_user, has_capability, text};

/// Kinds of filesystems that this program distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// XFS.
    Xfs,
    /// ext2, ext3 or ext4: they share their magic number, and usually their driver.
    Ext,
    /// f2fs.
    F2fs,
    /// Any other, by its name in /proc/filesystems, or by its magic number.
    Other(&'static str, i64),
}

/// The base of physical offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, IntoStaticStr, VariantArray)]
#[serde(into = "&'static str")]
pub enum AddressSpace {
    /// The device that the filesystem is on.
    #[strum(serialize = "filesystem's device")]
    Device,
    /// The device of an XFS for realtime files.
    #[strum(serialize = "realtime device")]
    RealtimeDevice,
    /// All devices of an f2fs, concatenated.
    #[strum(serialize = "filesystem's devices, one after another")]
    Devices,
    /// The filesystem's own address space over its devices.
    #[strum(serialize = "filesystem's own, not the device's")]
    Filesystem,
    /// Not known.
    #[strum(serialize = "unknown")]
    Unknown,
}

impl AddressSpace {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// `f_type` of statfs(2) (`include/uapi/linux/magic.h`), the name, and why no hold works there.
const OTHERS: [(i64, &str, &str); 11] = [
    (0x9123_683e, "btrfs", "every write relocates, and its addresses are not device addresses"),
    (0xca45_1a4e, "bcachefs", "every write relocates, and its addresses are not device addresses"),
    (OVERLAY, "overlay", "the file is in another filesystem: look at it on the filesystem below"),
    (0x0102_1994, "tmpfs", "its files have no blocks"),
    (0x8584_58f6, "ramfs", "its files have no blocks"),
    (NFS, "nfs", "the map is the server's"),
    (CIFS, "cifs", "the map is the server's"),
    (FUSE, "fuse", "another program keeps the map"),
    (0x2fc1_2fc1, "zfs", "every write relocates"),
    (0x9660, "iso9660", "it cannot be written"),
    (0x7371_7368, "squashfs", "it cannot be written"),
];

const TMPFS: i64 = 0x0102_1994;
const OVERLAY: i64 = 0x794c_7630;
const NFS: i64 = 0x6969;
const CIFS: i64 = 0xff53_4d42;
const FUSE: i64 = 0x6573_5546;

/// How long to wait for space that was just freed: XFS frees the blocks of deleted files in the background. statfs(2)
/// speeds that up, but does not wait for it (`xfs_fs_statfs()`).
const DELETION: Duration = Duration::from_secs(1);

/// The filesystem that a file is on.
#[derive(Debug, Clone, Copy)]
pub struct Filesystem {
    /// Its kind.
    pub kind: Kind,
    /// Size of a block in bytes.
    pub block_size: u64,
    /// Its UUID, if the kernel or the filesystem reports it.
    pub uuid: Option<[u8; 16]>,
    /// Whether the mount is read-only.
    pub read_only: bool,
    xfs: Option<Geometry>,
    always_cow: bool,
    /// For ext2, ext3 and ext4: whether the feature `extent` is on, if that is known.
    pub(crate) extents: Option<bool>,
}

/// A cache of filesystems: each one is examined once. A descriptor keeps each one in use, so that no other filesystem
/// can get its device number. It is an `O_PATH` descriptor, which takes no part in leases.
#[derive(Debug, Default)]
pub struct Known(Mutex<Vec<Held>>);

#[derive(Debug)]
struct Held {
    device: (u32, u32),
    filesystem: Filesystem,
    _by: OwnedFd,
}

impl Known {
    pub(crate) fn of(&self, device: (u32, u32), file: &File) -> Result<Filesystem> {
        let by_path = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = known.iter().find(|held| held.device == device) {
            return Ok(held.filesystem);
        }
        let filesystem = Filesystem::of(file)?;
        let same = format!("/proc/self/fd/{}", file.as_raw_fd());
        // Without the descriptor, the next file asks again.
        if let Ok(by) = open(same.as_str(), by_path, Mode::empty()) {
            known.push(Held { device, filesystem, _by: by });
        }
        Ok(filesystem)
    }
}

impl Filesystem {
    /// Reads the facts of the filesystem of an open file or directory.
    ///
    /// # Errors
    /// An error of fstatfs(2), or of the ioctls that report UUID and geometry.
    pub fn of(fd: impl AsFd) -> Result<Self> {
        const XFS: i64 = 0x5846_5342;
        const EXT: i64 = 0xef53;
        const F2FS: i64 = 0xf2f5_2010;
        let statfs = fstatfs(&fd).call("fstatfs")?;
        let magic = statfs.filesystem_type().0 & 0xffff_ffff;
        let kind = match magic {
            XFS => Kind::Xfs,
            EXT => Kind::Ext,
            F2FS => Kind::F2fs,
            _ => {
                let name = OTHERS.iter().find(|other| other.0 == magic).map_or("unknown", |other| other.1);
                Kind::Other(name, magic)
            }
        };
        let geometry = match kind {
            Kind::Xfs => Some(xfs::geometry(&fd)?),
            _ => None,
        };
        let block_size = u64::try_from(statfs.block_size()).unwrap_or(0).max(1);
        let uuid = match geometry {
            Some(geometry) => Some(geometry.uuid),
            None => if_known(fsuuid::get(&fd))?,
        };
        Ok(Filesystem {
            kind,
            block_size: geometry.map_or(block_size, |geometry| geometry.block_size.into()),
            uuid: uuid.filter(|uuid| *uuid != [0; 16]),
            read_only: statfs.flags().contains(FsFlags::ST_RDONLY),
            xfs: geometry,
            always_cow: geometry.is_some() && text("/sys/fs/xfs/debug/always_cow").as_deref() == Some("1"),
            extents: if kind == Kind::Ext { ext::has_extents(&fd)? } else { None },
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Xfs => "xfs",
            Kind::Ext => "ext4",
            Kind::F2fs => "f2fs",
            Kind::Other(name, _) => name,
        }
    }

    /// Why this hold does not work here; `None` if it does.
    #[must_use]
    pub fn refusal(&self, hold: Hold) -> Option<&'static str> {
        match self.kind {
            Kind::F2fs if hold == Hold::Writable => None,
            Kind::F2fs if cfg!(feature = "guard") => {
                Some("its garbage collection moves the blocks of immutable files; --hold writable makes f2fs keep them")
            }
            Kind::F2fs => Some(
                "its garbage collection moves the blocks of immutable files; only --hold writable, \
                 which this daxfile was built without, has f2fs keep them",
            ),
            Kind::Ext if self.lacks_extents() => {
                Some("its feature extent is off, as on ext2 and ext3: files are mapped by block pointers")
            }
            Kind::Xfs if self.xfs_has(GeometryFlags::ZONED) => Some("a zoned XFS relocates every write"),
            Kind::Xfs if self.always_cow => Some("always_cow of XFS, a debug setting, relocates every write"),
            Kind::Xfs | Kind::Ext => None,
            Kind::Other(_, magic) => {
                let other = OTHERS.iter().find(|other| other.0 == magic);
                Some(other.map_or("it is not known whether it keeps blocks in place", |other| other.2))
            }
        }
    }

    /// Whether this is an ext2, ext3 or ext4 whose feature `extent` is known to be off.
    #[must_use]
    pub fn lacks_extents(&self) -> bool {
        self.extents == Some(false)
    }

    /// Whether this is an overlayfs, whose files are stored in other filesystems.
    #[must_use]
    pub fn is_overlay(&self) -> bool {
        matches!(self.kind, Kind::Other(_, OVERLAY))
    }

    /// The most extents that fit into an inode of XFS (`XFS_INODE_CORE_SIZE` and `sizeof(xfs_bmbt_rec)`).
    #[must_use]
    pub fn extents_in_inode(&self) -> u64 {
        self.xfs.map_or(0, |geometry| u64::from(geometry.inode_size.saturating_sub(176)) / 16)
    }

    /// Why files here are refused if they are really stored in another filesystem; `None` if they are stored here.
    #[must_use]
    pub fn elsewhere(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Other(_, OVERLAY | NFS | CIFS | FUSE) => self.refusal(Hold::None),
            _ => None,
        }
    }

    /// Whether no hold works here.
    #[must_use]
    pub fn refuses_every_hold(&self) -> bool {
        Hold::ALL.iter().all(|hold| self.refusal(*hold).is_some())
    }

    /// Whether the filesystem leaves this file's blocks in place. f2fs does that only for files that it has pinned.
    ///
    /// # Errors
    /// An error of the ioctl that reads the flags.
    pub fn keeps_blocks(&self, file: impl AsFd) -> Result<bool> {
        Ok(self.kind != Kind::F2fs || f2fs::is_pinned(file)?)
    }

    /// The base of the physical offsets of a file here.
    #[must_use]
    pub fn address_space(&self, realtime: bool) -> AddressSpace {
        match self.kind {
            Kind::Xfs if realtime => AddressSpace::RealtimeDevice,
            Kind::Xfs | Kind::Ext => AddressSpace::Device,
            Kind::F2fs => AddressSpace::Devices,
            Kind::Other("btrfs" | "bcachefs", _) => AddressSpace::Filesystem,
            Kind::Other(..) => AddressSpace::Unknown,
        }
    }

    /// Names of an XFS's features (`XFS_FSOP_GEOM_FLAGS_*`); `None` for other filesystems.
    #[must_use]
    pub fn features(&self) -> Option<Vec<String>> {
        let flags = self.xfs?.flags;
        Some(flags.iter_names().map(|(name, _)| name.to_lowercase()).collect())
    }

    fn xfs_has(&self, feature: GeometryFlags) -> bool {
        self.xfs.is_some_and(|geometry| geometry.flags.contains(feature))
    }

    /// The geometry, if this is an XFS that can share blocks.
    #[must_use]
    pub fn reflinking_xfs(&self) -> Option<Geometry> {
        self.xfs.filter(|_| self.xfs_has(GeometryFlags::REFLINK))
    }

    /// Whether XFS reports that it overwrites every block of the file in place: it allows direct writes smaller than a
    /// block only if no block was shared since the file was last unshared (`xfs_report_dioalign()`).
    #[must_use]
    pub fn overwrites_in_place(&self, statx: &Statx) -> bool {
        let smallest = statx.direct_io.map(|(_, offsets)| offsets).filter(|_| statx.direct_io_is_exact);
        self.xfs.is_some_and(|geometry| smallest.is_some_and(|offsets| offsets < geometry.block_size))
    }

    /// Whether it records the owners of every block.
    #[must_use]
    pub fn records_owners(&self) -> bool {
        self.xfs_has(GeometryFlags::RMAPBT)
    }

    /// Waits until XFS has processed all files deleted so far, whose blocks count as shared until then. Returns `false`
    /// if there is nothing to wait for.
    ///
    /// # Errors
    /// An error of fstatfs(2), or of `XFS_IOC_FREE_EOFBLOCKS` unless the caller or the mount may not use it.
    pub(crate) fn await_deletions(&self, file: impl AsFd) -> Result<bool> {
        /// How long the deletions take on a busy machine once statfs(2) speeds them up.
        const PATIENCE: Duration = Duration::from_millis(250);
        static AWAITED: Mutex<Option<Instant>> = Mutex::new(None);
        if self.kind != Kind::Xfs {
            return Ok(false);
        }
        // No file is large enough for this call to free any of its blocks. But the call waits for deleted files
        // (xfs_inodegc_flush()).
        match xfs::free_eofblocks(&file, u64::MAX) {
            Ok(()) => return Ok(true),
            Err(error) if [Errno::EPERM, Errno::EROFS].contains(&error.errno) => {}
            Err(error) => return Err(error.into()),
        }
        fstatfs(&file).call("fstatfs")?;
        let mut awaited = AWAITED.lock().unwrap_or_else(PoisonError::into_inner);
        // Do not wait again for each of many files that really share blocks.
        let waits = awaited.is_none_or(|awaited| awaited.elapsed() > 4 * PATIENCE);
        if waits {
            sleep(PATIENCE);
            *awaited = Some(Instant::now());
        }
        Ok(waits)
    }

    /// Whether quotaon(8) can store quotas in any file.
    #[must_use]
    pub fn may_keep_quotas_in_files(&self) -> bool {
        matches!(self.kind, Kind::Ext | Kind::F2fs)
    }

    /// Whether another machine stores its files, so that no call here can report or fix their maps.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(self.kind, Kind::Other("nfs" | "cifs", _))
    }

    /// The free blocks, including those reserved for root, which a process with CAP_SYS_RESOURCE may use as well. ext4
    /// withholds some from every process, for delayed allocation (`ext4_calculate_resv_clusters()`).
    fn all_blocks(&self, fd: impl AsFd, statvfs: &Statvfs) -> Result<u64> {
        let kept = match self.kind {
            Kind::Ext => {
                let told = devices::ext4_reserved_clusters(statx::get(fd)?.device);
                told.unwrap_or_else(|| (statvfs.blocks() / 50).min(4096))
            }
            _ => 0,
        };
        Ok(statvfs.blocks_free().saturating_sub(kept).max(statvfs.blocks_available()))
    }

    /// Whether this process may use the blocks that a filesystem reserves: ext4 and f2fs reserve them for root as a
    /// user (`ext4_has_free_clusters()`).
    fn may_use_reserve(&self) -> Result<bool> {
        if effective_user().is_root() && matches!(self.kind, Kind::Ext | Kind::F2fs) {
            return Ok(true);
        }
        has_capability(Capability::CAP_SYS_RESOURCE)
    }

    /// The free space that this process may use.
    pub(crate) fn free_bytes(&self, fd: impl AsFd) -> Result<u64> {
        let statvfs = fstatvfs(&fd).call("fstatvfs")?;
        let blocks = if self.may_use_reserve()? { self.all_blocks(&fd, &statvfs)? } else { statvfs.blocks_available() };
        Ok(blocks.saturating_mul(statvfs.fragment_size()))
    }

    /// The free space that root may use.
    pub(crate) fn free_bytes_for_root(&self, fd: impl AsFd) -> Result<u64> {
        let statvfs = fstatvfs(&fd).call("fstatvfs")?;
        Ok(self.all_blocks(&fd, &statvfs)?.saturating_mul(statvfs.fragment_size()))
    }

    /// Whether this filesystem lets the process exceed quotas (`ignore_hardlimit()` in `fs/quota/dquot.c`). XFS asks for
    /// no privilege, but has no limits for user, group and project 0 (`xfs_trans_dqresv()`).
    pub(crate) fn lets_exceed_quotas(&self) -> Result<bool> {
        Ok(self.kind != Kind::Xfs && has_capability(Capability::CAP_SYS_RESOURCE)?)
    }

    /// The space that XFS sets aside while it stores an extended attribute, although most attributes then take none
    /// (`xfs_attr_calc_size()`). 0 for other filesystems.
    #[must_use]
    pub fn set_aside_for_attribute(&self, name_length: u64, length: u64) -> u64 {
        /// `XFS_DA_NODE_MAXDEPTH`
        const DEPTH: u64 = 5;
        let Some(geometry) = self.xfs else { return 0 };
        let block = u64::from(geometry.block_size);
        let most = if self.xfs_has(GeometryFlags::NREXT64) { u64::from(u32::MAX) } else { 0x7fff };
        let map = extent_btree_levels(block, most) - 1;
        let split = DEPTH * (1 + map);
        // `xfs_attr_leaf_entsize_local()` and `xfs_attr_leaf_entsize_local_max()`
        let entry = (3 + name_length + length).next_multiple_of(4);
        let blocks = if entry >= block / 4 * 3 {
            // `XFS_ATTR3_RMT_BUF_SPACE()`
            split + length.div_ceil(block - 56) + map
        } else if entry > block / 2 {
            2 * split
        } else {
            split
        };
        blocks * block
    }

    /// Returns how many bytes of attributes fit into an inode of ext4, and whether attributes beyond these need no room
    /// in the inode or in a block. `None` if nothing reports it.
    pub(crate) fn room_in_inode(&self, fd: impl AsFd) -> Result<Option<(usize, bool)>> {
        ext::room_for_attributes(fd)
    }

    /// Refuses work that needs more space than is free. Some filesystems fail half-way instead, and leave the disk
    /// full.
    ///
    /// # Errors
    /// `ENOSPC` with the numbers; an error of fstatvfs(2).
    pub(crate) fn require_space(&self, fd: impl AsFd, bytes: u64) -> Result<()> {
        let deadline = Instant::now() + DELETION;
        loop {
            let free = self.free_bytes(&fd)?;
            if bytes <= free {
                return Ok(());
            }
            if self.kind != Kind::Xfs || Instant::now() >= deadline {
                let (bytes, free) = (size::format(bytes, false), size::format(free, false));
                return Err(Error::from_errno(Errno::ENOSPC).because(format!("needs {bytes}, {free} are free")));
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Whether `FS_XFLAG_NODEFRAG` stays when set; ext4 accepts and drops it.
    #[must_use]
    pub fn keeps_nodefrag(&self) -> bool {
        self.kind == Kind::Xfs
    }

    /// Refuses tmpfs, where FIEMAP succeeds and reports nothing. That must not count as "no extents".
    ///
    /// # Errors
    /// `EOPNOTSUPP` on tmpfs.
    pub(crate) fn require_extents(&self) -> Result<()> {
        match self.kind {
            Kind::Other(name, TMPFS) => {
                Err(Error::from_errno(Errno::EOPNOTSUPP).because(format!("{name} has no extents")))
            }
            _ if self.is_remote() => {
                let why = self.refusal(Hold::Frozen).unwrap_or_default();
                Err(Error::call("ioctl(FS_IOC_FIEMAP)", Errno::EOPNOTSUPP).because(why))
            }
            _ => Ok(()),
        }
    }
}

/// The most levels of an XFS's btree of the extents of a file's attributes (`xfs_bmap_compute_maxlevels()`).
fn extent_btree_levels(block: u64, most_extents: u64) -> u64 {
    /// A root in the inode has room for two pointers: `MINABTPTRS`.
    const IN_ROOT: u64 = 2;
    // `XFS_BMBT_BLOCK_LEN()`; a record, and a key with its pointer, take 16 bytes. A block is at least half full.
    let records = (block.saturating_sub(72) / 16 / 2).max(2);
    let mut blocks = most_extents.div_ceil(records);
    let mut levels = 1;
    while blocks > 1 {
        blocks = if blocks <= IN_ROOT { 1 } else { blocks.div_ceil(records) };
        levels += 1;
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f2fs_is_refused_with_what_helps_there() {
        let f2fs = Filesystem {
            kind: Kind::F2fs,
            block_size: 4096,
            uuid: None,
            read_only: false,
            xfs: None,
            always_cow: false,
            extents: None,
        };
        assert_eq!(f2fs.refusal(Hold::Writable), None);
        for why in [Hold::Frozen, Hold::None].map(|hold| f2fs.refusal(hold).unwrap_or_default()) {
            assert!(why.contains("--hold writable"), "{why}");
            assert_eq!(why.contains("built without"), !cfg!(feature = "guard"), "{why}");
        }
    }

    #[test]
    fn btrees_are_as_deep_as_the_kernel_reserves_for() {
        assert_eq!(extent_btree_levels(4096, 0x7fff), 3);
        assert_eq!(extent_btree_levels(1024, 0x7fff), 4);
        assert_eq!(extent_btree_levels(4096, u32::MAX.into()), 5);
        assert_eq!(extent_btree_levels(65536, 0x7fff), 2);
    }
}
