//! Locks that only root can take: byte ranges of files in a directory that belongs to root.
//!
//! Every user who can read a file can flock(2) it, and could block root for any length of time. A lock that needs write
//! access does not work on an immutable file, and a descriptor open for writing would make the kernel refuse root's own
//! lease. So root locks the byte at the offset of the inode number, in a file named after the device number.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::sync::{Arc, Mutex, PoisonError};

use libdaxfile::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open, openat};
use nix::libc;
use nix::sys::stat::{Mode, fstat};

use crate::error::{Error, Result};
use crate::system::kernel;

/// The directory disappears when the machine goes down, as locks do.
const DIRECTORY: &str = "/run/daxfile";

/// The files for locks of a batch, one for each filesystem. They do not exclude one another: a batch must not lock an
/// inode twice.
#[derive(Debug, Default)]
pub(crate) struct Locks(Mutex<Vec<(Device, Option<Arc<File>>)>>);

type Device = (u32, u32);

impl Locks {
    /// Locks an inode until everything that this call has returned for the filesystem is dropped. Returns `None` if this
    /// process is not root's, or has no such directory.
    ///
    /// # Errors
    /// Busy if another process holds the lock.
    pub(crate) fn lock(&self, device: Device, inode: u64) -> Result<Option<Arc<File>>> {
        match self.file(device) {
            Some(file) => lock(&file, inode).map(|()| Some(file)),
            None => Ok(None),
        }
    }

    fn file(&self, device: Device) -> Option<Arc<File>> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = files.iter().find(|(of, _)| *of == device) {
            return file.clone();
        }
        let (major, minor) = device;
        let file = file(&format!("{major}:{minor}")).map(Arc::new);
        files.push((device, file.clone()));
        file
    }
}

fn lock(file: &File, inode: u64) -> Result<()> {
    #[expect(clippy::cast_possible_truncation, reason = "the two constants are 1 and 0")]
    let range = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        // No inode number above the largest offset is known to be in use. Two numbers that map to the same offset would
        // only wait for each other.
        l_start: i64::try_from(inode & (i64::MAX as u64 >> 1)).unwrap_or(0),
        l_len: 1,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range)) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) => {
            Err(Error::call("fcntl(F_OFD_SETLK)", Errno::EAGAIN).because("another daxfile works on it"))
        }
        Err(errno) => Err(Error::call("fcntl(F_OFD_SETLK)", errno)),
    }
}

/// Opens a file for locks in root's directory, and makes that directory first.
fn file(name: &str) -> Option<File> {
    if !kernel::effective_user().is_root() {
        return None;
    }
    // The directory may already exist; any other failure shows at the next call.
    let _ = DirBuilder::new().mode(0o700).create(DIRECTORY);
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = open(DIRECTORY, flags, Mode::empty()).ok()?;
    let stat = fstat(&directory).ok()?;
    if stat.st_uid != 0 || stat.st_mode & 0o022 != 0 {
        return None;
    }
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    openat(&directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from).ok()
}
