//! `FS_IOC_FIEMAP`: the extent map of an open file.
//!
//! Reference: `Documentation/filesystems/fiemap.rst`; `ioctl_fiemap()` in `fs/ioctl.c`; ioctl_fiemap(2).
//! No privilege is needed beyond an open descriptor.

use std::collections::VecDeque;
use std::mem::take;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::ioctl::ioctl;

const CALL: &str = "ioctl(FS_IOC_FIEMAP)";

/// Extents fetched by one call. Calls of 128 cost 1.4 times as much for the same map; larger ones gain nothing.
const BATCH: usize = 4096;

bitflags::bitflags! {
    /// What stands on an extent (`FIEMAP_EXTENT_*`). Several flags can be set at once; unknown ones are kept.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct ExtentFlags: u32 {
        /// The last extent of the file or, where the kernel's iomap answers (ext4, XFS), of the range asked for.
        const LAST = 0x0001;
        /// The location is not known; the physical offset means nothing.
        const UNKNOWN = 0x0002;
        /// Allocation is still pending. Always comes with [`UNKNOWN`](Self::UNKNOWN).
        const DELALLOC = 0x0004;
        /// The bytes on the device are not the file's bytes: compressed, for example.
        const ENCODED = 0x0008;
        /// The bytes on the device are encrypted.
        const DATA_ENCRYPTED = 0x0080;
        /// Offsets are not multiples of the block size.
        const NOT_ALIGNED = 0x0100;
        /// The bytes share a block with metadata.
        const DATA_INLINE = 0x0200;
        /// The bytes share a block with other files' bytes.
        const DATA_TAIL = 0x0400;
        /// Allocated, reads as zeros, and has never been written.
        const UNWRITTEN = 0x0800;
        /// The filesystem keeps no extents; the kernel joined block pointers.
        const MERGED = 0x1000;
        /// The blocks belong to another file, too.
        const SHARED = 0x2000;
        const _ = !0;
    }

    /// How the map is to be read (`FIEMAP_FLAG_*`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Request: u32 {
        /// Write dirty pages back first, so that delayed allocations have their place.
        const SYNC = 0x0001;
        /// Map the extended attributes' blocks instead of the contents'.
        const XATTR = 0x0002;
    }
}

/// A piece of a file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts in the file.
    pub logical: u64,
    /// Where it starts in the filesystem's address space; without meaning under [`ExtentFlags::UNKNOWN`].
    pub physical: u64,
    /// How long it is.
    pub length: u64,
    /// What the filesystem says of it.
    pub flags: ExtentFlags,
}

/// `struct fiemap` without its flexible array.
#[doc(hidden)]
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct RawHeader {
    pub fm_start: u64,
    pub fm_length: u64,
    pub fm_flags: u32,
    pub fm_mapped_extents: u32,
    pub fm_extent_count: u32,
    pub fm_reserved: u32,
}

/// `struct fiemap_extent`.
#[doc(hidden)]
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct RawExtent {
    pub fe_logical: u64,
    pub fe_physical: u64,
    pub fe_length: u64,
    pub fe_reserved64: [u64; 2],
    pub fe_flags: u32,
    pub fe_reserved: [u32; 3],
}

/// `struct fiemap` with the room behind it that one call fills.
#[doc(hidden)]
#[repr(C)]
pub struct RawCall {
    pub header: RawHeader,
    pub extents: [RawExtent; BATCH],
}

/// `_IOWR('f', 11, struct fiemap)`
#[doc(hidden)]
pub const FS_IOC_FIEMAP: u64 = nix::request_code_readwrite!(b'f', 11, size_of::<RawHeader>());

fn header(range: &Range<u64>, request: Request, extent_count: u32) -> RawHeader {
    RawHeader {
        fm_start: range.start,
        fm_length: range.end.saturating_sub(range.start),
        fm_flags: request.bits(),
        fm_extent_count: extent_count,
        ..RawHeader::default()
    }
}

/// Counts the extents that touch `range` without fetching them; as with [`Extents`], none touch an empty one.
///
/// # Errors
/// `EOPNOTSUPP` where the filesystem has no FIEMAP, `EBADR` where it refuses `request`.
#[doc(alias = "FS_IOC_FIEMAP")]
pub fn count(fd: impl AsFd, range: Range<u64>, request: Request) -> Result<u32> {
    if range.is_empty() {
        return Ok(0); // The kernel takes a length of 0 for an error (EINVAL).
    }
    let mut call = header(&range, request, 0);
    // SAFETY: the descriptor is open for the borrow's length, and with fm_extent_count 0 the kernel writes the header only.
    unsafe { ioctl(CALL, fd, FS_IOC_FIEMAP, &raw mut call) }?;
    Ok(call.fm_mapped_extents)
}

/// The extents that touch a range, in logical order, fetched 4,096 a call into one buffer of 224 KiB.
///
/// The calls together are not atomic: a file that changes meanwhile gives a torn map.
///
/// # Errors
/// Each item may be an error, and nothing follows one. `EOPNOTSUPP` where the filesystem has no FIEMAP, `EBADR` where it
/// refuses the request's flags, `EIO` where its answer does not advance.
#[doc(alias = "FS_IOC_FIEMAP")]
pub struct Extents<'fd> {
    fd: BorrowedFd<'fd>,
    rest: Range<u64>,
    request: Request,
    call: Box<RawCall>,
    fetched: VecDeque<Extent>,
    done: bool,
}

impl<'fd> Extents<'fd> {
    /// Reads the extents of `fd` that touch `range`.
    pub fn new<F: AsFd + ?Sized>(fd: &'fd F, range: Range<u64>, request: Request) -> Self {
        let call = RawCall { header: RawHeader::default(), extents: [RawExtent::default(); BATCH] };
        Extents {
            fd: fd.as_fd(),
            done: range.is_empty(),
            rest: range,
            request,
            call: Box::new(call),
            fetched: VecDeque::new(),
        }
    }

    /// What one call gives, or what is left of it: for who passes on many at a time. Empty after the last.
    ///
    /// # Errors
    /// As an item's.
    pub fn batch(&mut self) -> Result<VecDeque<Extent>> {
        if self.fetched.is_empty()
            && !self.done
            && let Err(error) = self.fetch()
        {
            self.done = true;
            self.fetched.clear();
            return Err(error);
        }
        Ok(take(&mut self.fetched))
    }

    fn fetch(&mut self) -> Result<()> {
        // The kernel overwrites fm_flags, so the header is built anew for each call.
        #[expect(clippy::cast_possible_truncation, reason = "BATCH is a small constant")]
        let header = header(&self.rest, self.request, BATCH as u32);
        self.call.header = header;
        let call: *mut RawCall = &raw mut *self.call;
        // SAFETY: `call` points to a header followed by room for the BATCH extents that fm_extent_count announces, it is
        // borrowed exclusively, and every bit pattern the kernel may write is a valid value of these integer fields.
        unsafe { ioctl(CALL, self.fd, FS_IOC_FIEMAP, call.cast::<RawHeader>()) }?;
        let mapped = usize::try_from(self.call.header.fm_mapped_extents).unwrap_or(BATCH).min(BATCH);
        self.fetched.reserve(mapped);
        for raw in &self.call.extents[..mapped] {
            let end = raw.fe_logical.checked_add(raw.fe_length);
            let Some(end) = end.filter(|&end| end > self.rest.start) else {
                return Err(Error { call: CALL, errno: Errno::EIO });
            };
            let flags = ExtentFlags::from_bits_retain(raw.fe_flags);
            self.fetched.push_back(Extent {
                logical: raw.fe_logical,
                physical: raw.fe_physical,
                length: raw.fe_length,
                flags,
            });
            self.rest.start = end;
            self.done |= flags.contains(ExtentFlags::LAST);
        }
        self.done |= mapped == 0 || self.rest.is_empty();
        Ok(())
    }
}

impl Iterator for Extents<'_> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.fetched.is_empty() {
            match self.batch() {
                Ok(batch) => self.fetched = batch,
                Err(error) => return Some(Err(error)),
            }
        }
        self.fetched.pop_front().map(Ok)
    }
}
