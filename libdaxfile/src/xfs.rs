//! Ioctls of XFS: the geometry of the filesystem, a whole extent map in one call, and the freeing of preallocated blocks.
//!
//! On other filesystems, every call fails with `ENOTTY`.
//!
//! Reference: `fs/xfs/libxfs/xfs_fs.h`, `fs/xfs/xfs_ioctl.c`, `xfs_getbmap()` in `fs/xfs/xfs_bmap_util.c`; xfsctl(3),
//! ioctl_xfs_fsop_geometry(2), ioctl_xfs_getbmapx(2).

use std::mem::offset_of;
use std::os::fd::AsFd;

use crate::error::Result;
use crate::fiemap::{Extent, ExtentFlags};
use crate::ioctl::Ioctl;

bitflags::bitflags! {
    /// Features of the filesystem, `XFS_FSOP_GEOM_FLAGS_*`: those that concern extent maps are named, all others are kept.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct GeometryFlags: u32 {
        /// A reverse map records the owners of every block.
        const RMAPBT = 1 << 19;
        /// Files can share blocks.
        const REFLINK = 1 << 20;
        /// Files can have 2^48 extents, and 2^32 of attributes (Linux 5.19).
        const NREXT64 = 1 << 23;
        /// Data is written to zones, so that every write moves blocks (Linux 6.15).
        const ZONED = 1 << 27;
        const _ = !0;
    }
}

/// `struct xfs_fsop_geom`.
#[doc(hidden)]
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct RawGeometry {
    pub blocksize: u32,
    pub rtextsize: u32,
    pub agblocks: u32,
    pub agcount: u32,
    pub logblocks: u32,
    pub sectsize: u32,
    pub inodesize: u32,
    pub imaxpct: u32,
    pub datablocks: u64,
    pub rtblocks: u64,
    pub rtextents: u64,
    pub logstart: u64,
    pub uuid: [u8; 16],
    pub sunit: u32,
    pub swidth: u32,
    pub version: i32,
    pub flags: u32,
    pub logsectsize: u32,
    pub rtsectsize: u32,
    pub dirblocksize: u32,
    pub logsunit: u32,
    pub sick: u32,
    pub checked: u32,
    pub reserved: [u64; 17],
}

/// The result of [`geometry`]. Sizes are in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    /// Size of a block.
    pub block_size: u32,
    /// Size of an inode.
    pub inode_size: u32,
    /// UUID of the filesystem.
    pub uuid: [u8; 16],
    /// Features.
    pub flags: GeometryFlags,
}

/// `struct getbmapx`: the head of the call and, behind it, one entry for each extent. Offsets and lengths are in units of
/// 512 bytes.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawBmapx {
    pub bmv_offset: i64,
    pub bmv_block: i64,
    pub bmv_length: i64,
    pub bmv_count: i32,
    pub bmv_entries: i32,
    pub bmv_iflags: i32,
    pub bmv_oflags: i32,
    pub bmv_unused1: i32,
    pub bmv_unused2: i32,
}

/// `struct xfs_fs_eofblocks`.
#[doc(hidden)]
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct RawEofblocks {
    pub eof_version: u32,
    pub eof_flags: u32,
    pub eof_uid: u32,
    pub eof_gid: u32,
    pub eof_prid: u32,
    pub pad32: u32,
    pub eof_min_file_size: u64,
    pub pad64: [u64; 12],
}

/// `_IOR('X', 126, struct xfs_fsop_geom)`
#[doc(hidden)]
pub const XFS_IOC_FSGEOMETRY: Ioctl<RawGeometry> = Ioctl::read::<RawGeometry>("ioctl(XFS_IOC_FSGEOMETRY)", b'X', 126);
/// `_IOWR('X', 56, struct getbmap)`: the kernel reads and writes `struct getbmapx`, but the number has the size of the older
/// structure, which ends before `bmv_iflags`.
#[doc(hidden)]
pub const XFS_IOC_GETBMAPX: Ioctl<RawBmapx> =
    Ioctl::read_write::<[u8; offset_of!(RawBmapx, bmv_iflags)]>("ioctl(XFS_IOC_GETBMAPX)", b'X', 56);
/// `_IOR('X', 58, struct xfs_fs_eofblocks)`
#[doc(hidden)]
pub const XFS_IOC_FREE_EOFBLOCKS: Ioctl<RawEofblocks> =
    Ioctl::read::<RawEofblocks>("ioctl(XFS_IOC_FREE_EOFBLOCKS)", b'X', 58);

#[doc(hidden)]
pub const BMV_IF_PREALLOC: i32 = 0x4;
#[doc(hidden)]
pub const BMV_IF_NO_HOLES: i32 = 0x10;
#[doc(hidden)]
pub const BMV_OF_PREALLOC: i32 = 0x1;
#[doc(hidden)]
pub const BMV_OF_SHARED: i32 = 0x8;

#[doc(hidden)]
pub const XFS_EOFBLOCKS_VERSION: u32 = 1;
#[doc(hidden)]
pub const XFS_EOF_FLAGS_SYNC: u32 = 1 << 0;
#[doc(hidden)]
pub const XFS_EOF_FLAGS_MINFILESIZE: u32 = 1 << 4;

/// Returns the geometry of the filesystem that holds the file. Linux 5.2 and later; needs no privilege.
///
/// # Errors
/// `ENOTTY`: the filesystem is not XFS.
#[doc(alias = "XFS_IOC_FSGEOMETRY")]
pub fn geometry(fd: impl AsFd) -> Result<Geometry> {
    let mut raw = RawGeometry::default();
    // SAFETY: the pointer is to a live, exclusively borrowed `struct xfs_fsop_geom` of integers, which the kernel fills.
    unsafe { XFS_IOC_FSGEOMETRY.call(fd, &raw mut raw) }?;
    Ok(Geometry {
        block_size: raw.blocksize,
        inode_size: raw.inodesize,
        uuid: raw.uuid,
        flags: GeometryFlags::from_bits_retain(raw.flags),
    })
}

/// Returns the whole extent map of a file at one moment, blocks past EOF included; `None` if the file has more
/// than `limit` extents.
///
/// The kernel holds the inode's lock during the one call. It writes dirty pages back first only where blocks are not
/// allocated yet (delayed allocation, `xfs_getbmap()`): unwritten blocks under dirty pages stay unwritten. Call
/// [`fiemap`](crate::fiemap) with [`Request::SYNC`](crate::fiemap::Request::SYNC) or fsync(2) before, if that matters.
/// Needs no privilege.
///
/// Flags have the values of FIEMAP. The physical offsets of a realtime file are those of the realtime device.
///
/// # Errors
/// - `ENOTTY`: the filesystem is not XFS.
/// - `ENOMEM`: the kernel cannot allocate memory for `limit` entries.
#[doc(alias = "XFS_IOC_GETBMAPX")]
pub fn whole_map(fd: impl AsFd, limit: usize) -> Result<Option<WholeMap>> {
    // The head, and room for one extent more than the limit: a full array may have left something out.
    let Ok(count) = i32::try_from(limit.saturating_add(2)) else { return Ok(None) };
    let mut entries = Vec::with_capacity(limit.saturating_add(2));
    entries.push(RawBmapx {
        // A length of -1 would end at EOF and leave out the blocks past it.
        bmv_length: i64::MAX / 512,
        bmv_count: count,
        bmv_iflags: BMV_IF_PREALLOC | BMV_IF_NO_HOLES,
        ..RawBmapx::default()
    });
    // SAFETY: bmv_count says how many entries, the head included, there is room for behind the pointer; the kernel reads
    // the head and writes no more entries than that.
    unsafe { XFS_IOC_GETBMAPX.call(fd, entries.as_mut_ptr()) }?;
    let found = usize::try_from(entries[0].bmv_entries).unwrap_or(0);
    if found > limit {
        return Ok(None);
    }
    // SAFETY: the kernel wrote `found` entries behind the head (`xfs_ioc_getbmap()`), and `found + 1 < bmv_count`.
    unsafe { entries.set_len(found + 1) };
    Ok(Some(WholeMap(entries)))
}

/// An extent map that [`whole_map`] returned. It takes 48 bytes for each extent.
#[derive(Debug)]
pub struct WholeMap(Vec<RawBmapx>);

impl WholeMap {
    /// Iterates over the extents, in logical order.
    pub fn extents(&self) -> impl Iterator<Item = Extent> {
        self.0.iter().skip(1).map(extent)
    }

    /// Returns whether any extent is unwritten.
    #[must_use]
    pub fn has_unwritten(&self) -> bool {
        self.0.iter().skip(1).any(|entry| entry.bmv_oflags & BMV_OF_PREALLOC != 0)
    }
}

fn extent(entry: &RawBmapx) -> Extent {
    let bytes = |sectors: i64| u64::try_from(sectors).unwrap_or(0).saturating_mul(512);
    let mut flags = ExtentFlags::empty();
    flags.set(ExtentFlags::UNWRITTEN, entry.bmv_oflags & BMV_OF_PREALLOC != 0);
    flags.set(ExtentFlags::SHARED, entry.bmv_oflags & BMV_OF_SHARED != 0);
    flags.set(ExtentFlags::UNKNOWN, entry.bmv_block < 0);
    Extent {
        logical: bytes(entry.bmv_offset),
        physical: bytes(entry.bmv_block),
        length: bytes(entry.bmv_length),
        flags,
    }
}

/// Frees speculative preallocation past EOF and unused copy-on-write reservations, of every file on the filesystem that is
/// at least `min_size` bytes long, and waits until that is done.
///
/// Blocks that `fallocate --keep-size` allocated past EOF stay. Linux 3.8 and later; needs `CAP_SYS_ADMIN`.
///
/// # Errors
/// - `EPERM`: the caller lacks `CAP_SYS_ADMIN`.
/// - `EROFS`: the filesystem is mounted read-only.
/// - `ENOTTY`: the filesystem is not XFS.
#[doc(alias = "XFS_IOC_FREE_EOFBLOCKS")]
pub fn free_eofblocks(fd: impl AsFd, min_size: u64) -> Result<()> {
    let raw = RawEofblocks {
        eof_version: XFS_EOFBLOCKS_VERSION,
        eof_flags: XFS_EOF_FLAGS_SYNC | XFS_EOF_FLAGS_MINFILESIZE,
        eof_min_file_size: min_size,
        ..RawEofblocks::default()
    };
    // SAFETY: the pointer is to a live `struct xfs_fs_eofblocks`, which the kernel only reads.
    unsafe { XFS_IOC_FREE_EOFBLOCKS.call(fd, (&raw const raw).cast_mut()) }
}
