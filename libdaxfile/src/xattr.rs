//! Extended attributes of an open file.
//!
//! On XFS, ext4, f2fs, btrfs and others. Reading and writing `user.*` needs the same rights as reading and writing the
//! contents. Everyone can read `security.*`; writing it needs `CAP_SYS_ADMIN` in the user namespace of the mount.
//! Before Linux 6.11, a kernel with `bpf` among its active LSMs skips that check.
//!
//! Reference: xattr(7), fgetxattr(2), flistxattr(2), fsetxattr(2), fremovexattr(2); `fs/xattr.c`.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;

use crate::error::{Error, Result, check};

/// Returns the value of an attribute of at most `limit` bytes; `None` if the file has no attribute of that name.
///
/// # Errors
/// - `ERANGE`: the value is longer than `limit`.
/// - `EOPNOTSUPP`: the filesystem has no attributes in this namespace.
/// - `EACCES`: the attribute is in `user.*`, and the caller may not read the file.
#[doc(alias = "fgetxattr")]
pub fn get(fd: impl AsFd, name: &CStr, limit: usize) -> Result<Option<Vec<u8>>> {
    /// Longer than most values, and short enough that clearing it takes less than the call.
    const SHORT: usize = 1024;
    match get_of(fd.as_fd(), name, limit.min(SHORT)) {
        Err(Error { errno: Errno::ERANGE, .. }) if limit > SHORT => get_of(fd.as_fd(), name, limit),
        read => read,
    }
}

fn get_of(fd: BorrowedFd<'_>, name: &CStr, limit: usize) -> Result<Option<Vec<u8>>> {
    const CALL: &str = "fgetxattr";
    let mut value = vec![0u8; limit];
    // SAFETY: name is NUL-terminated, and the buffer is live, exclusively borrowed and has the length given.
    let returned = unsafe { libc::fgetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    match Errno::result(returned) {
        Ok(length) => {
            let length = usize::try_from(length).unwrap_or(0);
            // For an empty buffer, the kernel returns the length of the value and no error.
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

/// What a file's list of attributes says about some names. `false` is certain; if the list is longer than 1,024 bytes, all
/// are `true`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<const N: usize> {
    /// Whether the file may have the attribute of each name.
    pub names: [bool; N],
    /// Whether the file may have attributes of other names.
    pub others: bool,
}

/// Returns for each name whether the file may have this attribute, and whether it may have others.
///
/// Where most files lack the attributes, this one call is cheaper than one call for each.
///
/// # Errors
/// `EOPNOTSUPP`: the filesystem has no attributes.
#[doc(alias = "flistxattr")]
pub fn may_have<const N: usize>(fd: impl AsFd, names: [&CStr; N]) -> Result<Listed<N>> {
    let mut list = [0u8; 1024];
    // SAFETY: the buffer is live, exclusively borrowed and has the length given.
    let returned = unsafe { libc::flistxattr(fd.as_fd().as_raw_fd(), list.as_mut_ptr().cast(), list.len()) };
    let length = Errno::result(returned).map(|length| usize::try_from(length).unwrap_or(0));
    listed("flistxattr", &list, length, names)
}

/// Like [`may_have`], for a file that is not open: `file` is its name in `directory`. Does not follow a symbolic link.
/// Needs search permission on the directory, and none on the file.
///
/// # Errors
/// - `EOPNOTSUPP`: the filesystem has no attributes.
/// - `ENOENT`: the directory has no such name; before Linux 6.13 also: /proc is not mounted.
#[doc(alias = "listxattrat")]
#[doc(alias = "llistxattr")]
pub fn may_have_at<const N: usize>(directory: impl AsFd, file: &CStr, names: [&CStr; N]) -> Result<Listed<N>> {
    /// The number on every architecture that Rust's standard library knows: `include/uapi/asm-generic/unistd.h`.
    const SYS_LISTXATTRAT: libc::c_long = 465;
    let directory = directory.as_fd().as_raw_fd();
    let mut list = [0u8; 1024];
    // SAFETY: file is NUL-terminated, and the buffer is live, exclusively borrowed and has the length given.
    let returned = unsafe {
        libc::syscall(
            SYS_LISTXATTRAT,
            directory,
            file.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            list.as_mut_ptr(),
            list.len(),
        )
    };
    let mut length = Errno::result(returned).map(|length| usize::try_from(length).unwrap_or(0));
    if length == Err(Errno::ENOSYS) {
        let path = [format!("/proc/self/fd/{directory}/").as_bytes(), file.to_bytes()].concat();
        let path = CString::new(path).map_err(|_| Error { call: "llistxattr", errno: Errno::EINVAL })?;
        // SAFETY: path is NUL-terminated, and the buffer is live, exclusively borrowed and has the length given.
        let returned = unsafe { libc::llistxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
        length = Errno::result(returned).map(|length| usize::try_from(length).unwrap_or(0));
    }
    listed("listxattrat", &list, length, names)
}

/// Returns for each name whether it may be in the list: all may, if the list is too long for the buffer.
fn listed<const N: usize>(
    call: &'static str,
    list: &[u8],
    length: std::result::Result<usize, Errno>,
    names: [&CStr; N],
) -> Result<Listed<N>> {
    match length {
        Ok(length) => {
            let listed = list[..length].split_inclusive(|&byte| byte == 0);
            let is = |listed: &[u8], name: &CStr| listed == name.to_bytes_with_nul();
            Ok(Listed {
                names: names.map(|name| listed.clone().any(|listed| is(listed, name))),
                others: listed.clone().any(|listed| !names.iter().any(|name| is(listed, name))),
            })
        }
        Err(Errno::ERANGE | Errno::E2BIG) => Ok(Listed { names: [true; N], others: true }),
        Err(errno) => Err(Error { call, errno }),
    }
}

/// Returns the names of the file's attributes, as far as the caller may see them.
///
/// # Errors
/// `EOPNOTSUPP`: the filesystem has no attributes.
#[doc(alias = "flistxattr")]
pub fn names(fd: impl AsFd) -> Result<Vec<CString>> {
    /// `XATTR_LIST_MAX`: the kernel returns no longer list.
    const MOST: usize = 65536;
    let mut list = vec![0u8; MOST];
    // SAFETY: the buffer is live, exclusively borrowed and has the length given.
    let returned = unsafe { libc::flistxattr(fd.as_fd().as_raw_fd(), list.as_mut_ptr().cast(), list.len()) };
    let length = Errno::result(returned).map_err(|errno| Error { call: "flistxattr", errno })?;
    let listed = list[..usize::try_from(length).unwrap_or(0)].split_inclusive(|&byte| byte == 0);
    Ok(listed.filter_map(|name| CStr::from_bytes_with_nul(name).ok().map(CStr::to_owned)).collect())
}

/// Sets an attribute, or replaces its value. The change is durable after the next fsync(2).
///
/// # Errors
/// - `EPERM`: the caller may not set it, or the file is immutable. `EACCES`: in `user.*`, the file is not writable.
/// - `ENOSPC`, `ERANGE` or `E2BIG`: the filesystem has no room for a value of this length.
/// - `EDQUOT`: the quota has no room. `EROFS`: the mount is read-only.
/// - `EOPNOTSUPP`: the filesystem has no attributes in this namespace.
#[doc(alias = "fsetxattr")]
pub fn set(fd: impl AsFd, name: &CStr, value: &[u8]) -> Result<()> {
    // SAFETY: name is NUL-terminated, and the value is live and has the length given; the kernel only reads both.
    let returned =
        unsafe { libc::fsetxattr(fd.as_fd().as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    check("fsetxattr", returned).map(drop)
}

/// Removes an attribute; succeeds if the file has none of that name. The change is durable after the next fsync(2).
///
/// # Errors
/// - `EPERM`: the caller may not remove it, or the file is immutable. `EACCES`: in `user.*`, the file is not writable.
/// - `EROFS`: the mount is read-only.
/// - `EOPNOTSUPP`: the filesystem has no attributes in this namespace.
#[doc(alias = "fremovexattr")]
pub fn remove(fd: impl AsFd, name: &CStr) -> Result<()> {
    // SAFETY: name is NUL-terminated; the kernel only reads it.
    let returned = unsafe { libc::fremovexattr(fd.as_fd().as_raw_fd(), name.as_ptr()) };
    match check("fremovexattr", returned) {
        Ok(_) | Err(Error { errno: Errno::ENODATA, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
