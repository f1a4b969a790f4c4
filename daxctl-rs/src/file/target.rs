//! A file, opened once. Every operation uses this descriptor; the path serves for messages only.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libdaxfile::fsxattr::{Fsxattr, Xflags};
use libdaxfile::statx::{Attributes, Statx, Time};
use libdaxfile::{Errno, fsxattr, inode, statx};
use nix::fcntl::{AtFlags, FcntlArg, Flock, FlockArg, OFlag, fcntl, openat};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, faccessat};

use crate::error::{Error, Result, ResultExt, if_known};
use crate::file::open::{self, Opened, Root};
use crate::status::Status;
use crate::system::devices;
use crate::system::filesystem::{Filesystem, Kind, Known};
use crate::system::locks::Locks;
use crate::system::mounts::Mount;

/// The identity of a file, whatever its name. A filesystem can reuse an inode number, but not with the same generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Inode number.
    pub inode: u64,
    /// Generation; 0 where the filesystem keeps none.
    pub generation: u32,
}

/// An open regular file.
#[derive(Debug)]
pub struct Target {
    /// The name that opened it.
    pub path: PathBuf,
    /// Which file it is.
    pub identity: Identity,
    /// The filesystem it is on.
    pub filesystem: Filesystem,
    /// The base of its physical offsets, as page-table entries see it: the start of its device in physical memory if
    /// the file is accessed as DAX, else 0.
    pub start: u64,
    file: File,
    opened: Statx,
    spares_access_time: bool,
}

/// Excludes other `daxfile` processes from a file until dropped.
#[derive(Debug)]
pub struct Lock {
    flock: Option<Flock<File>>,
    _of_root: Option<Arc<File>>,
}

/// The state of an inode at one moment, from all interfaces that report it.
#[derive(Debug, Clone, Copy)]
pub struct InodeState {
    /// Size, times, attributes.
    pub statx: Statx,
    /// The attributes of `FS_IOC_FSGETXATTR`, where the filesystem has them.
    pub fsxattr: Option<Fsxattr>,
}

impl InodeState {
    /// The flags of `FS_IOC_FSGETXATTR`, and from statx(2) those flags that this ioctl does not know on every kernel.
    /// (For IMMUTABLE alone statx(2) would report too much: read-only filesystems report it for every file.)
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

    /// Whether it may have extended attributes: XFS reports files that have none (`xfs_fill_fsxattr()`).
    #[must_use]
    pub fn may_have_xattrs(&self, target: &Target) -> bool {
        target.filesystem.kind != Kind::Xfs || self.fsxattr.is_none() || self.xflags().contains(Xflags::HASATTR)
    }

    /// Whether the filesystem encrypts the contents.
    #[must_use]
    pub fn encrypted(&self) -> bool {
        self.statx.attributes.contains(Attributes::ENCRYPTED)
    }
}

impl Target {
    /// Opens a regular file for reading. Never waits, neither for a FIFO's writer nor for a lease. Refuses a symbolic
    /// link, so that the owner of the directory cannot choose another file for root to act on.
    ///
    /// # Errors
    /// An error of open(2); status 2 if it is not a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        Target::opened(path, open::regular(path)?, |file, _| Filesystem::of(file))
    }

    /// Opens a regular file by its name in an open directory, on the same mount. Messages call it `path`.
    ///
    /// # Errors
    /// As for [`Target::open`]; `EXDEV` if something is mounted on it.
    pub(crate) fn open_in(directory: impl AsFd, name: &CStr, path: &Path, known: &Known) -> Result<Self> {
        let opened = open::regular_in(directory.as_fd(), name)?;
        Target::opened(path, opened, |file, statx| known.of(statx.device, file))
    }

    /// Opens a regular file by its name below a root. Messages call it `path`.
    ///
    /// # Errors
    /// As for [`Target::open`].
    pub fn open_below(root: &Root, name: &Path, path: &Path) -> Result<Self> {
        Target::opened(path, root.regular(name)?, |file, _| Filesystem::of(file))
    }

    pub(super) fn opened(
        path: &Path,
        Opened { file, statx, generation, spares_access_time }: Opened,
        filesystem: impl FnOnce(&File, &Statx) -> Result<Filesystem>,
    ) -> Result<Self> {
        let generation = match generation {
            Some(generation) => generation,
            None => if_known(inode::generation(&file))?.unwrap_or(0),
        };
        Ok(Target {
            path: path.to_owned(),
            identity: Identity { inode: statx.inode, generation },
            filesystem: filesystem(&file, &statx)?,
            opened: statx,
            start: if statx.attributes.contains(Attributes::DAX) { devices::memory_start(statx.device) } else { 0 },
            file,
            spares_access_time,
        })
    }

    /// Device number of its filesystem: major, minor.
    pub(crate) fn device(&self) -> (u32, u32) {
        self.opened.device
    }

    /// The directory part of its path.
    #[must_use]
    pub fn parent(&self) -> &Path {
        parent(&self.path)
    }

    /// Reopens the file for writing, and closes the descriptor for reading, so that one descriptor remains.
    ///
    /// # Errors
    /// An error of open(2); busy if another process executes the file, holds a lease on it, or has made it immutable.
    pub fn into_writable(self) -> Result<Self> {
        let file = open::reopen(&self.file, OFlag::O_RDWR).map_err(|error| {
            let error = Error { call: Some("open(O_RDWR)"), ..error };
            match error.errno {
                // It was not immutable when this process looked at it.
                Some(Errno::EPERM) => {
                    Error { status: Status::Busy, ..error }.because("another daxfile has pinned it meanwhile")
                }
                _ => error,
            }
        })?;
        Ok(Target { file, spares_access_time: false, ..self })
    }

    /// Reads size, times and attributes.
    ///
    /// # Errors
    /// An error of statx(2).
    pub fn statx(&self) -> Result<Statx> {
        Ok(statx::get(self)?)
    }

    /// Makes later reads leave the access time alone, if the caller owns the file or has CAP_FOWNER.
    ///
    /// # Errors
    /// An error of fcntl(2).
    pub(crate) fn spare_access_time(&self) -> Result<()> {
        if self.spares_access_time {
            return Ok(());
        }
        let flags = OFlag::from_bits_retain(fcntl(self, FcntlArg::F_GETFL).call("fcntl(F_GETFL)")?);
        match fcntl(self, FcntlArg::F_SETFL(flags | OFlag::O_NOATIME)) {
            Err(Errno::EPERM) => Ok(()),
            set => set.map(drop).call("fcntl(F_SETFL)"),
        }
    }

    /// Returns how its filesystem is mounted.
    ///
    /// # Errors
    /// As for [`Mount::of`].
    pub(crate) fn mount(&self) -> Result<Option<Mount>> {
        Mount::of(self)
    }

    /// Checks whether the caller may write to the file, without writing.
    ///
    /// # Errors
    /// The error of faccessat(2), if the caller may not.
    pub fn require_write_access(&self) -> Result<()> {
        let flags = AtFlags::AT_EACCESS | AtFlags::AT_EMPTY_PATH;
        faccessat(self, "", AccessFlags::W_OK, flags).call("faccessat")
    }

    /// Refuses a file that is no longer at the name that the user gave: whatever was done to this file, the user would
    /// believe it of the file that is there now. `left` says what state that leaves.
    ///
    /// # Errors
    /// Busy if the name is gone, or leads to another file; an error of the calls that look.
    pub fn require_named(&self, left: &str) -> Result<()> {
        if open::leads_to(&self.path, &self.opened)? {
            return Ok(());
        }
        Err(Error::new(
            Status::Busy,
            format!("busy: another process moved, replaced or deleted the file of this name meanwhile; {left}"),
        ))
    }

    /// Reads size, times, attributes and inode flags.
    ///
    /// # Errors
    /// An error of statx(2) or of the ioctls, unless the filesystem does not know the ioctl.
    pub fn inode_state(&self) -> Result<InodeState> {
        Ok(InodeState { statx: self.statx()?, fsxattr: if_known(fsxattr::get(self))? })
    }

    /// Like [`Target::inode_state`], but takes size and times from the moment of opening, which saves a call.
    ///
    /// # Errors
    /// An error of the ioctls, unless the filesystem does not know the ioctl.
    pub fn state_at_opening(&self) -> Result<InodeState> {
        Ok(InodeState { statx: self.opened, fsxattr: if_known(fsxattr::get(self))? })
    }

    /// Makes everything durable: contents, map, attributes and flags.
    ///
    /// # Errors
    /// An error of fsync(2).
    pub fn fsync(&self) -> Result<()> {
        self.file.sync_all().call("fsync")
    }

    /// Excludes other `daxfile` processes until the returned lock is dropped. Locks that others hold on the file block
    /// every user but root.
    ///
    /// # Errors
    /// Busy if another process holds the lock.
    pub fn lock(&self) -> Result<Lock> {
        self.lock_with(&Locks::default())
    }

    /// Like [`Target::lock`], for one of a batch of different files: their locks may last until the last of them is dropped.
    ///
    /// # Errors
    /// As for [`Target::lock`].
    pub(crate) fn lock_with(&self, locks: &Locks) -> Result<Lock> {
        let of_root = locks.lock(self.device(), self.identity.inode)?;
        let file = self.file.try_clone().call("fcntl(F_DUPFD_CLOEXEC)")?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(flock) => Ok(Lock { flock: Some(flock), _of_root: of_root }),
            // flock(2) excludes only other users' daxfile processes; root goes on without it.
            Err(_) if of_root.is_some() => Ok(Lock { flock: None, _of_root: of_root }),
            Err((_, errno @ Errno::EAGAIN)) => {
                Err(Error::call("flock", errno)
                    .because("another daxfile works on it, or another process has locked it"))
            }
            Err((_, errno)) => Err(Error::call("flock", errno)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Dropping a `Flock` that cannot unlock would panic. So this leaks the lock, which ends with the process.
        if let Some(Err((lock, _))) = self.flock.take().map(Flock::unlock) {
            std::mem::forget(lock);
        }
    }
}

/// The directory part of a path, `.` if there is none.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates an unnamed file in a directory, open for direct writes. Messages call it `path`.
///
/// # Errors
/// An error of open(2); status 3 if the filesystem has no unnamed files, or no direct I/O.
pub(crate) fn unnamed(directory: impl AsFd, path: &Path) -> Result<Target> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_DIRECT | OFlag::O_CLOEXEC;
    let permissions = Mode::from_bits_truncate(0o666);
    let fd = openat(directory, ".", flags, permissions).map_err(|errno| match errno {
        Errno::EISDIR | Errno::EINVAL => Error::call("open(O_TMPFILE)", Errno::EOPNOTSUPP)
            .because("this filesystem has no unnamed files or no direct I/O"),
        errno => Error::call("open(O_TMPFILE)", errno),
    })?;
    let statx = statx::get(&fd)?;
    let opened = Opened { file: File::from(fd), statx, generation: None, spares_access_time: false };
    Target::opened(path, opened, |file, _| Filesystem::of(file))
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
