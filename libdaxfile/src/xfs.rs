//! XFS's own ioctls: geometry, the map in one piece, and the freeing of preallocated blocks.
//!
//! Reference: `fs/xfs/libxfs/xfs_fs.h`, `fs/xfs/xfs_ioctl.c`, `xfs_getbmap()` in `fs/xfs/xfs_bmap_util.c`; xfsctl(3).
//! Every call fails with `ENOTTY` on other filesystems.

use std::mem::offset_of;
use std::os::fd::AsFd;

use crate::error::Result;
use crate::fiemap::{Extent, ExtentFlags};
use crate::ioctl::ioctl;

bitflags::bitflags! {
    /// `XFS_FSOP_GEOM_FLAGS_*`, those that bear on an extent map.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct GeometryFlags: u32 {
        /// Every block's owners are recorded.
        const RMAPBT = 1 << 19;
        /// Blocks can be shared.
        const REFLINK = 1 << 20;
        /// The filesystem writes to zones and so relocates every write (6.15).
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

/// What [`geometry`] tells. Sizes in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    /// Size of a filesystem block.
    pub block_size: u32,
    /// Size of an inode.
    pub inode_size: u32,
    /// The filesystem's UUID.
    pub uuid: [u8; 16],
    /// Features.
    pub flags: GeometryFlags,
}

/// `struct getbmapx`: head of the call and, behind it, one entry an extent. In units of 512 bytes.
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
pub const XFS_IOC_FSGEOMETRY: u64 = nix::request_code_read!(b'X', 126, size_of::<RawGeometry>());
/// `_IOWR('X', 56, struct getbmap)`: it moves `struct getbmapx`, and its number holds the size of the older, shorter
/// structure, which ends before `bmv_iflags`.
#[doc(hidden)]
pub const XFS_IOC_GETBMAPX: u64 = nix::request_code_readwrite!(b'X', 56, offset_of!(RawBmapx, bmv_iflags));
/// `_IOR('X', 58, struct xfs_fs_eofblocks)`
#[doc(hidden)]
pub const XFS_IOC_FREE_EOFBLOCKS: u64 = nix::request_code_read!(b'X', 58, size_of::<RawEofblocks>());

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

/// Reads the geometry of the filesystem that holds the file. No privilege is needed.
///
/// # Errors
/// `ENOTTY` where it is not XFS.
#[doc(alias = "XFS_IOC_FSGEOMETRY")]
pub fn geometry(fd: impl AsFd) -> Result<Geometry> {
    let mut raw = RawGeometry::default();
    // SAFETY: the pointer is to a live, exclusively borrowed `struct xfs_fsop_geom` of integers, which the kernel fills.
    unsafe { ioctl("ioctl(XFS_IOC_FSGEOMETRY)", fd, XFS_IOC_FSGEOMETRY, &raw mut raw) }?;
    Ok(Geometry {
        block_size: raw.blocksize,
        inode_size: raw.inodesize,
        uuid: raw.uuid,
        flags: GeometryFlags::from_bits_retain(raw.flags),
    })
}

/// Reads the whole map, blocks past EOF included, in one call, which holds the inode's lock throughout: what it returns
/// was the map at one moment. Dirty pages are written back first only where there are delayed allocations
/// (`xfs_getbmap()`): over unwritten blocks they leave these unwritten. `None` where it has more than `limit` extents,
/// for then one call does not give all of it. No privilege is needed.
///
/// Flags are given as FIEMAP's. Realtime files have the realtime device's addresses.
///
/// # Errors
/// `ENOTTY` where it is not XFS, `ENOMEM` where the kernel has no room for `limit` entries.
#[doc(alias = "XFS_IOC_GETBMAPX")]
pub fn whole_map(fd: impl AsFd, limit: usize) -> Result<Option<WholeMap>> {
    // One entry more than asked for: an array that came back full may have left something out.
    let Ok(count) = i32::try_from(limit.saturating_add(2)) else { return Ok(None) };
    let mut entries = Vec::with_capacity(limit.saturating_add(2));
    entries.push(RawBmapx {
        // A length of -1 would end at EOF; blocks past it must be seen.
        bmv_length: i64::MAX / 512,
        bmv_count: count,
        bmv_iflags: BMV_IF_PREALLOC | BMV_IF_NO_HOLES,
        ..RawBmapx::default()
    });
    // SAFETY: bmv_count says for how many entries, the head included, there is room behind the pointer; the kernel reads
    // the head, and writes no more than these.
    unsafe { ioctl("ioctl(XFS_IOC_GETBMAPX)", fd, XFS_IOC_GETBMAPX, entries.as_mut_ptr()) }?;
    let found = usize::try_from(entries[0].bmv_entries).unwrap_or(0);
    if found > limit {
        return Ok(None);
    }
    // SAFETY: it wrote so many entries behind the head (`xfs_ioc_getbmap()`), no more than there is room for.
    unsafe { entries.set_len(found + 1) };
    Ok(Some(WholeMap(entries)))
}

/// What [`whole_map`] read: 48 bytes an extent.
#[derive(Debug)]
pub struct WholeMap(Vec<RawBmapx>);

impl WholeMap {
    /// Its extents, in logical order.
    pub fn extents(&self) -> impl Iterator<Item = Extent> {
        self.0.iter().skip(1).map(extent)
    }

    /// Whether some of them are unwritten.
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

/// Frees speculative preallocation past EOF and unused copy-on-write staging, on every file of the filesystem at least
/// `min_size` bytes long, and waits for it. Blocks that `fallocate -n` put past EOF stay.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN, `EROFS`, `ENOTTY` where it is not XFS.
#[doc(alias = "XFS_IOC_FREE_EOFBLOCKS")]
pub fn free_eofblocks(fd: impl AsFd, min_size: u64) -> Result<()> {
    let raw = RawEofblocks {
        eof_version: XFS_EOFBLOCKS_VERSION,
        eof_flags: XFS_EOF_FLAGS_SYNC | XFS_EOF_FLAGS_MINFILESIZE,
        eof_min_file_size: min_size,
        ..RawEofblocks::default()
    };
    // SAFETY: the pointer is to a live `struct xfs_fs_eofblocks`, which the kernel only reads.
    unsafe { ioctl("ioctl(XFS_IOC_FREE_EOFBLOCKS)", fd, XFS_IOC_FREE_EOFBLOCKS, (&raw const raw).cast_mut()) }?;
    Ok(())
}
