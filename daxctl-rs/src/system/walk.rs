//! A walk through a directory tree, on several processors at once, which share large directories. The walk stays on one
//! mount, follows no symbolic link, and opens only directories. It keeps each directory open until it has opened its
//! subdirectories, so that renames cannot lead it astray, and no path is too long.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use libdaxfile::Errno;
use libdaxfile::statx::{S_IFDIR, S_IFMT, S_IFREG};
use nix::dir::{Dir, Type};
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::fstatat;

use crate::error::{Error, Result, ResultExt};
use crate::system::processors;

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

/// Files that a thread hands over together.
const TOGETHER: usize = 256;

/// Work that any thread can take.
enum Pending {
    /// A directory still to be read.
    Directory { parent: Arc<Opened>, name: CString },
    /// Files of a directory: inode numbers and names.
    Files { directory: Arc<Opened>, files: Vec<(u64, CString)> },
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
    let walk = Walk { queue, changed: Condvar::new(), idle: AtomicUsize::new(0), visitor };
    thread::scope(|scope| {
        for _ in 1..processors::count() {
            // With fewer threads than wanted, the others do more.
            let _ = thread::Builder::new().spawn_scoped(scope, || walk.work());
        }
        walk.read(root, path.to_owned());
        walk.work();
    });
}

struct Walk<'a> {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// The number of threads that wait for work.
    idle: AtomicUsize,
    visitor: &'a dyn Visitor,
}

impl Walk<'_> {
    /// Does what is pending until nothing is left and no other thread can add anything.
    fn work(&self) {
        while let Some(pending) = self.next() {
            match pending {
                Pending::Directory { parent, name } => self.open(parent, &name),
                Pending::Files { directory, files } => {
                    for (inode, name) in files {
                        self.visitor.visit(&FoundFile::new(
                            directory.descriptor.as_fd(),
                            &directory.path,
                            &name,
                            inode,
                        ));
                        if self.visitor.is_done() {
                            break;
                        }
                    }
                    self.add(Vec::new(), true);
                }
            }
        }
    }

    fn open(&self, parent: Arc<Opened>, name: &CStr) {
        let path = below(&parent.path, name);
        let opened = open_below(&parent.descriptor, name);
        // Drop it now, so that only the directories on the way to those being read stay open.
        drop(parent);
        match opened {
            Ok(Some(descriptor)) => self.read(descriptor, path),
            Ok(None) => self.add(Vec::new(), true),
            Err(error) => {
                self.visitor.fail(&path, &error);
                self.add(Vec::new(), true);
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
            self.idle.fetch_add(1, Ordering::Relaxed);
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            self.idle.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Adds work that was found, and, if `done`, counts this thread as no longer reading.
    fn add(&self, found: Vec<Pending>, done: bool) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pending.extend(found);
        queue.reading -= usize::from(done);
        self.changed.notify_all();
    }

    fn read(&self, descriptor: OwnedFd, path: PathBuf) {
        let directory = Arc::new(Opened { descriptor, path });
        let mut found = Vec::new();
        if let Err(error) = self.entries(&directory, &mut found) {
            self.visitor.fail(&directory.path, &error);
        }
        let pending = |name| Pending::Directory { parent: Arc::clone(&directory), name };
        self.add(found.into_iter().map(pending).collect(), true);
    }

    fn entries(&self, opened: &Arc<Opened>, found: &mut Vec<CString>) -> Result<()> {
        let (descriptor, path) = (opened.descriptor.as_fd(), opened.path.as_path());
        let own = descriptor.try_clone_to_owned().call("fcntl(F_DUPFD_CLOEXEC)")?;
        let mut directory = Dir::from_fd(own).call("fdopendir")?;
        let mut files = Vec::new();
        let visit = |inode: u64, name: &CStr| self.visitor.visit(&FoundFile::new(descriptor, path, name, inode));
        for entry in directory.iter() {
            let entry = entry.call("getdents")?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            match entry.file_type().or_else(|| file_type(descriptor, name)) {
                Some(Type::Directory) => found.push(name.to_owned()),
                // Hand over files only if a thread has nothing to do.
                Some(Type::File) if self.idle.load(Ordering::Relaxed) > 0 => {
                    files.push((entry.ino(), name.to_owned()));
                    if files.len() == TOGETHER {
                        let files = std::mem::take(&mut files);
                        self.add(vec![Pending::Files { directory: Arc::clone(opened), files }], false);
                    }
                }
                Some(Type::File) => {
                    visit(entry.ino(), name);
                    if self.visitor.is_done() {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
        for (inode, name) in files {
            if self.visitor.is_done() {
                return Ok(());
            }
            visit(inode, &name);
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
