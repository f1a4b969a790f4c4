//! Extended attributes of an open file.
//!
//! Reference: xattr(7), fgetxattr(2), flistxattr(2), fsetxattr(2), fremovexattr(2). `user.*` is read and written with the rights of the
//! contents; `security.*` is read by anyone and written with CAP_SYS_ADMIN.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

use crate::error::{Error, Result, check};

/// Reads an attribute of at most `limit` bytes; `None` where the file has none of that name.
///
/// # Errors
/// `ERANGE` where it is longer, `EOPNOTSUPP` where the filesystem has none of that kind, `EACCES`.
#[doc(alias = "fgetxattr")]
pub fn get(fd: impl AsFd, name: &CStr, limit: usize) -> Result<Option<Vec<u8>>> {
    const CALL: &str = "fgetxattr";
    let mut value = vec![0u8; limit];
    // SAFETY: name is NUL-terminated, and the buffer is live, exclusively borrowed and as long as is said.
    let returned =
        unsafe { libc::fgetxattr(fd.as_fd().as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    match Errno::result(returned) {
        Ok(length) => {
            let length = usize::try_from(length).unwrap_or(0);
            // To a buffer of no bytes the kernel gives the length of the value, whatever it is.
            if length > limit {
                return Err(Error { call: CALL, errno: Errno::ERANGE });
            }
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::ENODATA) => Ok(None),
        Err(errno) => Err(Error { call: CALL, errno }),
    }
}

/// Which of these attributes the file may have; `false` is certain. One call for what is mostly not there costs less than
/// asking for each.
///
/// # Errors
/// `EOPNOTSUPP` where the filesystem has no attributes.
#[doc(alias = "flistxattr")]
pub fn may_have<const N: usize>(fd: impl AsFd, names: [&CStr; N]) -> Result<[bool; N]> {
    let mut list = [0u8; 1024];
    // SAFETY: the buffer is live, exclusively borrowed and as long as is said.
    let returned = unsafe { libc::flistxattr(fd.as_fd().as_raw_fd(), list.as_mut_ptr().cast(), list.len()) };
    match Errno::result(returned) {
        Ok(length) => {
            let listed = list[..usize::try_from(length).unwrap_or(0)].split_inclusive(|&byte| byte == 0);
            Ok(names.map(|name| listed.clone().any(|listed| listed == name.to_bytes_with_nul())))
        }
        Err(Errno::ERANGE | Errno::E2BIG) => Ok([true; N]),
        Err(errno) => Err(Error { call: "flistxattr", errno }),
    }
}

/// Sets an attribute, or replaces its value. Durable after the next fsync(2).
///
/// # Errors
/// `EPERM` without the right, or under IMMUTABLE; `ENOSPC`, `ERANGE` or `E2BIG` where it does not fit; `EROFS`; `EDQUOT`.
#[doc(alias = "fsetxattr")]
pub fn set(fd: impl AsFd, name: &CStr, value: &[u8]) -> Result<()> {
    // SAFETY: name is NUL-terminated, and the value is live and as long as is said; the kernel only reads both.
    let returned =
        unsafe { libc::fsetxattr(fd.as_fd().as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    check("fsetxattr", returned).map(drop)
}

/// Removes an attribute; one that is not there is a success. Durable after the next fsync(2).
///
/// # Errors
/// `EPERM` without the right, or under IMMUTABLE; `EROFS`.
#[doc(alias = "fremovexattr")]
pub fn remove(fd: impl AsFd, name: &CStr) -> Result<()> {
    // SAFETY: name is NUL-terminated; the kernel only reads it.
    let returned = unsafe { libc::fremovexattr(fd.as_fd().as_raw_fd(), name.as_ptr()) };
    match check("fremovexattr", returned) {
        Ok(_) | Err(Error { errno: Errno::ENODATA, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
