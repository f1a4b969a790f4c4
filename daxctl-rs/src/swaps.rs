//! Active swapfiles.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::OnceLock;

use libdaxfile::statx::Statx;
use nix::sys::stat::makedev;

use crate::error::{Named, Result};
use crate::name::unescape;

/// Whether the kernel swaps to this inode. No call tells S_SWAPFILE, but proc_swaps(5) names the files.
///
/// # Errors
/// Those of reading it.
pub(crate) fn active(statx: &Statx) -> Result<bool> {
    let (major, minor) = statx.device;
    let device = makedev(major.into(), minor.into());
    let is_this = |line: &[u8]| {
        let name = line.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
        let metadata = std::fs::metadata(Path::new(&unescape(name)));
        metadata.is_ok_and(|metadata| metadata.ino() == statx.inode && metadata.dev() == device)
    };
    let swaps = read()?;
    Ok(swaps.split(|&byte| byte == b'\n').skip(1).filter(|line| !line.is_empty()).any(is_this))
}

/// The table as it is now; empty where the kernel does not swap. It stays open, since it is read once a file.
fn read() -> Result<Vec<u8>> {
    static TABLE: OnceLock<File> = OnceLock::new();
    let table = match TABLE.get() {
        Some(table) => table,
        None => match File::open("/proc/swaps") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => {
                let opened = opened.named("open(/proc/swaps)")?;
                TABLE.get_or_init(|| opened)
            }
        },
    };
    let (mut swaps, mut length) = (vec![0; 4096], 0);
    loop {
        match table.read_at(&mut swaps[length..], length as u64).named("pread64(/proc/swaps)")? {
            0 => break,
            more => length += more,
        }
        if length == swaps.len() {
            swaps.resize(length * 2, 0);
        }
    }
    swaps.truncate(length);
    Ok(swaps)
}
