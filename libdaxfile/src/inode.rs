//! `FS_IOC_GETVERSION`: the generation number of an inode.
//!
//! Reference: `include/uapi/linux/fs.h`. The ioctl is declared with `long` and moves an `int`.

use std::os::fd::AsFd;

use crate::error::Result;
use crate::ioctl::ioctl;

/// `_IOR('v', 1, long)`
#[doc(hidden)]
pub const FS_IOC_GETVERSION: u64 = nix::request_code_read!(b'v', 1, size_of::<libc::c_long>());

/// Reads the inode's generation, which changes when its number is given to another file. No privilege is needed.
///
/// # Errors
/// `ENOTTY` where the filesystem keeps none.
#[doc(alias = "FS_IOC_GETVERSION")]
pub fn generation(fd: impl AsFd) -> Result<u32> {
    let mut generation = 0;
    // SAFETY: the kernel writes one int (`put_user(i_generation, (int __user *)arg)`) to a live, exclusively borrowed u32.
    unsafe { ioctl("ioctl(FS_IOC_GETVERSION)", fd, FS_IOC_GETVERSION, &raw mut generation) }?;
    Ok(generation)
}
