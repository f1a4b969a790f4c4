//! Finds the files below a directory that have a pin record, or whose inodes the caller named.
//!
//! On a mount of XFS, XFS_IOC_BULKSTAT reports which inodes can have attributes. A walk then looks only for those, and
//! ends when it has found all of them. But most files can have attributes if the filesystem has parent pointers, which
//! are attributes, or if a security module has XFS make room for attributes in every new file. There, on other
//! filesystems, and without CAP_SYS_ADMIN, a walk asks every file for its attributes. The walk opens only files that have
//! a record.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use libdaxfile::bulkstat::Inodes;
use libdaxfile::fsxattr::Xflags;
use libdaxfile::statx::{Attributes, S_IFDIR, S_IFMT, S_IFREG};
use libdaxfile::xattr::{self, Listed};
use libdaxfile::{Errno, statx};

use super::record::attribute;
use crate::error::{Error, Result, ResultExt};
use crate::file::open;
use crate::file::target::Target;
use crate::needs::Hold;
use crate::status::Status;
use crate::system::filesystem::{Filesystem, Kind, Known};
use crate::system::mounts::{self, Mount};
use crate::system::walk::{FoundFile, Visitor, walk};

/// Regular files after which to judge again whether it pays to learn which of all files can have attributes.
const SAMPLE: usize = 4096;

/// A directory to search below.
#[derive(Debug)]
pub struct SearchRoot {
    path: PathBuf,
    directory: OwnedFd,
    /// The filesystem it is on.
    pub filesystem: Filesystem,
    is_mount_point: bool,
}

/// Receives what a search finds: files that may be pinned, and directories and files that cannot be read.
pub type OnFound<'a> = dyn Fn(&Path, Result<Target>) + Sync + 'a;

impl SearchRoot {
    /// Opens a directory.
    ///
    /// # Errors
    /// An error of open(2) or of reading its filesystem; status 2 for a symbolic link.
    pub fn open(path: &Path) -> Result<Self> {
        let opened = open::file_or_directory(path)?;
        let statx = statx::get(&opened)?;
        if u32::from(statx.mode) & S_IFMT != S_IFDIR {
            return Err(Error::call("open", Errno::ENOTDIR));
        }
        let directory = OwnedFd::from(opened);
        let is_mount_point = statx.attributes.contains(Attributes::MOUNT_ROOT);
        Ok(SearchRoot { path: path.to_owned(), filesystem: Filesystem::of(&directory)?, directory, is_mount_point })
    }

    /// Opens the root of the mount that contains the current directory.
    ///
    /// # Errors
    /// As for [`SearchRoot::open`]; status 2 if that mount has no name here.
    pub fn here() -> Result<Self> {
        let here = File::open(".").call("open")?;
        let mount = Mount::of(&here)?.ok_or_else(|| {
            Error::new(
                Status::Failed,
                "the mount point of the current directory's filesystem is not known: name a directory",
            )
        })?;
        SearchRoot::open(&mount.point)
    }

    /// Its name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finds the files, each by one of its names. `also` lists the inodes, in ascending order, of files that may lack a
    /// record. `stop` ends the search early.
    pub fn search(&self, also: &[u64], stop: &AtomicBool, found: &OnFound<'_>) {
        let unvisited = self.inodes_to_visit(also, stop);
        let collector = Collector {
            also,
            stop,
            found,
            unvisited: unvisited.as_ref().ok(),
            known: Known::default(),
            seen: Mutex::default(),
        };
        match self.directory.try_clone().call("fcntl(F_DUPFD_CLOEXEC)") {
            Ok(directory) => walk(directory, &self.path, &collector),
            Err(error) => found(&self.path, Err(error)),
        }
        if let Some(unvisited) = collector.unvisited {
            self.report_hidden(unvisited, found);
        }
    }

    /// Returns the inodes of the filesystem that can have a record, if the filesystem can list these at once. For a
    /// single directory, going through the whole filesystem may take far longer than a walk.
    fn inodes_to_visit(&self, also: &[u64], stop: &AtomicBool) -> Result<Unvisited> {
        if self.filesystem.kind != Kind::Xfs || !self.is_mount_point {
            return Err(Error::new(Status::Unable, "not all of an XFS"));
        }
        let mut inodes = Vec::new();
        let mut regular_files = 0;
        for inode in Inodes::new(&self.directory, 0) {
            let inode = inode?;
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let regular = u32::from(inode.mode) & S_IFMT == S_IFREG && inode.nlink > 0;
            let may_have_record = inode.xflags.contains(Xflags::HASATTR) || also.binary_search(&inode.inode).is_ok();
            if regular && may_have_record {
                inodes.push((inode.inode, inode.generation));
            }
            regular_files += usize::from(regular);
            let judged = regular && regular_files.is_multiple_of(SAMPLE);
            // Asking a file for its attributes takes twice the time of its share in this loop. Where a mount may cover
            // files, only the whole list shows how many of them the walk does not reach.
            if judged && inodes.len() > regular_files / 2 && !mounts::may_be_covered(&self.directory)? {
                return Err(Error::new(Status::Unable, "most files can have attributes"));
            }
        }
        let visited = inodes.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Unvisited { left: AtomicUsize::new(inodes.len()), visited, inodes })
    }

    /// Reports files that still exist but have no name below the root of the whole filesystem.
    fn report_hidden(&self, unvisited: &Unvisited, found: &OnFound<'_>) {
        let directory = self.directory.try_clone().ok().map(File::from);
        let mount = directory.and_then(|directory| Mount::of(&directory).ok().flatten());
        if !mount.is_some_and(|mount| mount.whole) {
            return;
        }
        let rest =
            unvisited.inodes.iter().zip(&unvisited.visited).filter(|(_, visited)| !visited.load(Ordering::Relaxed));
        let there = |(inode, generation): (u64, u32)| {
            let now = Inodes::new(&self.directory, inode).next().and_then(libdaxfile::Result::ok);
            now.is_some_and(|now| (now.inode, now.generation) == (inode, generation) && now.nlink > 0)
        };
        let hidden = rest.filter(|(inode, _)| there(**inode)).count();
        if hidden > 0 {
            let message = format!(
                "{hidden} files with attributes could not be examined: something is mounted over their directories"
            );
            found(&self.path, Err(Error::new(Status::Unable, message)));
        }
    }
}

/// The inodes to find, in ascending order, each with its generation.
struct Unvisited {
    inodes: Vec<(u64, u32)>,
    visited: Vec<AtomicBool>,
    left: AtomicUsize,
}

impl Unvisited {
    /// Whether this inode is sought and was not found yet.
    fn contains(&self, inode: u64) -> bool {
        let index = self.inodes.binary_search_by_key(&inode, |(inode, _)| *inode);
        index.is_ok_and(|index| !self.visited[index].load(Ordering::Relaxed))
    }

    fn mark_visited(&self, inode: u64) {
        if let Ok(index) = self.inodes.binary_search_by_key(&inode, |(inode, _)| *inode)
            && !self.visited[index].swap(true, Ordering::Relaxed)
        {
            self.left.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

struct Collector<'a> {
    also: &'a [u64],
    stop: &'a AtomicBool,
    found: &'a OnFound<'a>,
    unvisited: Option<&'a Unvisited>,
    known: Known,
    /// Inodes already reported: a file with several names is reported once.
    seen: Mutex<BTreeSet<u64>>,
}

impl Collector<'_> {
    fn report(&self, file: &FoundFile<'_>, target: Result<Target>) {
        if let Some(unvisited) = self.unvisited {
            unvisited.mark_visited(file.inode);
        }
        if self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(file.inode) {
            (self.found)(&file.path(), target);
        }
    }
}

impl Visitor for Collector<'_> {
    fn visit(&self, file: &FoundFile<'_>) {
        if self.unvisited.is_some_and(|unvisited| !unvisited.contains(file.inode)) {
            return;
        }
        if self.also.binary_search(&file.inode).is_err() {
            match xattr::may_have_at(file.directory, file.name, [Hold::Frozen, Hold::None].map(attribute)) {
                Ok(Listed { names: [false, false], .. }) | Err(libdaxfile::Error { errno: Errno::EOPNOTSUPP, .. }) => {
                    if let Some(unvisited) = self.unvisited {
                        unvisited.mark_visited(file.inode);
                    }
                    return;
                }
                Ok(_) => {}
                // Deleted or renamed meanwhile.
                Err(libdaxfile::Error { errno: Errno::ENOENT, .. }) => return,
                Err(error) => return self.report(file, Err(error.into())),
            }
        }
        match Target::open_in(file.directory, file.name, &file.path(), &self.known) {
            // Deleted meanwhile, replaced by something other than a regular file, or covered by a mount.
            Err(Error { errno: Some(Errno::ENOENT | Errno::ELOOP | Errno::EXDEV) | None, .. }) => {}
            opened => self.report(file, opened),
        }
    }

    fn fail(&self, directory: &Path, error: &Error) {
        (self.found)(directory, Err(error.clone()));
    }

    fn is_done(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
            || self.unvisited.is_some_and(|unvisited| unvisited.left.load(Ordering::Relaxed) == 0)
    }
}
