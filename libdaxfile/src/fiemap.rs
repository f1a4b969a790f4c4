//! `FS_IOC_FIEMAP`: the extent map of an open file.
//!
//! Linux 2.6.28 and later, on XFS, ext4, f2fs, btrfs and others. Needs an open descriptor and no privilege.
//!
//! Reference: `Documentation/filesystems/fiemap.rst`; `ioctl_fiemap()` in `fs/ioctl.c`; ioctl_fiemap(2).

use std::collections::VecDeque;
use std::fmt::{self, Debug, Formatter};
use std::iter::FusedIterator;
use std::mem::replace;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use crate::batches::{Batches, Fetch};
use crate::error::Result;
use crate::ioctl::Ioctl;

/// Extents fetched by the first call.
const SHORT: u32 = 32;

/// Extents fetched by each further call. Calls of 128 extents cost 1.4 times as much for the same map; larger calls gain
/// nothing.
const BATCH: u32 = 4096;

bitflags::bitflags! {
    /// The flags of an extent, `FIEMAP_EXTENT_*`. One extent can have several; flags that this crate does not know are kept.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct ExtentFlags: u32 {
        /// The last extent of the file. On ext4 and XFS, whose answer comes from iomap, also the last extent of the
        /// requested range.
        const LAST = 0x0001;
        /// The location is unknown, and the physical offset has no meaning.
        const UNKNOWN = 0x0002;
        /// Blocks are not allocated yet (delayed allocation). Always set together with [`UNKNOWN`](Self::UNKNOWN).
        const DELALLOC = 0x0004;
        /// The device does not hold the file's bytes as they are; they are compressed, for example.
        const ENCODED = 0x0008;
        /// The data on the device is encrypted.
        const DATA_ENCRYPTED = 0x0080;
        /// Offsets or length are not multiples of the block size.
        const NOT_ALIGNED = 0x0100;
        /// The data shares a block with metadata.
        const DATA_INLINE = 0x0200;
        /// The data shares a block with data of other files.
        const DATA_TAIL = 0x0400;
        /// Allocated but never written; reads return zeros.
        const UNWRITTEN = 0x0800;
        /// The file has no extents on disk; the kernel merged block pointers into this one.
        const MERGED = 0x1000;
        /// Other files, or other ranges of this file, use the same blocks.
        const SHARED = 0x2000;
        const _ = !0;
    }

    /// How the kernel reads the map, `FIEMAP_FLAG_*`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Request: u32 {
        /// Write dirty pages back first, so that delayed allocations get their blocks.
        const SYNC = 0x0001;
        /// Map the blocks of the extended attributes instead of those of the data.
        const XATTR = 0x0002;
    }
}

/// One extent of a file. Offsets and length are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file.
    pub logical: u64,
    /// Offset in the filesystem's address space, which on XFS and ext4 is the filesystem's device. Without meaning under
    /// [`ExtentFlags::UNKNOWN`].
    pub physical: u64,
    /// Length.
    pub length: u64,
    /// Flags.
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

/// `struct fiemap` and the array behind it that one call fills.
#[doc(hidden)]
#[repr(C)]
pub struct RawCall {
    pub header: RawHeader,
    pub extents: [RawExtent; BATCH as usize],
}

/// The same with a short array.
#[doc(hidden)]
#[repr(C)]
pub struct RawShortCall {
    pub header: RawHeader,
    pub extents: [RawExtent; SHORT as usize],
}

/// `_IOWR('f', 11, struct fiemap)`
#[doc(hidden)]
pub const FS_IOC_FIEMAP: Ioctl<RawHeader> = Ioctl::read_write::<RawHeader>("ioctl(FS_IOC_FIEMAP)", b'f', 11);

fn header(range: &Range<u64>, request: Request, extent_count: u32) -> RawHeader {
    RawHeader {
        fm_start: range.start,
        fm_length: range.end.saturating_sub(range.start),
        fm_flags: request.bits(),
        fm_extent_count: extent_count,
        ..RawHeader::default()
    }
}

/// Returns how many extents overlap `range`, in bytes, without fetching them. An empty range has none, as with [`Extents`].
///
/// # Errors
/// - `EOPNOTSUPP`: the filesystem has no FIEMAP.
/// - `EBADR`: the filesystem does not support a flag of `request`.
///
/// ```
/// use libdaxfile::fiemap::{self, Request};
///
/// let file = std::fs::File::open("/proc/self/exe")?;
/// match fiemap::count(&file, 0..u64::MAX, Request::SYNC) {
///     Ok(count) => println!("{count} extents"),
///     Err(error) => println!("{error}"),
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "FS_IOC_FIEMAP")]
pub fn count(fd: impl AsFd, range: Range<u64>, request: Request) -> Result<u32> {
    if range.is_empty() {
        return Ok(0); // The kernel refuses a length of 0 (EINVAL).
    }
    let mut call = header(&range, request, 0);
    // SAFETY: the header is live and exclusively borrowed, and with fm_extent_count 0 the kernel writes nothing behind it.
    unsafe { FS_IOC_FIEMAP.call(fd, &raw mut call) }?;
    Ok(call.fm_mapped_extents)
}

/// Iterates over the extents that overlap a range, in logical order.
///
/// The first call fetches up to 32 extents. Each further call fetches up to 4,096, into a buffer of 224 KiB. The calls together
/// are not atomic: if the file changes between two of them, the result mixes two maps.
///
/// # Errors
/// Each item may be an error, and nothing follows an error.
/// - `EOPNOTSUPP`: the filesystem has no FIEMAP.
/// - `EBADR`: the filesystem does not support a flag of the request.
/// - `EIO`: the kernel's answer does not advance; also an I/O error of the device.
#[doc(alias = "FS_IOC_FIEMAP")]
#[must_use = "iterators do nothing unless consumed"]
pub struct Extents<'fd>(Batches<Query<'fd>>);

struct Query<'fd> {
    fd: BorrowedFd<'fd>,
    rest: Range<u64>,
    request: Request,
    begun: bool,
    /// The buffer of the second call and those after it.
    call: Option<Box<RawCall>>,
}

impl<'fd> Extents<'fd> {
    /// Reads the extents of `fd` that overlap `range`, in bytes.
    pub fn new<F: AsFd + ?Sized>(fd: &'fd F, range: Range<u64>, request: Request) -> Self {
        let empty = range.is_empty();
        Extents(Batches::new(Query { fd: fd.as_fd(), rest: range, request, begun: false, call: None }, empty))
    }

    /// Returns the extents of one call, or the rest of them, for callers that handle many at a time. Empty after the
    /// last extent.
    ///
    /// # Errors
    /// Those of an item.
    pub fn batch(&mut self) -> Result<VecDeque<Extent>> {
        self.0.batch()
    }
}

impl Fetch for Query<'_> {
    type Item = Extent;

    fn fetch(&mut self) -> Result<(VecDeque<Extent>, bool)> {
        // Most files have few extents, and clearing the long array would take longer than the call. The kernel overwrites
        // fm_flags, so each call gets a new header.
        if !replace(&mut self.begun, true) {
            let header = header(&self.rest, self.request, SHORT);
            let mut call = RawShortCall { header, extents: [RawExtent::default(); SHORT as usize] };
            let pointer: *mut RawShortCall = &raw mut call;
            // SAFETY: `pointer` points to a header followed by room for the SHORT extents that fm_extent_count announces, it is
            // borrowed exclusively, and every bit pattern that the kernel may write is a valid value of these integer fields.
            unsafe { FS_IOC_FIEMAP.call(self.fd, pointer.cast::<RawHeader>()) }?;
            return self.keep(&call.extents[..call.header.fm_mapped_extents.min(SHORT) as usize]);
        }
        let mut call = self.call.take().unwrap_or_else(|| {
            Box::new(RawCall { header: RawHeader::default(), extents: [RawExtent::default(); BATCH as usize] })
        });
        call.header = header(&self.rest, self.request, BATCH);
        let pointer: *mut RawCall = &raw mut *call;
        // SAFETY: as above, with room for BATCH extents.
        unsafe { FS_IOC_FIEMAP.call(self.fd, pointer.cast::<RawHeader>()) }?;
        let kept = self.keep(&call.extents[..call.header.fm_mapped_extents.min(BATCH) as usize]);
        self.call = Some(call);
        kept
    }
}

impl Query<'_> {
    /// Keeps what a call fetched.
    fn keep(&mut self, mapped: &[RawExtent]) -> Result<(VecDeque<Extent>, bool)> {
        let mut extents = VecDeque::with_capacity(mapped.len());
        let mut last = false;
        for raw in mapped {
            let end = raw.fe_logical.checked_add(raw.fe_length);
            let Some(end) = end.filter(|&end| end > self.rest.start) else {
                return Err(FS_IOC_FIEMAP.error(Errno::EIO));
            };
            let flags = ExtentFlags::from_bits_retain(raw.fe_flags);
            extents.push_back(Extent {
                logical: raw.fe_logical,
                physical: raw.fe_physical,
                length: raw.fe_length,
                flags,
            });
            self.rest.start = end;
            last |= flags.contains(ExtentFlags::LAST);
        }
        Ok((extents, last || self.rest.is_empty()))
    }
}

impl Iterator for Extents<'_> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl FusedIterator for Extents<'_> {}

impl Debug for Extents<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Query { fd, rest, request, .. } = &self.0.source;
        f.debug_struct("Extents").field("fd", fd).field("rest", rest).field("request", request).finish_non_exhaustive()
    }
}
