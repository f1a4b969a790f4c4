//! Whether the guard has a file: one ioctl and a look at the guard's pins, which need neither BPF nor privileges.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Named, Result};
use crate::file::target::Target;

/// The guard's pins.
pub(crate) const PINS: &str = "/sys/fs/bpf/daxfile";

/// Whether the guard has the file, and is whole, and f2fs keeps its blocks where they are.
///
/// # Errors
/// Those of the ioctls that ask them, and of looking at the guard's pins.
pub fn holds(target: &Target) -> Result<bool> {
    Ok(target.filesystem.keeps_blocks(target)? && guards(target)? && is_whole()?)
}

/// Whether the guard, whatever is left of it, has the file.
///
/// # Errors
/// Those of the ioctl that asks it.
pub fn guards(target: &Target) -> Result<bool> {
    Ok(libdaxfile::guard::has(target)?)
}

/// Directories of links, each with the number that its name promises.
pub(crate) fn directories_of_links() -> io::Result<Vec<(PathBuf, usize)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(PINS)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(number) = name.strip_prefix("links-").and_then(|rest| rest.rsplit('-').next()?.parse().ok()) {
            found.push((path, number));
        }
    }
    Ok(found)
}

pub(crate) fn has_all(path: &Path, number: usize) -> bool {
    fs::read_dir(path).is_ok_and(|entries| entries.count() == number)
}

/// Whether no link is missing, as far as the caller may look.
fn is_whole() -> Result<bool> {
    match directories_of_links() {
        Ok(found) => Ok(found.iter().any(|(path, number)| has_all(path, *number))),
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) => Ok(true),
        Err(error) => Err(error).named("readdir(/sys/fs/bpf/daxfile)"),
    }
}
