//! The header that mkswap(8) writes, and by which swapon(8) recognises a swap file.

use nix::sys::uio::pread;

use super::target::Target;

/// The last bytes of the header, at the end of the first page.
const MAGIC: &[u8; 10] = b"SWAPSPACE2";
/// The page sizes of Linux: a header is as long as a page of the machine that made it.
const PAGE_SIZES: [u32; 5] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];
/// Where every header has its version, whatever the size of a page (`union swap_header` in `include/linux/swap.h`).
const VERSION_AT: i64 = 1024;
/// mkswap(8) makes no swap area of fewer pages.
const LEAST_PAGES: u64 = 10;

/// Whether a file of this size has a swap header. A header that cannot be read counts as absent: only a note depends on
/// it.
pub(crate) fn present(target: &Target, size: u64) -> bool {
    let mut version = [0; 4];
    if size < LEAST_PAGES * u64::from(PAGE_SIZES[0]) || pread(target, &mut version, VERSION_AT) != Ok(version.len()) {
        return false;
    }
    if ![u32::from_le_bytes(version), u32::from_be_bytes(version)].contains(&1) {
        return false;
    }
    PAGE_SIZES.into_iter().filter(|page_size| u64::from(*page_size) * LEAST_PAGES <= size).any(|page_size| {
        let mut end = [0; MAGIC.len()];
        pread(target, &mut end, i64::from(page_size) - 10) == Ok(end.len()) && end == *MAGIC
    })
}
