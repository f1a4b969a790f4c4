//! `XFS_IOC_GETPARENTS`: the directory entries of a file, from the file upwards.
//!
//! Linux 6.10 and later, on an XFS filesystem made with parent pointers (`mkfs.xfs -n parent=1`). Needs `CAP_SYS_ADMIN`
//! in the initial user namespace.
//!
//! Reference: ioctl_xfs_getparents(2); `xfs_getparents()` in `fs/xfs/xfs_handle.c`.

use std::collections::VecDeque;
use std::ffi::{CStr, OsStr, OsString};
use std::fmt::{self, Debug, Formatter};
use std::iter::FusedIterator;
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

use crate::batches::{Batches, Fetch};
use crate::error::Result;
use crate::ioctl::Ioctl;

/// Bytes in the buffer for the records of one call. The kernel clears the whole buffer each time; a record takes 40 to
/// 288 bytes.
const ROOM: usize = 4096;

/// `struct xfs_handle`.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawHandle {
    pub ha_fsid: [u32; 2],
    pub fid_len: u16,
    pub fid_pad: u16,
    pub fid_gen: u32,
    pub fid_ino: u64,
}

/// `struct xfs_getparents`.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawGetparents {
    pub gp_cursor: [u32; 4],
    pub gp_iflags: u16,
    pub gp_oflags: u16,
    pub gp_bufsize: u32,
    pub gp_reserved: u64,
    pub gp_buffer: u64,
}

/// `struct xfs_getparents_by_handle`.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawByHandle {
    pub gph_handle: RawHandle,
    pub gph_request: RawGetparents,
}

/// `struct xfs_getparents_rec` without its flexible array, the name.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawParent {
    pub gpr_parent: RawHandle,
    pub gpr_reclen: u32,
    pub gpr_reserved: u32,
}

/// `_IOWR('X', 62, struct xfs_getparents)`
#[doc(hidden)]
pub const XFS_IOC_GETPARENTS: Ioctl<RawGetparents> =
    Ioctl::read_write::<RawGetparents>("ioctl(XFS_IOC_GETPARENTS)", b'X', 62);
/// `_IOWR('X', 63, struct xfs_getparents_by_handle)`
#[doc(hidden)]
pub const XFS_IOC_GETPARENTS_BY_HANDLE: Ioctl<RawByHandle> =
    Ioctl::read_write::<RawByHandle>("ioctl(XFS_IOC_GETPARENTS_BY_HANDLE)", b'X', 63);
/// What `fid_len` says: the length of `struct xfs_fid` behind that field.
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
const FID_LENGTH: u16 = (size_of::<RawHandle>() - offset_of!(RawHandle, fid_pad)) as u16;
/// The last record was returned.
#[doc(hidden)]
pub const XFS_GETPARENTS_OFLAG_DONE: u16 = 1 << 1;

/// A directory entry that names the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// Inode number of the directory.
    pub inode: u64,
    /// Generation of the directory.
    pub generation: u32,
    /// The file's name in the directory.
    pub name: OsString,
}

/// Iterates over the directory entries that name a file: one for each hard link, in no particular order.
///
/// The root directory of the filesystem has no entries, and neither has a file that was unlinked while open. The calls
/// together are not atomic.
///
/// # Errors
/// Each item may be an error, and nothing follows an error.
/// - `EPERM`: the caller lacks `CAP_SYS_ADMIN`.
/// - `EOPNOTSUPP`: the filesystem was made without parent pointers.
/// - `ENOTTY`: the filesystem is not XFS, or the kernel is older than 6.10.
/// - `EIO`: the filesystem was shut down, or the kernel's records make no sense.
///
/// With [`Parents::of_inode`] also:
/// - `ENOTDIR`: the descriptor is not of a directory.
/// - `ESTALE`: no inode has this number, or the inode has another generation.
///
/// ```no_run
/// use libdaxfile::parents::Parents;
///
/// let file = std::fs::File::open("/srv/xfs/dir/file")?;
/// for parent in Parents::new(&file) {
///     let parent = parent?;
///     println!("{:?} in directory {}", parent.name, parent.inode);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "XFS_IOC_GETPARENTS")]
#[doc(alias = "XFS_IOC_GETPARENTS_BY_HANDLE")]
#[must_use = "iterators do nothing unless consumed"]
pub struct Parents<'fd>(Batches<Query<'fd>>);

struct Query<'fd> {
    fd: BorrowedFd<'fd>,
    /// `None` for the file of the descriptor itself.
    handle: Option<RawHandle>,
    cursor: [u32; 4],
    buffer: Box<[u8; ROOM]>,
}

impl<'fd> Parents<'fd> {
    /// Reads the entries of the open file `fd`.
    pub fn new<F: AsFd + ?Sized>(fd: &'fd F) -> Self {
        Parents::start(fd.as_fd(), None)
    }

    /// Reads the entries of the file with this inode number and generation. `directory` is any directory on its
    /// filesystem.
    pub fn of_inode<F: AsFd + ?Sized>(directory: &'fd F, inode: u64, generation: u32) -> Self {
        let handle = RawHandle { fid_len: FID_LENGTH, fid_gen: generation, fid_ino: inode, ..RawHandle::default() };
        Parents::start(directory.as_fd(), Some(handle))
    }

    fn start(fd: BorrowedFd<'fd>, handle: Option<RawHandle>) -> Self {
        Parents(Batches::new(Query { fd, handle, cursor: [0; 4], buffer: Box::new([0; ROOM]) }, false))
    }
}

impl Fetch for Query<'_> {
    type Item = Parent;

    fn fetch(&mut self) -> Result<(VecDeque<Parent>, bool)> {
        // If the kernel has no record to return, it leaves the buffer as it is.
        self.buffer[..size_of::<RawParent>()].fill(0);
        #[expect(clippy::cast_possible_truncation, reason = "a small constant")]
        let gp_bufsize = ROOM as u32;
        let gp_buffer = self.buffer.as_mut_ptr().expose_provenance() as u64;
        let mut request = RawGetparents { gp_cursor: self.cursor, gp_bufsize, gp_buffer, ..RawGetparents::default() };
        let broken = match self.handle {
            None => {
                // SAFETY: the request is live and exclusively borrowed, and so is the buffer it points to, whose length
                // is in gp_bufsize; the kernel writes integers to the one and bytes to the other.
                unsafe { XFS_IOC_GETPARENTS.call(self.fd, &raw mut request) }?;
                XFS_IOC_GETPARENTS.error(Errno::EIO)
            }
            Some(gph_handle) => {
                let mut by_handle = RawByHandle { gph_handle, gph_request: request };
                // SAFETY: as above.
                unsafe { XFS_IOC_GETPARENTS_BY_HANDLE.call(self.fd, &raw mut by_handle) }?;
                request = by_handle.gph_request;
                XFS_IOC_GETPARENTS_BY_HANDLE.error(Errno::EIO)
            }
        };
        self.cursor = request.gp_cursor;
        let parents = parse(self.buffer.as_slice()).ok_or(broken)?;
        Ok((parents, request.gp_oflags & XFS_GETPARENTS_OFLAG_DONE != 0))
    }
}

impl Iterator for Parents<'_> {
    type Item = Result<Parent>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl FusedIterator for Parents<'_> {}

impl Debug for Parents<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Query { fd, handle, .. } = &self.0.source;
        f.debug_struct("Parents").field("fd", fd).field("handle", handle).finish_non_exhaustive()
    }
}

/// Parses the records in `buffer`, the last of which reaches the buffer's end. `None` if a length is 0, or leads out of
/// the buffer.
fn parse(mut buffer: &[u8]) -> Option<VecDeque<Parent>> {
    let mut parents = VecDeque::new();
    while !buffer.is_empty() {
        let u32_at = |offset: usize| buffer.get(offset..)?.first_chunk().copied().map(u32::from_ne_bytes);
        let length = usize::try_from(u32_at(offset_of!(RawParent, gpr_reclen))?).ok()?;
        if length == 0 && parents.is_empty() {
            break;
        }
        let (record, rest) = buffer.split_at_checked(length)?;
        let name = CStr::from_bytes_until_nul(record.get(size_of::<RawParent>()..)?).ok()?;
        let inode = buffer.get(offset_of!(RawParent, gpr_parent.fid_ino)..)?.first_chunk().copied()?;
        parents.push_back(Parent {
            inode: u64::from_ne_bytes(inode),
            generation: u32_at(offset_of!(RawParent, gpr_parent.fid_gen))?,
            name: OsStr::from_bytes(name.to_bytes()).to_owned(),
        });
        buffer = rest;
    }
    Some(parents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(inode: u64, generation: u32, length: u32, name: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<RawParent>()];
        bytes[12..16].copy_from_slice(&generation.to_ne_bytes());
        bytes[16..24].copy_from_slice(&inode.to_ne_bytes());
        bytes[24..28].copy_from_slice(&length.to_ne_bytes());
        bytes.extend(name);
        bytes.resize(bytes.len().max(length as usize), 0);
        bytes
    }

    fn parent(inode: u64, generation: u32, name: &str) -> Parent {
        Parent { inode, generation, name: name.into() }
    }

    #[test]
    fn parse_returns_every_record() {
        let two = [record(128, 7, 40, b"a"), record(131, 9, 200, b"second")].concat();
        assert_eq!(parse(&two), Some([parent(128, 7, "a"), parent(131, 9, "second")].into()));
        assert_eq!(parse(&record(0, 0, 0, &[0; 8])), Some(VecDeque::new()), "the kernel wrote nothing");
        assert_eq!(parse(&[]), Some(VecDeque::new()));
    }

    #[test]
    fn parse_refuses_records_that_lead_out_or_nowhere() {
        let good = record(128, 7, 40, b"a");
        for bad in [
            record(1, 1, 48, b"a")[..40].to_vec(),
            record(1, 1, 31, b"a"),
            record(1, 1, 40, b"no end.."),
            [&good[..], &record(1, 1, 0, &[0; 8])].concat(),
            [&good[..], &[0; 8]].concat(),
        ] {
            assert_eq!(parse(&bad), None, "{bad:?}");
        }
    }
}
