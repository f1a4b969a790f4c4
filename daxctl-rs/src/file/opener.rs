//! Opens many files with few calls. A handle names a file by inode number and generation, which no other file ever gets.
//! So this module sees what a file is before it opens it, and opens that file or none: never a FIFO or a device, whatever
//! other users do to the name meanwhile.
//!
//! It needs root, and ext4 or XFS, whose handles this module can read. In every other case it calls [`open`], which also
//! makes the error messages.

use std::cell::{Cell, RefCell};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libdaxfile::handle::Handle;
use libdaxfile::statx::{self, Attributes, S_IFMT, S_IFREG};
use libdaxfile::{Errno, Error as CallError};
use nix::fcntl::OFlag;

use super::open::{self, Opened};
use super::target::Target;
use crate::error::Result;
use crate::system::filesystem::{Kind, Known};

/// From this number of files, opening their directory saves more calls than it costs.
const WORTH_IT: usize = 8;

/// A directory is looked up again after this many files: often enough to notice that it was replaced, seldom enough to
/// save calls.
const FILES_PER_LOOKUP: u32 = 128;

/// Opens files one after the other, and keeps what they have in common: the directory and the filesystem.
#[derive(Debug)]
pub struct Opener {
    /// Whether there is only one file, which has nothing in common with others.
    alone: bool,
    known: Known,
    last: RefCell<Option<Directory>>,
    /// Whether to open by handle.
    handles: Cell<bool>,
}

#[derive(Debug)]
struct Directory {
    path: PathBuf,
    /// `None` if files there cannot be opened by handle.
    opened: Option<(File, (u32, u32))>,
    uses: u32,
}

impl Opener {
    /// Prepares to open this number of files.
    #[must_use]
    pub fn new(files: usize) -> Self {
        let (known, last) = (Known::default(), RefCell::new(None));
        Opener { alone: files == 1, known, last, handles: Cell::new(files >= WORTH_IT) }
    }

    /// Opens a regular file for reading, as [`Target::open`] does.
    ///
    /// # Errors
    /// As for [`Target::open`].
    pub fn open(&self, path: &Path) -> Result<Target> {
        if self.alone {
            return Target::open(path);
        }
        let opened = match self.by_handle(path) {
            Some(opened) => opened,
            None => open::regular(path)?,
        };
        Target::opened(path, opened, |file, statx| self.known.of(statx.device, file))
    }

    fn by_handle(&self, path: &Path) -> Option<Opened> {
        if !self.handles.get() {
            return None;
        }
        let (parent, name) = split(path)?;
        let mut last = self.last.borrow_mut();
        let directory = match last.as_mut().filter(|last| last.path == parent && last.uses < FILES_PER_LOOKUP) {
            Some(last) => last,
            None => last.insert(self.look_up(parent)),
        };
        directory.uses += 1;
        let (directory, device) = directory.opened.as_ref()?;
        let handle = Handle::at(directory, &name).ok()?;
        let (inode, generation) = handle.inode_and_generation().filter(|(_, generation)| *generation != 0)?;
        let statx = statx::at(directory, &name).ok()?;
        // The handle was taken before this statx(2), and opens nothing if the inode has been reused since. So statx(2)
        // describes the file that the handle opens.
        let same = (statx.inode, statx.device) == (inode, *device);
        let regular = u32::from(statx.mode) & S_IFMT == S_IFREG && !statx.attributes.contains(Attributes::MOUNT_ROOT);
        if !same || !regular {
            return None;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_NOATIME;
        match handle.open(directory, flags.bits()) {
            Ok(file) => {
                Some(Opened { file: file.into(), statx, generation: Some(generation), spares_access_time: true })
            }
            Err(CallError { errno, .. }) => {
                // If the kernel does not permit this to the process, do not ask again.
                self.handles.set(!matches!(errno, Errno::EPERM | Errno::ENOSYS));
                None
            }
        }
    }

    fn look_up(&self, parent: &Path) -> Directory {
        Directory { path: parent.to_owned(), opened: self.directory_for_handles(parent), uses: 0 }
    }

    fn directory_for_handles(&self, parent: &Path) -> Option<(File, (u32, u32))> {
        let directory = open::directory(parent).ok()?;
        let device = statx::get(&directory).ok()?.device;
        let filesystem = self.known.of(device, &directory).ok()?;
        matches!(filesystem.kind, Kind::Xfs | Kind::Ext).then_some((directory, device))
    }
}

/// Splits a path that names a file in a directory. A path that ends with a slash must name a directory.
fn split(path: &Path) -> Option<(&Path, CString)> {
    let name = path.file_name()?.as_bytes();
    let parent = path.as_os_str().as_bytes().strip_suffix(name)?;
    let parent = if parent.is_empty() { b"." } else { parent };
    Some((Path::new(OsStr::from_bytes(parent)), CString::new(name).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_refuses_paths_of_directories() {
        let parts = |path| split(Path::new(path)).map(|(parent, name)| (parent.to_owned(), name));
        let of = |parent: &str, name: &std::ffi::CStr| Some((PathBuf::from(parent), name.to_owned()));
        assert_eq!(parts("file"), of(".", c"file"));
        assert_eq!(parts("/file"), of("/", c"file"));
        assert_eq!(parts("a/../b/file"), of("a/../b/", c"file"));
        for path in ["", "/", ".", "..", "a/..", "file/", "file/."] {
            assert_eq!(parts(path), None, "{path}");
        }
    }
}
