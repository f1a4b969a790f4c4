//! Zeros, written with direct I/O.

use std::ops::Range;

use libdaxfile::{Errno, statx};
use nix::sys::uio::pwrite;

use crate::error::{Error, Result, ResultExt};
use crate::file::target::Target;

/// Bytes to write in one call: below 4 MiB direct writes are slower, above 8 MiB they are no faster.
const CHUNK: usize = 8 << 20;

/// A buffer of zeros, aligned for direct writes.
#[derive(Debug)]
pub(crate) struct Zeros {
    buffer: Vec<u8>,
    start: usize,
}

impl Zeros {
    /// Makes a buffer with the alignment that the file's filesystem and device need.
    pub(crate) fn new(target: &Target) -> Result<Self> {
        let (align, _) = statx::get(target)?.direct_io.unwrap_or((4096, 4096));
        let align = (align as usize).max(4096);
        let buffer = vec![0; CHUNK + align];
        let start = buffer.as_ptr().align_offset(align).min(align);
        Ok(Zeros { buffer, start })
    }

    /// Writes zeros over a range. Calls `after` for each piece; an error of `after` stops the writing.
    pub(crate) fn write(
        &self,
        target: &Target,
        range: Range<u64>,
        mut after: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let mut offset = range.start;
        while offset < range.end {
            let length = usize::try_from(range.end - offset).unwrap_or(CHUNK).min(CHUNK);
            let zeros = &self.buffer[self.start..self.start + length];
            let written = match pwrite(target, zeros, i64::try_from(offset).unwrap_or(i64::MAX)) {
                Err(Errno::EINTR) => continue,
                Ok(0) => return Err(Error::call("pwrite64", Errno::EIO).because("nothing was written")),
                written => written.call("pwrite64")? as u64,
            };
            offset += written;
            after(written)?;
        }
        Ok(())
    }
}
