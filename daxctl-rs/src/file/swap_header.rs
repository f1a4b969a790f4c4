//! The header that mkswap(8) writes, and by which swapon(8) knows a swap file.

use nix::sys::uio::pread;

use super::target::Target;

/// The header's last bytes, which end the first page.
const MAGIC: &[u8; 10] = b"SWAPSPACE2";
/// The page sizes of Linux: a header is as long as a page of the machine that it was made on.
const PAGE_SIZES: [u32; 5] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];
/// mkswap(8) makes none of fewer pages.
const LEAST_PAGES: u64 = 10;

/// Whether a file of this size has one. What cannot be read counts as none: only a note depends on it.
pub(crate) fn present(target: &Target, size: u64) -> bool {
    PAGE_SIZES.into_iter().filter(|page_size| u64::from(*page_size) * LEAST_PAGES <= size).any(|page_size| {
        let mut end = [0; MAGIC.len()];
        pread(target, &mut end, i64::from(page_size) - 10) == Ok(end.len()) && end == *MAGIC
    })
}
