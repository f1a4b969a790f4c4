//! Makes many files durable at once: one syncfs(2) per filesystem instead of one fsync(2) per file.

use nix::unistd::syncfs;

use crate::error::Result;
use crate::file::target::Target;
use crate::system::kernel;

/// From this number of files on one filesystem, one syncfs(2) may be faster than an fsync(2) of each file.
const MANY: usize = 16;

/// From this number of files, it is faster whatever else is dirty.
const LARGE: usize = 128;

/// Roughly the bytes that a device writes in the time of one fsync(2). syncfs(2) also writes what other processes have
/// dirtied there.
const DIRTY_BYTES_A_FILE: u64 = 4 << 20;

/// Makes all changes to these files durable. The results are in the order of the files.
pub(crate) fn sync(targets: &[&Target]) -> Vec<Result<()>> {
    let mut results: Vec<Option<Result<()>>> = targets.iter().map(|_| None).collect();
    for first in 0..targets.len() {
        if results[first].is_some() {
            continue;
        }
        let device = targets[first].device();
        let same: Vec<usize> = (first..targets.len()).filter(|&index| targets[index].device() == device).collect();
        // An error of syncfs(2) may concern another file. So after an error each file gets its own fsync(2).
        let at_once = is_worth_it(same.len()) && syncfs(targets[first]).is_ok();
        for index in same {
            results[index] = Some(if at_once { Ok(()) } else { targets[index].fsync() });
        }
    }
    results.into_iter().flatten().collect()
}

/// The kernel counts dirty bytes for all filesystems together. So a count that is too high must not rule out a large
/// batch.
fn is_worth_it(files: usize) -> bool {
    let few_are_dirty = || kernel::dirty_bytes().is_some_and(|bytes| bytes <= files as u64 * DIRTY_BYTES_A_FILE);
    files >= LARGE || files >= MANY && few_are_dirty()
}
