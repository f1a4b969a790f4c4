//! Active swapfiles.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use libdaxfile::statx::Statx;
use nix::sys::stat::makedev;

use crate::error::{Result, ResultExt};
use crate::name::unescape;

/// How long a cached table stays valid: a command may look at many small files in this time, and no user can observe
/// whether a swapfile became active shortly before or shortly after a look.
const FRESH: Duration = Duration::from_millis(10);

struct Table {
    read_at: Instant,
    /// Device and inode number of each swapfile.
    swapfiles: Vec<(u64, u64)>,
}

static TABLE: Mutex<Option<Table>> = Mutex::new(None);

/// Whether this inode is an active swapfile. No call reports S_SWAPFILE, but proc_swaps(5) names the files.
///
/// # Errors
/// An error of reading /proc/swaps.
pub(crate) fn active(statx: &Statx) -> Result<bool> {
    let (major, minor) = statx.device;
    let inode = (makedev(major.into(), minor.into()), statx.inode);
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    let fresh = table.take().filter(|table| table.read_at.elapsed() < FRESH);
    let now = match fresh {
        Some(table) => table,
        None => Table { read_at: Instant::now(), swapfiles: read()? },
    };
    Ok(table.insert(now).swapfiles.contains(&inode))
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
