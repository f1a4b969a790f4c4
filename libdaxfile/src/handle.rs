//! File handles: each identifies one inode, also after the file is renamed, or removed and its inode number reused. A
//! handle shows what a name refers to without opening it.
//!
//! Linux 2.6.39 and later, on filesystems that NFS can export. Opening by handle needs `CAP_DAC_READ_SEARCH` in the initial
//! user namespace.
//!
//! Reference: open_by_handle_at(2); `fs/fhandle.c`, `generic_encode_ino32_fh()` in `fs/libfs.c`, `xfs_fs_encode_fh()` in
//! `fs/xfs/xfs_export.c`.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::error::{Result, check};

#[doc(hidden)]
pub const MAX_HANDLE_SZ: usize = 128;

/// `struct file_handle` with the most bytes that its flexible array can have.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct RawFileHandle {
    pub handle_bytes: u32,
    pub handle_type: i32,
    pub f_handle: [u8; MAX_HANDLE_SZ],
}

/// A handle of a file.
#[derive(Debug, Clone, Copy)]
pub struct Handle(RawFileHandle);

impl Handle {
    /// Returns the handle of the file with this name in a directory. Does not open the file, and does not follow a symbolic
    /// link. If something is mounted on the file, returns the handle of that.
    ///
    /// # Errors
    /// - `EOPNOTSUPP`: the filesystem has no handles.
    /// - `ENOENT`: there is no such name.
    #[doc(alias = "name_to_handle_at")]
    pub fn at(directory: impl AsFd, name: &CStr) -> Result<Self> {
        #[expect(clippy::cast_possible_truncation, reason = "a small constant")]
        let handle_bytes = MAX_HANDLE_SZ as u32;
        let mut raw = RawFileHandle { handle_bytes, handle_type: 0, f_handle: [0; MAX_HANDLE_SZ] };
        let mut mount = 0;
        // SAFETY: name is NUL-terminated. `raw` begins like `struct file_handle`, has room for the number of bytes that
        // handle_bytes says, and is borrowed exclusively, as is `mount`; the kernel writes integers to both.
        let returned = unsafe {
            libc::name_to_handle_at(
                directory.as_fd().as_raw_fd(),
                name.as_ptr(),
                (&raw mut raw).cast(),
                &raw mut mount,
                0,
            )
        };
        check("name_to_handle_at", returned)?;
        Ok(Handle(raw))
    }

    /// Returns the inode number and generation in a handle of ext4 or XFS. Together they name the same file for good, unless
    /// the generation is 0: ext4 takes a handle with that to mean any file with the inode number.
    ///
    /// `None` for a handle in another form. The handles of other filesystems may look alike and mean something else.
    #[must_use]
    pub fn inode_and_generation(&self) -> Option<(u64, u32)> {
        /// `FILEID_INO32_GEN`: inode number and generation, of 32 bits each.
        const SHORT: (i32, u32) = (1, 8);
        /// The same with `XFS_FILEID_TYPE_64FLAG`: the inode number has 64 bits.
        const LONG: (i32, u32) = (0x81, 12);
        let bytes = &self.0.f_handle;
        match (self.0.handle_type, self.0.handle_bytes) {
            SHORT => {
                let (inode, rest) = bytes.split_first_chunk()?;
                Some((u32::from_ne_bytes(*inode).into(), u32::from_ne_bytes(*rest.first_chunk()?)))
            }
            LONG => {
                let (inode, rest) = bytes.split_first_chunk()?;
                Some((u64::from_ne_bytes(*inode), u32::from_ne_bytes(*rest.first_chunk()?)))
            }
            _ => None,
        }
    }

    /// Opens the file. `mount` is any descriptor on a mount of its filesystem, but not one made with `O_PATH`. `flags` are
    /// those of open(2).
    ///
    /// # Errors
    /// - `EPERM`: the caller lacks `CAP_DAC_READ_SEARCH`.
    /// - `ESTALE`: the file no longer exists.
    /// - An error of open(2).
    #[doc(alias = "open_by_handle_at")]
    pub fn open(&self, mount: impl AsFd, flags: libc::c_int) -> Result<OwnedFd> {
        let mut raw = self.0;
        // SAFETY: `raw` begins like `struct file_handle` and has the number of bytes that handle_bytes says; the kernel only
        // reads it.
        let returned = unsafe {
            libc::open_by_handle_at(mount.as_fd().as_raw_fd(), (&raw mut raw).cast(), flags | libc::O_CLOEXEC)
        };
        let descriptor = check("open_by_handle_at", returned)?;
        // SAFETY: the kernel returned a new descriptor, which nothing else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }
}
