//! A file, opened once: everything is done through this descriptor, and its path serves for messages only.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use libdaxfile::fsxattr::{Fsxattr, Xflags};
use libdaxfile::statx::{Attributes, Statx, Time};
use libdaxfile::{Errno, fsxattr, inode, statx};
use nix::fcntl::{AtFlags, FcntlArg, Flock, FlockArg, OFlag, fcntl, openat};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, faccessat};

use crate::error::{Error, Named, Result, if_known};
use crate::file::open::{self, Root};
use crate::status::Status;
use crate::system::devices;
use crate::system::filesystem::{Filesystem, Kind, Known};
use crate::system::locks;
use crate::system::mounts::Mount;

/// Which file it is, whatever its name: an inode number can be used again, but not with the same generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Inode number.
    pub inode: u64,
    /// Generation; 0 where the filesystem keeps none.
    pub generation: u32,
}

/// An open regular file.
#[derive(Debug)]
pub struct Target {
    /// The name it was opened by.
    pub path: PathBuf,
    /// Which file it is.
    pub identity: Identity,
    /// What holds it.
    pub filesystem: Filesystem,
    /// What its physical offsets count from, as page-table entries see it: where its device begins in physical memory if it
    /// is accessed as DAX, else 0.
    pub start: u64,
    file: File,
    opened: Statx,
}

/// Keeps other `daxfile`s off a file until it is dropped.
#[derive(Debug)]
pub struct Lock {
    flock: Option<Flock<File>>,
    _of_root: Option<File>,
}

/// What an inode tells at one moment, from whichever interface tells it.
#[derive(Debug, Clone, Copy)]
pub struct InodeState {
    /// Size, times, attributes.
    pub statx: Statx,
    /// The attributes of `FS_IOC_FSGETXATTR`, where the filesystem has them.
    pub fsxattr: Option<Fsxattr>,
}

impl InodeState {
    /// The flags of `FS_IOC_FSGETXATTR`, and of those that it does not know on every kernel what statx(2) tells. (Of IMMUTABLE
    /// that is too much: filesystems that cannot be written tell it of every file.)
    #[must_use]
    pub fn xflags(&self) -> Xflags {
        let mut told = Xflags::empty();
        told.set(Xflags::VERITY, self.statx.attributes.contains(Attributes::VERITY));
        self.fsxattr.map_or(told, |fsxattr| fsxattr.xflags() | told)
    }

    /// Whether the inode flag IMMUTABLE is on.
    #[must_use]
    pub fn immutable(&self) -> bool {
        self.xflags().contains(Xflags::IMMUTABLE)
    }

    /// The time of its last change, if it is immutable.
    #[must_use]
    pub fn immutable_since(&self) -> Option<Time> {
        self.immutable().then_some(self.statx.ctime)
    }

    /// Whether it may have extended attributes: XFS tells where there are none (`xfs_fill_fsxattr()`).
    #[must_use]
    pub fn may_have_xattrs(&self, target: &Target) -> bool {
        target.filesystem.kind != Kind::Xfs || self.fsxattr.is_none() || self.xflags().contains(Xflags::HASATTR)
    }

    /// Whether the contents are encrypted by the filesystem.
    #[must_use]
    pub fn encrypted(&self) -> bool {
        self.statx.attributes.contains(Attributes::ENCRYPTED)
    }
}

impl Target {
    /// Opens a regular file for reading. It never waits: not for a FIFO's writer, nor for a lease. A symbolic link is
    /// refused, so that who owns the directory cannot choose another file for root to act on.
    ///
    /// # Errors
    /// Those of open(2), and status 2 for what is not a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        Target::opened(path, open::regular(path)?, |file, _| Filesystem::of(file))
    }

    /// The same, where it may be on a filesystem that is known already.
    ///
    /// # Errors
    /// Those of [`Target::open`].
    pub fn open_on(path: &Path, known: &Known) -> Result<Self> {
        Target::opened(path, open::regular(path)?, |file, statx| known.of(statx.device, file))
    }

    /// Opens a regular file by its name in a directory that is open, on the same mount. `path` is what messages call it.
    ///
    /// # Errors
    /// Those of [`Target::open`]; `EXDEV` where something is mounted on it.
    pub(crate) fn open_in(directory: impl AsFd, name: &CStr, path: &Path, known: &Known) -> Result<Self> {
        let opened = open::regular_in(directory.as_fd(), name)?;
        Target::opened(path, opened, |file, statx| known.of(statx.device, file))
    }

    /// Opens a regular file by its name below a root. `path` is what messages call it.
    ///
    /// # Errors
    /// Those of [`Target::open`].
    pub fn open_below(root: &Root, name: &Path, path: &Path) -> Result<Self> {
        Target::opened(path, root.regular(name)?, |file, _| Filesystem::of(file))
    }

    fn opened(
        path: &Path,
        (file, statx): (File, Statx),
        filesystem: impl FnOnce(&File, &Statx) -> Result<Filesystem>,
    ) -> Result<Self> {
        let generation = if_known(inode::generation(&file))?.unwrap_or(0);
        Ok(Target {
            path: path.to_owned(),
            identity: Identity { inode: statx.inode, generation },
            filesystem: filesystem(&file, &statx)?,
            opened: statx,
            start: if statx.attributes.contains(Attributes::DAX) { devices::memory_start(statx.device) } else { 0 },
            file,
        })
    }

    /// Device number of its filesystem: major, minor.
    pub(crate) fn device(&self) -> (u32, u32) {
        self.opened.device
    }

    /// The directory that its path names.
    #[must_use]
    pub fn parent(&self) -> &Path {
        parent(&self.path)
    }

    /// Opens the same file for writing, as its only descriptor: the one for reading is closed.
    ///
    /// # Errors
    /// Those of open(2); busy where somebody executes it, holds a lease on it, or has made it immutable.
    pub fn into_writable(self) -> Result<Self> {
        let file = open::reopen(&self.file, OFlag::O_RDWR).map_err(|error| {
            let error = Error { call: Some("open(O_RDWR)"), ..error };
            match error.errno {
                // It was not immutable when it was looked at.
                Some(Errno::EPERM) => {
                    Error { status: Status::Busy, ..error }.because("another daxfile has pinned it meanwhile")
                }
                _ => error,
            }
        })?;
        Ok(Target { file, ..self })
    }

    /// Reads size, times and attributes.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn statx(&self) -> Result<Statx> {
        Ok(statx::get(self)?)
    }

    /// Has what follows leave the access time alone, where the caller owns the file or has CAP_FOWNER.
    pub(crate) fn spare_access_time(&self) {
        if let Ok(flags) = fcntl(self, FcntlArg::F_GETFL) {
            let _ = fcntl(self, FcntlArg::F_SETFL(OFlag::from_bits_retain(flags) | OFlag::O_NOATIME));
        }
    }

    /// How its filesystem is mounted.
    ///
    /// # Errors
    /// Those of [`Mount::of`].
    pub(crate) fn mount(&self) -> Result<Option<Mount>> {
        Mount::of(self)
    }

    /// Tells whether the caller may write to it, without doing so.
    ///
    /// # Errors
    /// Those of faccessat(2): why not.
    pub fn require_write_access(&self) -> Result<()> {
        let flags = AtFlags::AT_EACCESS | AtFlags::AT_EMPTY_PATH;
        faccessat(self, "", AccessFlags::W_OK, flags).named("faccessat")
    }

    /// Reads size, times, attributes and inode flags.
    ///
    /// # Errors
    /// Those of statx(2), and of the ioctls but for "not known here".
    pub fn inode_state(&self) -> Result<InodeState> {
        Ok(InodeState { statx: self.statx()?, fsxattr: if_known(fsxattr::get(self))? })
    }

    /// The same with size and times from when the file was opened, which saves a call.
    ///
    /// # Errors
    /// Those of the ioctls but for "not known here".
    pub fn state_at_opening(&self) -> Result<InodeState> {
        Ok(InodeState { statx: self.opened, fsxattr: if_known(fsxattr::get(self))? })
    }

    /// Makes everything durable: contents, map, attributes and flags.
    ///
    /// # Errors
    /// Those of fsync(2).
    pub fn fsync(&self) -> Result<()> {
        self.file.sync_all().named("fsync")
    }

    /// Keeps other `daxfile`s off until the returned lock is dropped. Others' locks on the file hold up all but root.
    ///
    /// # Errors
    /// Busy where another has it.
    pub fn lock(&self) -> Result<Lock> {
        let of_root = locks::lock(self.device(), self.identity.inode)?;
        let file = self.file.try_clone().named("fcntl(F_DUPFD_CLOEXEC)")?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(flock) => Ok(Lock { flock: Some(flock), _of_root: of_root }),
            // It keeps other users' daxfiles off, no more.
            Err(_) if of_root.is_some() => Ok(Lock { flock: None, _of_root: of_root }),
            Err((_, errno @ Errno::EAGAIN)) => {
                Err(Error::call("flock", errno).because("another daxfile is at work on it, or somebody locked it"))
            }
            Err((_, errno)) => Err(Error::call("flock", errno)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Flock would panic where it cannot unlock; but then the lock ends with the process.
        if let Some(Err((lock, _))) = self.flock.take().map(Flock::unlock) {
            std::mem::forget(lock);
        }
    }
}

/// The directory that a path names, `.` where it names none.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a file without a name, in a directory, open for direct writes. `path` is what messages call it.
///
/// # Errors
/// Those of open(2); status 3 where the filesystem has no unnamed files, or no direct I/O.
pub(crate) fn unnamed(directory: impl AsFd, path: &Path) -> Result<Target> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_DIRECT | OFlag::O_CLOEXEC;
    let permissions = Mode::from_bits_truncate(0o666);
    let fd = openat(directory, ".", flags, permissions).map_err(|errno| match errno {
        Errno::EISDIR | Errno::EINVAL => {
            Error::call("open(O_TMPFILE)", Errno::EOPNOTSUPP).because("no unnamed files, or no direct I/O, here")
        }
        errno => Error::call("open(O_TMPFILE)", errno),
    })?;
    let statx = statx::get(&fd)?;
    Target::opened(path, (File::from(fd), statx), |file, _| Filesystem::of(file))
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
