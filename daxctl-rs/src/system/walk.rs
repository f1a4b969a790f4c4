//! A walk through a directory tree, on several processors at once. The walk stays on one mount, follows no symbolic
//! link, and opens only directories. It keeps each directory open until it has opened its subdirectories, so that
//! renames cannot lead it astray, and no path is too long.

use std::ffi::{CStr, CString};
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use libdaxfile::Errno;
use libdaxfile::statx::{S_IFDIR, S_IFMT, S_IFREG};
use nix::dir::{Dir, Type};
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::fstatat;

use crate::error::{Error, Result, ResultExt};

/// A regular file found by a walk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FoundFile<'a> {
    pub(crate) directory: BorrowedFd<'a>,
    directory_path: &'a Path,
    pub(crate) name: &'a CStr,
    pub(crate) inode: u64,
}

impl<'a> FoundFile<'a> {
    pub(crate) fn new(directory: BorrowedFd<'a>, directory_path: &'a Path, name: &'a CStr, inode: u64) -> Self {
        FoundFile { directory, directory_path, name, inode }
    }

    pub(crate) fn path(&self) -> PathBuf {
        below(self.directory_path, self.name)
    }
}

/// Receives what a walk finds.
pub(crate) trait Visitor: Sync {
    /// Receives a regular file.
    fn visit(&self, file: &FoundFile<'_>);
    /// Receives a directory that could not be read.
    fn fail(&self, directory: &Path, error: &Error);
    /// Whether the walk can stop.
    fn is_done(&self) -> bool;
}

/// A directory still to be read.
struct Pending {
    parent: Arc<Opened>,
    name: CString,
}

struct Opened {
    descriptor: OwnedFd,
    path: PathBuf,
}

#[derive(Default)]
struct Queue {
    pending: Vec<Pending>,
    /// The number of threads that are reading a directory, and may add to the queue.
    reading: usize,
}

/// Walks the tree below an open directory.
pub(crate) fn walk(root: OwnedFd, path: &Path, visitor: &dyn Visitor) {
    let queue = Mutex::new(Queue { reading: 1, ..Queue::default() });
    let changed = Condvar::new();
    let walk = Walk { queue, changed, visitor };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| walk.work());
        }
        walk.read(root, path.to_owned());
        walk.work();
    });
}

struct Walk<'a> {
    queue: Mutex<Queue>,
    changed: Condvar,
    visitor: &'a dyn Visitor,
}

impl Walk<'_> {
    /// Reads directories until none is left and no other thread can add one.
    fn work(&self) {
        while let Some(pending) = self.next() {
            let path = below(&pending.parent.path, &pending.name);
            let opened = open_below(&pending.parent.descriptor, &pending.name);
            // Drop them now, so that only the directories on the way to those being read stay open.
            drop(pending);
            match opened {
                Ok(Some(descriptor)) => self.read(descriptor, path),
                Ok(None) => self.add(Vec::new()),
                Err(error) => {
                    self.visitor.fail(&path, &error);
                    self.add(Vec::new());
                }
            }
        }
    }

    fn next(&self) -> Option<Pending> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if self.visitor.is_done() {
                return None;
            }
            if let Some(pending) = queue.pending.pop() {
                queue.reading += 1;
                return Some(pending);
            }
            if queue.reading == 0 {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds the subdirectories found, and counts this thread as no longer reading.
    fn add(&self, found: Vec<Pending>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pending.extend(found);
        queue.reading -= 1;
        self.changed.notify_all();
    }

    fn read(&self, descriptor: OwnedFd, path: PathBuf) {
        let mut found = Vec::new();
        if let Err(error) = self.entries(descriptor.as_fd(), &path, &mut found) {
            self.visitor.fail(&path, &error);
        }
        let parent = Arc::new(Opened { descriptor, path });
        self.add(found.into_iter().map(|name| Pending { parent: Arc::clone(&parent), name }).collect());
    }

    fn entries(&self, descriptor: BorrowedFd<'_>, path: &Path, found: &mut Vec<CString>) -> Result<()> {
        let own = descriptor.try_clone_to_owned().call("fcntl(F_DUPFD_CLOEXEC)")?;
        let mut directory = Dir::from_fd(own).call("fdopendir")?;
        for entry in directory.iter() {
            let entry = entry.call("getdents")?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            match entry.file_type().or_else(|| file_type(descriptor, name)) {
                Some(Type::Directory) => found.push(name.to_owned()),
                Some(Type::File) => {
                    self.visitor.visit(&FoundFile::new(descriptor, path, name, entry.ino()));
                    if self.visitor.is_done() {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// For filesystems that store no file types in their directories.
fn file_type(directory: BorrowedFd<'_>, name: &CStr) -> Option<Type> {
    let stat = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
    match stat.st_mode & S_IFMT {
        S_IFDIR => Some(Type::Directory),
        S_IFREG => Some(Type::File),
        _ => None,
    }
}

/// Opens a directory by its name in another one. Returns `None` if the directory is gone, is no longer a directory, or
/// is covered by a mount. Triggers no automount.
fn open_below(directory: impl AsFd, name: &CStr) -> Result<Option<OwnedFd>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS);
    match openat2(directory, name, how) {
        Ok(descriptor) => Ok(Some(descriptor)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV) => Ok(None),
        Err(errno) => Err(Error::call("open", errno)),
    }
}

fn below(directory: &Path, name: &CStr) -> PathBuf {
    directory.join(std::ffi::OsStr::from_bytes(name.to_bytes()))
}
