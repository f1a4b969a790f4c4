//! statx(2): size, owner, times and attributes of an open file.
//!
//! Linux 4.11 and later, on every filesystem. Needs no privilege.
//!
//! Reference: statx(2); `include/uapi/linux/stat.h`.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use crate::error::{Result, check};

/// Mask of the file type in [`Statx::mode`].
pub const S_IFMT: u32 = libc::S_IFMT;
/// File type: regular.
pub const S_IFREG: u32 = libc::S_IFREG;
/// File type: directory.
pub const S_IFDIR: u32 = libc::S_IFDIR;
/// File type: symbolic link.
pub const S_IFLNK: u32 = libc::S_IFLNK;

#[doc(hidden)]
pub const STATX_DIOALIGN: libc::c_uint = 0x2000;
#[doc(hidden)]
pub const STATX_DIO_READ_ALIGN: libc::c_uint = 0x20000;

bitflags::bitflags! {
    /// Attributes of a file, `STATX_ATTR_*`. Those that this crate does not know are kept.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Attributes: u64 {
        /// Compressed by the filesystem.
        const COMPRESSED = 0x0000_0004;
        /// Cannot be changed, renamed or removed.
        const IMMUTABLE = 0x0000_0010;
        /// Writes can only append.
        const APPEND = 0x0000_0020;
        /// Encrypted by the filesystem.
        const ENCRYPTED = 0x0000_0800;
        /// The root of a mount.
        const MOUNT_ROOT = 0x0000_2000;
        /// fs-verity is on.
        const VERITY = 0x0010_0000;
        /// Accesses go to persistent memory without the page cache.
        const DAX = 0x0020_0000;
        const _ = !0;
    }
}

/// A point in time: seconds since the epoch, which may be negative, and nanoseconds after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// The state of an inode. Sizes are in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Statx {
    /// File type (mask [`S_IFMT`]) and permission bits.
    pub mode: u16,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Inode number.
    pub inode: u64,
    /// Size.
    pub size: u64,
    /// Space allocated. On some filesystems it includes the blocks of extended attributes and of the extent map.
    pub allocated: u64,
    /// Time of the last change of the contents.
    pub mtime: Time,
    /// Time of the last change of the inode.
    pub ctime: Time,
    /// Device number of the filesystem: major, minor.
    pub device: (u32, u32),
    /// Attributes that are set. An attribute outside `attributes_mask` may be set or not.
    pub attributes: Attributes,
    /// Attributes that the filesystem reports.
    pub attributes_mask: Attributes,
    /// Alignment that direct I/O needs, of memory and of offsets. `None` if the file has no direct I/O or the filesystem
    /// does not report it (Linux 6.1 and later do).
    pub direct_io: Option<(u32, u32)>,
    /// Whether `direct_io` is exact for this file: the filesystem reports the alignment of direct reads apart from that of
    /// writes (Linux 6.14 and later).
    pub direct_io_is_exact: bool,
}

/// Returns the state of the inode.
///
/// # Errors
/// None is expected on a local filesystem. Network and FUSE filesystems ask their server: `ESTALE`, `EIO`, `ENOTCONN`.
#[doc(alias = "statx")]
pub fn get(fd: impl AsFd) -> Result<Statx> {
    look(fd, c"", libc::AT_EMPTY_PATH)
}

/// Returns the state of the inode with this name in a directory. Does not open it, does not follow a symbolic link, and
/// triggers no automount.
///
/// # Errors
/// `ENOENT`: there is no such name. Otherwise as for [`get`].
#[doc(alias = "statx")]
pub fn at(directory: impl AsFd, name: &CStr) -> Result<Statx> {
    look(directory, name, libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT)
}

fn look(fd: impl AsFd, name: &CStr, flags: libc::c_int) -> Result<Statx> {
    let mut raw = MaybeUninit::<libc::statx>::zeroed();
    let mask = libc::STATX_BASIC_STATS | STATX_DIOALIGN | STATX_DIO_READ_ALIGN;
    // SAFETY: name is NUL-terminated, and the buffer is a live `struct statx`, which the kernel fills.
    let returned = unsafe { libc::statx(fd.as_fd().as_raw_fd(), name.as_ptr(), flags, mask, raw.as_mut_ptr()) };
    check("statx", returned)?;
    // SAFETY: all bytes were zeroed before the kernel wrote integers over them, and zeros are valid integers.
    let raw = unsafe { raw.assume_init() };
    let time = |t: libc::statx_timestamp| Time { seconds: t.tv_sec, nanoseconds: t.tv_nsec };
    Ok(Statx {
        mode: raw.stx_mode,
        nlink: raw.stx_nlink,
        uid: raw.stx_uid,
        inode: raw.stx_ino,
        size: raw.stx_size,
        allocated: raw.stx_blocks.saturating_mul(512),
        mtime: time(raw.stx_mtime),
        ctime: time(raw.stx_ctime),
        device: (raw.stx_dev_major, raw.stx_dev_minor),
        attributes: Attributes::from_bits_retain(raw.stx_attributes),
        attributes_mask: Attributes::from_bits_retain(raw.stx_attributes_mask),
        direct_io: (raw.stx_mask & STATX_DIOALIGN != 0 && raw.stx_dio_offset_align != 0)
            .then_some((raw.stx_dio_mem_align, raw.stx_dio_offset_align)),
        direct_io_is_exact: raw.stx_mask & STATX_DIO_READ_ALIGN != 0,
    })
}
