//! Opening files by name. This tool runs as root on names that others can change. So it first resolves a name to a file
//! without opening that file (`O_PATH`), then checks the result and opens it through /proc. It never opens a FIFO or a
//! device.
//!
//! The tool refuses a symbolic link in the last component. It follows a link in an earlier component only where nobody
//! but root or the caller could have put it there. openat2(2) resolves names without links in one call; the tool walks
//! all other names one component at a time.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use libdaxfile::Errno;
use libdaxfile::statx::{self, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, Statx};
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open as open_by_name, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, stat};
use nix::unistd::getegid;

use crate::error::{Error, Result, ResultExt};
use crate::name::quote;
use crate::status::Status;
use crate::system::kernel::effective_user;

/// Most symbolic links to follow in one path: the kernel's `MAXSYMLINKS`.
const LINKS: usize = 40;

/// Most attempts of openat2(2) while other processes rename components of the path.
const ATTEMPTS: usize = 64;

/// A regular file that was opened, and what is known about it from that.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) statx: Statx,
    /// The inode's generation, if it is known already.
    pub(super) generation: Option<u32>,
    /// Whether reading leaves the access time alone.
    pub(super) spares_access_time: bool,
}

/// A directory that confines the resolution of names below it.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Opens a directory to resolve names below it.
    ///
    /// # Errors
    /// `ENOTDIR` for another kind of file, and the errors of openat2(2).
    pub fn open(path: &Path) -> Result<Self> {
        require_directory(find(path, true)?).map(Root)
    }

    /// Opens a regular file below the root. Refuses a link in the last component. A link in an earlier component, like
    /// `..`, cannot lead out of the root.
    ///
    /// # Errors
    /// As for [`regular`].
    pub(super) fn regular(&self, path: &Path) -> Result<Opened> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let path: PathBuf = [Component::CurDir]
            .into_iter()
            .chain(path.components())
            .filter(|part| *part != Component::RootDir)
            .collect();
        reopen_regular(&resolved(self.0.as_fd(), &path, false, resolve).map_err(of_open)?)
    }
}

/// Opens a regular file for reading. Never waits, neither for a FIFO's writer nor for a lease.
///
/// # Errors
/// An error of openat2(2) or open(2). Status 2 if the path names anything but a regular file (a symbolic link
/// included), or if another user could have redirected the path.
pub(super) fn regular(path: &Path) -> Result<Opened> {
    reopen_regular(&find(path, false)?)
}

/// Opens a regular file by its name in a directory, if nothing is mounted on it.
///
/// # Errors
/// As for [`regular`]; `EXDEV` if something is mounted on it.
pub(super) fn regular_in(directory: BorrowedFd<'_>, name: &CStr) -> Result<Opened> {
    let resolve = ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_BENEATH;
    let name = Path::new(OsStr::from_bytes(name.to_bytes()));
    reopen_regular(&resolved(directory, name, false, resolve).map_err(of_open)?)
}

/// Opens a directory for reading.
///
/// # Errors
/// As for [`regular`], except that status 2 means that the path does not name a directory.
pub(crate) fn directory(path: &Path) -> Result<File> {
    reopen(&require_directory(find(path, true)?)?, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
}

/// Opens a regular file or a directory for reading.
///
/// # Errors
/// As for [`regular`], except that a directory is accepted.
pub(crate) fn file_or_directory(path: &Path) -> Result<File> {
    let found = find(path, false)?;
    match kind(&statx::get(&found)?) {
        S_IFDIR => reopen(&found, OFlag::O_RDONLY | OFlag::O_DIRECTORY),
        _ => reopen_regular(&found).map(|opened| opened.file),
    }
}

/// Whether a name still leads to this file. Opens nothing.
///
/// # Errors
/// An error of openat2(2) or statx(2) that leaves this unknown.
pub(super) fn leads_to(path: &Path, file: &Statx) -> Result<bool> {
    match find(path, false) {
        Ok(found) => {
            let now = statx::get(&found)?;
            Ok((now.device, now.inode) == (file.device, file.inode))
        }
        Err(Error { errno: Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EAGAIN), .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reopens an open file with other access flags.
pub(super) fn reopen(file: impl AsFd, flags: OFlag) -> Result<File> {
    let same = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let flags = flags | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    open_by_name(same.as_str(), flags, Mode::empty()).map(File::from).call("open")
}

fn reopen_regular(found: &OwnedFd) -> Result<Opened> {
    let statx = statx::get(found)?;
    match kind(&statx) {
        S_IFREG => {}
        S_IFLNK => return Err(Error::new(Status::Failed, "a symbolic link (not followed)")),
        S_IFDIR => return Err(Error::new(Status::Failed, "a directory, not a regular file")),
        _ => return Err(Error::new(Status::Failed, "not a regular file")),
    }
    let file = reopen(found, OFlag::O_RDONLY).map_err(|error| match error.errno {
        Some(Errno::EAGAIN) => error.because("another process holds a lease on it"),
        // The file itself was found. `verify` would take ENOENT to mean that the file is gone.
        Some(Errno::ENOENT) => Error::new(Status::Unable, "needs /proc, which is not mounted here"),
        _ => error,
    })?;
    Ok(Opened { file, statx, generation: None, spares_access_time: false })
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

/// Resolves a name to a descriptor that cannot be read from. If `follow` is set, follows a link in the last component
/// like the others; otherwise returns the link itself.
fn find(path: &Path, follow: bool) -> Result<OwnedFd> {
    // The owner of a directory can move it, and `..` then leads elsewhere. The caller's own working directory is the
    // caller's choice.
    let climbs =
        path.components().skip_while(|part| *part == Component::ParentDir).any(|part| part == Component::ParentDir);
    if !climbs {
        let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        match resolved(AT_FDCWD, path, follow, resolve) {
            // The path contains a link, or a filter of system calls does not know the call.
            Err(Errno::ELOOP | Errno::ENOSYS | Errno::EPERM) => {}
            found => return found.map_err(of_open),
        }
    }
    Walk::begin(path)?.walk_to_end(follow)
}

/// The users and the group that may control a component of a path.
struct Trusted {
    users: [u32; 3],
    group: u32,
}

impl Trusted {
    fn look() -> Result<Self> {
        // The owner of the root directory can redirect any path. In a user namespace that owner may be a user unknown
        // to it.
        let root = stat("/").call("stat")?.st_uid;
        let user = effective_user();
        let group = if user.is_root() { 0 } else { getegid().as_raw() };
        Ok(Trusted { users: [0, user.as_raw(), root], group })
    }

    /// Whether other users can make the name of `entry` in `directory` refer to something else.
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

/// A path, walked one component at a time.
struct Walk {
    at: OwnedFd,
    /// The components still to walk, the next one last.
    rest: Vec<OsString>,
    trusted: Trusted,
    /// Whether other users can change a component already walked. If so, they may have chosen everything after it.
    redirectable: bool,
    links: usize,
}

impl Walk {
    fn begin(path: &Path) -> Result<Self> {
        if path.as_os_str().is_empty() {
            return Err(Error::call("open", Errno::ENOENT));
        }
        let mut walk =
            Walk { at: start(path)?, rest: Vec::new(), trusted: Trusted::look()?, redirectable: false, links: 0 };
        walk.add(path);
        Ok(walk)
    }

    fn add(&mut self, path: &Path) {
        let bytes = path.as_os_str().as_bytes();
        // A path that ends with a slash must name a directory.
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
            if self.redirectable && name == OsStr::new("..") {
                return Err(refused("another user could have moved the directory that '..' leaves"));
            }
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let next = openat(&self.at, name.as_os_str(), flags, Mode::empty()).call("open")?;
            let (here, entry) = (fstat(&self.at).call("fstat")?, fstat(&next).call("fstat")?);
            let climbs = [OsStr::new("."), OsStr::new("..")].contains(&name.as_os_str());
            self.redirectable |= !climbs && self.trusted.changeable(&here, &entry);
            if entry.st_mode & S_IFMT != S_IFLNK || self.rest.is_empty() && !follow {
                self.at = next;
                continue;
            }
            self.links += 1;
            if self.links > LINKS {
                return Err(Error::call("open", Errno::ELOOP));
            }
            if self.redirectable {
                let name = quote(Path::new(&name)).into_owned();
                return Err(refused(&format!(
                    "{name} in its path is a symbolic link that another user could have put there; name the file without it"
                )));
            }
            let to = PathBuf::from(OsString::from_vec(readlinkat(&next, "").call("readlinkat")?.into_vec()));
            if to.is_absolute() {
                self.at = start(&to)?;
            }
            self.add(&to);
        }
        Ok(self.at)
    }
}

/// Opens the directory where a path begins.
fn start(path: &Path) -> Result<OwnedFd> {
    let from = if path.is_absolute() { "/" } else { "." };
    open_by_name(from, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).call("open")
}

fn refused(why: &str) -> Error {
    Error::call("open", Errno::ELOOP).because(why)
}
