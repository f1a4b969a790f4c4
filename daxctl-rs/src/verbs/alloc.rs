//! `alloc`: creates a file with every block allocated, zeroed and written, or no file at all.
//!
//! The file has no name until it is complete and durable. So whatever ends the program, a crash included, it leaves no
//! partial file behind.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libdaxfile::Errno;
use libdaxfile::f2fs;
use libdaxfile::fallocate::{Mode, fallocate};
use libdaxfile::statx;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::fstatat;
use nix::unistd::{AccessFlags, UnlinkatFlags, faccessat, fsync, ftruncate, linkat, unlinkat};

use super::each;
use crate::error::{Error, Result, ResultExt};
use crate::file::blockers::{Blocker, Kind, turn_extents_on};
use crate::file::layout::block_end;
use crate::file::map;
use crate::file::open;
use crate::file::target::{Target, parent, unnamed};
use crate::hold::Requirements;
use crate::needs::{Hold, Needs};
use crate::pin::survey::{self, Survey};
use crate::prepare::zeros::Zeros;
use crate::progress::{Progress, Unit};
use crate::report::{Action, FileReport, Sink};
use crate::status::Status;
use crate::system::filesystem::{self, Filesystem};

/// The properties of the new file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Size in bytes.
    pub size: u64,
    /// Alignment, and the most extents.
    pub needs: Needs,
    /// Only report what would be done.
    pub dry_run: bool,
}

/// Creates the file.
pub fn run(path: &Path, options: &Options, progress: &dyn Progress, sink: &mut Sink<'_>) -> Status {
    let mut report = FileReport::new(path);
    if let Err(error) = alloc(path, options, progress, &mut report) {
        report.fail(&error);
    }
    each::emit(report, sink)
}

fn alloc(path: &Path, options: &Options, progress: &dyn Progress, report: &mut FileReport) -> Result<()> {
    let name =
        last_component(path).ok_or_else(|| Error::new(Status::Failed, "the path does not end with a file name"))?;
    let parent = parent(path);
    let directory = open::directory(parent).map_err(|error| match error.message.as_str() {
        "" => error.because(format!("the directory {}", crate::name::quote(parent))),
        _ => error,
    })?;
    if options.size == 0 {
        return Err(Error::new(Status::Failed, "a file without contents has no map; the size must be at least 1"));
    }
    match fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => {}
        Ok(_) => return Err(exists()),
        Err(errno) => return Err(Error::call("newfstatat", errno)),
    }
    let filesystem = Filesystem::of(&directory)?;
    require_hold(&directory, &filesystem)?;
    let rounded = block_end(options.size, filesystem.block_size);
    let reserve = rounded.saturating_add(options.needs.align.unwrap_or(0));
    filesystem.require_space(&directory, reserve)?;
    if options.dry_run {
        faccessat(&directory, ".", AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS).call("faccessat")?;
        report.action = Some(Action::WouldCreate);
        return Ok(());
    }
    let target = unnamed(&directory, path)?;
    let survey = fill(&target, options, reserve, rounded, progress).map_err(|error| match error.errno {
        Some(Errno::EFBIG) => error.because("more than the filesystem, or the limit of the caller (ulimit -f), allows"),
        _ => error,
    })?;
    report.describe(&target, &survey);
    stop_if_interrupted(progress)?;
    if !survey.blockers.is_empty() {
        report.add_blockers(survey.blockers.into_iter().map(advise).collect());
        return Ok(());
    }
    link(&target, &directory, name)?;
    // On XFS a directory's fsync succeeds even after a shutdown. The file's fsync reports the shutdown, and writes the
    // log that contains the name (xfs_dir_fsync(), xfs_file_fsync()).
    let durable = fsync(&target).and_then(|()| fsync(&directory));
    durable
        .map_err(|errno| (Error::call("fsync", errno), "the new name is not durable"))
        .and_then(|()| target.require_named("").map_err(|error| (error, MOVED)))
        .map_err(|(error, why)| unlink(&target, &directory, name, error, why))?;
    report.action = Some(Action::Created);
    Ok(())
}

const MOVED: &str = "busy: another process moved or replaced the new file, or its directory";

/// Refuses to create a file where no hold works.
fn require_hold(directory: impl AsFd, filesystem: &Filesystem) -> Result<()> {
    let statx = statx::get(&directory)?;
    let missing = Requirements::default().missing(holds_on(filesystem), &directory, &statx, filesystem)?;
    // If the file may not be created there, a later call reports that.
    let refused = missing.into_iter().find(|missing| !missing.caller_only && missing.errno.is_none());
    let Some(missing) = refused else { return Ok(()) };
    let (name, mut why) = (filesystem.name(), missing.what);
    if filesystem.lacks_extents() {
        why = format!("{why}; {} turns it on", turn_extents_on(&directory, statx.device));
    }
    Err(Error::new(missing.status, format!("no hold is available on {name}: {why}")))
}

/// The hold that works for files on this filesystem.
fn holds_on(filesystem: &Filesystem) -> Hold {
    if filesystem.kind == filesystem::Kind::F2fs { Hold::Writable } else { Hold::Frozen }
}

/// The name within its directory. [`Path::file_name`] would accept `name/` and `name/.`.
fn last_component(path: &Path) -> Option<&OsStr> {
    let name = path.as_os_str().as_bytes().rsplit(|&byte| byte == b'/').next()?;
    (!matches!(name, b"" | b"." | b"..")).then(|| OsStr::from_bytes(name))
}

fn exists() -> Error {
    Error::from_errno(Errno::EEXIST).because("alloc never touches an existing file")
}

/// Allocates, aligns, zeroes and truncates the file, and surveys it.
fn fill(target: &Target, options: &Options, reserve: u64, rounded: u64, progress: &dyn Progress) -> Result<Survey> {
    if target.filesystem.kind == filesystem::Kind::F2fs {
        f2fs::pin(target)?;
    }
    fallocate(target, Mode::empty(), 0, reserve).map_err(|error| {
        let error = Error::from(error);
        match error.errno {
            // Not every caller may read the feature.
            Some(Errno::EOPNOTSUPP) if target.filesystem.kind == filesystem::Kind::Ext => {
                error.because("is its feature extent off, as on ext2 and ext3? tune2fs -O extents turns it on")
            }
            _ => error,
        }
    })?;
    if let Some(align) = options.needs.align {
        align_pieces(target, align, rounded, reserve)?;
    }
    truncate(target, rounded)?;
    // Linux 6.17 and newer, on devices that can unmap and write zeros: the blocks are written from the start.
    if let Err(error) = fallocate(target, Mode::WRITE_ZEROES, 0, rounded) {
        if error.errno != Errno::EOPNOTSUPP {
            return Err(error.into());
        }
        write_zeros(target, rounded, progress)?;
    }
    truncate(target, options.size)?;
    target.fsync()?;
    let needs = Needs { hold: holds_on(&target.filesystem), ..options.needs };
    survey::take(target, needs, None, |_| ())
}

fn truncate(target: &Target, size: u64) -> Result<()> {
    ftruncate(target, i64::try_from(size).unwrap_or(i64::MAX)).map_err(|errno| {
        let error = Error::call("ftruncate", errno);
        // f2fs_setattr()
        if errno == Errno::EINVAL && target.filesystem.kind == filesystem::Kind::F2fs {
            return error.because("f2fs pins whole sections: the size must be a multiple of a section, usually 2 MiB");
        }
        error
    })
}

/// Replaces the remedy: there is no file yet that a command could change.
fn advise(blocker: Blocker) -> Blocker {
    let remedy = match blocker.kind {
        Kind::Misaligned | Kind::TooManyExtents => "relax the requirement, or free space in larger pieces",
        _ => "use another directory, whose files do not inherit this",
    };
    Blocker { remedy: remedy.into(), ..blocker }
}

/// Aligns the file physically, which the extent-size hint does not do: allocates more than necessary, and gives back what
/// lies outside of whole, aligned pieces. What is then missing at the end is allocated in the same way.
fn align_pieces(target: &Target, align: u64, rounded: u64, reserve: u64) -> Result<()> {
    let (mut kept, mut end) = (0, reserve);
    loop {
        end -= collapse_unaligned(target, align, end)?;
        // On a disk that has no more room in aligned pieces, another round would not help.
        if end >= rounded || end <= kept {
            break;
        }
        kept = end;
        let more = (rounded - end).saturating_add(align);
        let allocated = target
            .filesystem
            .require_space(target, more)
            .is_ok_and(|()| fallocate(target, Mode::empty(), end, more).is_ok());
        if !allocated {
            break;
        }
        end += more;
    }
    if end < rounded {
        // The survey then names the pieces that are not aligned.
        fallocate(target, Mode::empty(), end, rounded - end)?;
    }
    Ok(())
}

/// Removes what lies outside of whole, aligned pieces from a file without holes that ends at `end`. The last piece may be
/// incomplete. Returns how many bytes that are.
fn collapse_unaligned(target: &Target, align: u64, end: u64) -> Result<u64> {
    /// Each removal moves all extents behind it.
    const MOST: usize = 1024;
    let mut pieces: Vec<(Range<u64>, u64)> = Vec::new();
    map::read(target, &target.inode_state()?, None, None, |run| {
        let part = run.logical..end.min(run.logical + run.length);
        match pieces.last_mut() {
            // Allocated past the end.
            _ if part.is_empty() => {}
            Some((last, physical)) if *physical + (last.end - last.start) == run.physical => last.end = part.end,
            _ => pieces.push((part, run.physical)),
        }
    })?;
    let last = pieces.len().saturating_sub(1);
    let mut cuts: Vec<Range<u64>> = Vec::new();
    for (index, (piece, physical)) in pieces.into_iter().enumerate() {
        let length = piece.end - piece.start;
        let head = (align - (physical % align + target.start % align) % align) % align;
        let head = head.min(length);
        let tail = if index == last { 0 } else { (length - head) % align };
        for cut in [piece.start..piece.start + head, piece.end - tail..piece.end] {
            match cuts.last_mut() {
                _ if cut.is_empty() => {}
                Some(before) if before.end == cut.start => before.end = cut.end,
                _ => cuts.push(cut),
            }
        }
    }
    let whole_blocks = |cut: &Range<u64>| (cut.end - cut.start).is_multiple_of(target.filesystem.block_size);
    if cuts.len() > MOST || !cuts.iter().all(whole_blocks) {
        return Ok(0);
    }
    let mut removed = 0;
    // From the end, because each removal moves what is behind it.
    for cut in cuts.into_iter().rev() {
        let length = cut.end - cut.start;
        if cut.end >= end - removed {
            truncate(target, cut.start)?;
        } else {
            fallocate(target, Mode::COLLAPSE_RANGE, cut.start, length)?;
        }
        removed += length;
    }
    Ok(removed)
}

fn write_zeros(target: &Target, bytes: u64, progress: &dyn Progress) -> Result<()> {
    progress.begin(bytes, Unit::Bytes);
    let written = Zeros::new(target)?.write(target, 0..bytes, |written| {
        progress.advance(written);
        stop_if_interrupted(progress)
    });
    progress.end();
    written
}

fn stop_if_interrupted(progress: &dyn Progress) -> Result<()> {
    if progress.interrupted() {
        return Err(Error::interrupted("no file was made"));
    }
    Ok(())
}

/// Gives the complete file its name.
fn link(target: &Target, directory: impl AsFd, name: &OsStr) -> Result<()> {
    // Before Linux 6.10, a caller without CAP_DAC_READ_SEARCH gets ENOENT for an empty path. /proc works for every
    // caller.
    let linked = match linkat(target, "", &directory, name, AtFlags::AT_EMPTY_PATH) {
        Err(Errno::ENOENT) => {
            let source = format!("/proc/self/fd/{}", target.as_fd().as_raw_fd());
            linkat(AT_FDCWD, source.as_str(), &directory, name, AtFlags::AT_SYMLINK_FOLLOW)
        }
        linked => linked,
    };
    linked.map_err(|errno| if errno == Errno::EEXIST { exists() } else { Error::call("linkat", errno) })
}

/// Removes the name again after a failure; returns the original error, with the reason and what is left.
fn unlink(target: &Target, directory: impl AsFd, name: &OsStr, error: Error, why: &str) -> Error {
    let ours =
        fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|stat| stat.st_ino == target.identity.inode);
    // The name may refer to another file by now.
    if !ours {
        return error.because(format!("{why}; no file was made, and the name is not its own by now"));
    }
    match unlinkat(&directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) => {
            // If this fails as well, nothing more can be done.
            let _ = fsync(&directory);
            error.because(format!("{why}; no file was made"))
        }
        Err(undo) => error.because(format!("{why}, and removing the file failed ({})", libdaxfile::meaning(undo))),
    }
}
