//! Active swapfiles.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use libdaxfile::statx::Statx;
use nix::sys::stat::makedev;

use crate::error::{Result, ResultExt};
use crate::name::unescape;
use crate::system::fresh::Fresh;

/// Device and inode number of each swapfile.
static TABLE: Fresh<Vec<(u64, u64)>> = Fresh::new();

/// Whether this inode is an active swapfile. No call reports S_SWAPFILE, but proc_swaps(5) names the files.
///
/// # Errors
/// An error of reading /proc/swaps.
pub(crate) fn active(statx: &Statx) -> Result<bool> {
    let (major, minor) = statx.device;
    let inode = (makedev(major.into(), minor.into()), statx.inode);
    TABLE.get(|_| true, read, |swapfiles| swapfiles.contains(&inode))
}

fn read() -> Result<Vec<(u64, u64)>> {
    let swaps = match std::fs::read("/proc/swaps") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        swaps => swaps.call("read(/proc/swaps)")?,
    };
    let lines = swaps.split(|&byte| byte == b'\n').skip(1).filter(|line| !line.is_empty());
    let name = |line: &[u8]| unescape(line.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default());
    let found = lines.filter_map(|line| std::fs::metadata(Path::new(&name(line))).ok());
    Ok(found.map(|metadata| (metadata.dev(), metadata.ino())).collect())
}
