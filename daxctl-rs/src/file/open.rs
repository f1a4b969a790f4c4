//! Opening by name. This tool runs as root on names that others can change, so a name is first resolved to a file without
//! opening that (`O_PATH`), and what it led to is looked at and opened through /proc: no FIFO and no device is ever opened.
//!
//! A symbolic link in the last place is refused. One on the way is followed only where nobody could have put it there but
//! root, or the caller. openat2(2) resolves names without links at once; the others are walked, one name at a time.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use libdaxfile::Errno;
use libdaxfile::statx::{self, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, Statx};
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open as open_by_name, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, stat};
use nix::unistd::{getegid, geteuid};

use crate::error::{Error, Named, Result};
use crate::name::quote;
use crate::status::Status;

/// Links followed on one way: `MAXSYMLINKS` of the kernel.
const LINKS: usize = 40;

/// Most attempts of openat2(2) while others rename what is on the way.
const ATTEMPTS: usize = 64;

/// A directory that names do not lead out of.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Opens a directory to look for names below it.
    ///
    /// # Errors
    /// Those of [`directory`].
    pub fn open(path: &Path) -> Result<Self> {
        require_directory(find(path, true)?).map(Root)
    }

    /// Opens a regular file below it. A link in the last place is refused; one on the way leads, like `..`, not out of the
    /// root.
    ///
    /// # Errors
    /// Those of [`regular`].
    pub(super) fn regular(&self, path: &Path) -> Result<(File, Statx)> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let path: PathBuf = [Component::CurDir]
            .into_iter()
            .chain(path.components())
            .filter(|part| *part != Component::RootDir)
            .collect();
        reopen_regular(&resolved(self.0.as_fd(), &path, false, resolve).map_err(of_open)?)
    }
}

/// Opens a regular file for reading. It never waits, not for a FIFO's writer, nor for a lease.
///
/// # Errors
/// Those of openat2(2) and open(2); status 2 for what is no regular file, a symbolic link included, and where another user
/// could have led the way.
pub(super) fn regular(path: &Path) -> Result<(File, Statx)> {
    reopen_regular(&find(path, false)?)
}

/// Opens a regular file by its name in a directory, where nothing is mounted on it.
///
/// # Errors
/// Those of [`regular`]; `EXDEV` where something is.
pub(super) fn regular_in(directory: BorrowedFd<'_>, name: &CStr) -> Result<(File, Statx)> {
    let resolve = ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_BENEATH;
    let name = Path::new(OsStr::from_bytes(name.to_bytes()));
    reopen_regular(&resolved(directory, name, false, resolve).map_err(of_open)?)
}

/// Opens a directory for reading.
///
/// # Errors
/// Those of [`regular`], but for what is no directory.
pub(crate) fn directory(path: &Path) -> Result<File> {
    reopen(&require_directory(find(path, true)?)?, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
}

/// Opens a regular file or a directory for reading.
///
/// # Errors
/// Those of [`regular`].
pub(crate) fn either(path: &Path) -> Result<File> {
    let found = find(path, false)?;
    match kind(&statx::get(&found)?) {
        S_IFDIR => reopen(&found, OFlag::O_RDONLY | OFlag::O_DIRECTORY),
        _ => reopen_regular(&found).map(|(file, _)| file),
    }
}

/// Opens for other access what is open already.
pub(super) fn reopen(file: impl AsFd, flags: OFlag) -> Result<File> {
    let same = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let flags = flags | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    open_by_name(same.as_str(), flags, Mode::empty()).map(File::from).named("open")
}

fn reopen_regular(found: &OwnedFd) -> Result<(File, Statx)> {
    let statx = statx::get(found)?;
    match kind(&statx) {
        S_IFREG => {}
        S_IFLNK => return Err(Error::new(Status::Failed, "a symbolic link (not followed)")),
        S_IFDIR => return Err(Error::new(Status::Failed, "a directory, not a regular file")),
        _ => return Err(Error::new(Status::Failed, "not a regular file")),
    }
    let file = reopen(found, OFlag::O_RDONLY).map_err(|error| match error.errno {
        Some(Errno::EAGAIN) => error.because("somebody holds a lease on it"),
        // The file itself was found. To verify, ENOENT would mean that it is gone.
        Some(Errno::ENOENT) => Error::new(Status::Unable, "needs /proc, which is not mounted here"),
        _ => error,
    })?;
    Ok((file, statx))
}

fn kind(statx: &Statx) -> u32 {
    u32::from(statx.mode) & S_IFMT
}

fn require_directory(found: OwnedFd) -> Result<OwnedFd> {
    match kind(&statx::get(&found)?) {
        S_IFDIR => Ok(found),
        _ => Err(Error::call("open", Errno::ENOTDIR)),
    }
}

fn of_open(errno: Errno) -> Error {
    let error = Error::call("open", errno);
    match errno {
        Errno::EAGAIN => error.because("its directories are being renamed"),
        _ => error,
    }
}

/// Resolves a name in one call.
fn resolved(from: BorrowedFd<'_>, path: &Path, follow: bool, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let mut flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    flags.set(OFlag::O_NOFOLLOW, !follow);
    let how = OpenHow::new().flags(flags).resolve(resolve);
    for _ in 1..ATTEMPTS {
        match openat2(from, path, how) {
            Err(Errno::EAGAIN) => {}
            found => return found,
        }
    }
    openat2(from, path, how)
}

/// Resolves a name to a descriptor that cannot be read from. A link in the last place is followed like the others, or is
/// itself what was found.
fn find(path: &Path, follow: bool) -> Result<OwnedFd> {
    // Whoever owns a directory can move it, and `..` then leads elsewhere; the caller's own place is the caller's choice.
    let climbs =
        path.components().skip_while(|part| *part == Component::ParentDir).any(|part| part == Component::ParentDir);
    if !climbs {
        let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        match resolved(AT_FDCWD, path, follow, resolve) {
            // There is a link; or a filter of system calls does not know the call.
            Err(Errno::ELOOP | Errno::ENOSYS | Errno::EPERM) => {}
            found => return found.map_err(of_open),
        }
    }
    Walk::begin(path)?.walk_to_end(follow)
}

/// Users, and a group, that names may be left to.
struct Trusted {
    users: [u32; 3],
    group: u32,
}

impl Trusted {
    fn look() -> Result<Self> {
        // Who owns the root directory can lead anybody anywhere. In a user namespace that may be nobody it knows.
        let root = stat("/").named("stat")?.st_uid;
        let user = geteuid();
        let group = if user.is_root() { 0 } else { getegid().as_raw() };
        Ok(Trusted { users: [0, user.as_raw(), root], group })
    }

    /// Whether others can give the name of `entry` in `directory` to something else.
    fn changeable(&self, directory: &FileStat, entry: &FileStat) -> bool {
        let ours = |stat: &FileStat| self.users.contains(&stat.st_uid);
        let mode = Mode::from_bits_truncate(directory.st_mode);
        let by_group = mode.contains(Mode::S_IWGRP) && ![0, self.group].contains(&directory.st_gid);
        if !ours(directory) {
            return true;
        }
        (by_group || mode.contains(Mode::S_IWOTH)) && !(mode.contains(Mode::S_ISVTX) && ours(entry))
    }
}

/// A way, walked one name at a time.
struct Walk {
    at: OwnedFd,
    /// What is still to be walked, the next name last.
    rest: Vec<OsString>,
    trusted: Trusted,
    /// Whether a name on the way was one that others can change: then they may have chosen all that follows.
    astray: bool,
    links: usize,
}

impl Walk {
    fn begin(path: &Path) -> Result<Self> {
        if path.as_os_str().is_empty() {
            return Err(Error::call("open", Errno::ENOENT));
        }
        let mut walk = Walk { at: start(path)?, rest: Vec::new(), trusted: Trusted::look()?, astray: false, links: 0 };
        walk.add(path);
        Ok(walk)
    }

    fn add(&mut self, path: &Path) {
        let bytes = path.as_os_str().as_bytes();
        // What ends with a slash is a directory, or must not be found.
        let directory = (bytes.ends_with(b"/") || bytes.ends_with(b"/.")).then(|| OsString::from("."));
        let names = path.components().filter_map(|part| match part {
            Component::ParentDir | Component::Normal(_) => Some(part.as_os_str().to_owned()),
            _ => None,
        });
        let names: Vec<_> = names.chain(directory).collect();
        self.rest.extend(names.into_iter().rev());
    }

    fn walk_to_end(mut self, follow: bool) -> Result<OwnedFd> {
        while let Some(name) = self.rest.pop() {
            if self.astray && name == OsStr::new("..") {
                return Err(refused("another user could have moved a directory that '..' is to lead out of"));
            }
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let next = openat(&self.at, name.as_os_str(), flags, Mode::empty()).named("open")?;
            let (here, entry) = (fstat(&self.at).named("fstat")?, fstat(&next).named("fstat")?);
            let climbs = [OsStr::new("."), OsStr::new("..")].contains(&name.as_os_str());
            self.astray |= !climbs && self.trusted.changeable(&here, &entry);
            if entry.st_mode & S_IFMT != S_IFLNK || self.rest.is_empty() && !follow {
                self.at = next;
                continue;
            }
            self.links += 1;
            if self.links > LINKS {
                return Err(Error::call("open", Errno::ELOOP));
            }
            if self.astray {
                let name = quote(Path::new(&name)).into_owned();
                return Err(refused(&format!(
                    "{name} on its way is a symbolic link that another user could have put there; name the file without it"
                )));
            }
            let to = PathBuf::from(OsString::from_vec(readlinkat(&next, "").named("readlinkat")?.into_vec()));
            if to.is_absolute() {
                self.at = start(&to)?;
            }
            self.add(&to);
        }
        Ok(self.at)
    }
}

/// Where a way begins.
fn start(path: &Path) -> Result<OwnedFd> {
    let from = if path.is_absolute() { "/" } else { "." };
    open_by_name(from, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).named("open")
}

fn refused(why: &str) -> Error {
    Error::call("open", Errno::ELOOP).because(why)
}
