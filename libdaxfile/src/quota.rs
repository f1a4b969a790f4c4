//! quotactl_fd(2): in which files a filesystem keeps its disk quotas.
//!
//! Reference: quotactl(2), `include/uapi/linux/dqblk_xfs.h`, `quota_getxstatev()` in `fs/quota/quota.c`.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

use crate::error::{Error, Result};

/// `struct fs_qfilestatv`.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawFile {
    pub qfs_ino: u64,
    pub qfs_nblks: u64,
    pub qfs_nextents: u32,
    pub qfs_pad: u32,
}

/// `struct fs_quota_statv`.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawState {
    pub qs_version: i8,
    pub qs_pad1: u8,
    pub qs_flags: u16,
    pub qs_incoredqs: u32,
    pub qs_uquota: RawFile,
    pub qs_gquota: RawFile,
    pub qs_pquota: RawFile,
    pub qs_btimelimit: i32,
    pub qs_itimelimit: i32,
    pub qs_rtbtimelimit: i32,
    pub qs_bwarnlimit: u16,
    pub qs_iwarnlimit: u16,
    pub qs_rtbwarnlimit: u16,
    pub qs_pad3: u16,
    pub qs_pad4: u32,
    pub qs_pad2: [u64; 7],
}

/// libc does not name the call on all architectures. From 424 on, a call's number has the same distance to openat2(2)
/// (437) on every one of them.
#[doc(hidden)]
pub const SYS_QUOTACTL_FD: libc::c_long = libc::SYS_openat2 - 437 + 443;

/// `QCMD(Q_XGETQSTATV, USRQUOTA)`: it tells of all types of quotas.
#[doc(hidden)]
pub const GET_STATE: libc::c_uint = 0x5808 << 8;

#[doc(hidden)]
pub const FS_QSTATV_VERSION1: i8 = 1;

/// Reads the inode numbers of the files in which the filesystem that holds `fd` keeps its quotas of users, groups and
/// projects, as far as these are on. No privilege is needed.
///
/// # Errors
/// - `EBADF`: the descriptor was opened with `O_PATH`.
///
/// ```
/// let file = std::fs::File::open("/proc/self/exe")?;
/// let inodes = libdaxfile::quota::files(&file)?;
/// println!("quotas are kept in {inodes:?}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "quotactl_fd")]
pub fn files(fd: impl AsFd) -> Result<Vec<u64>> {
    let mut raw = RawState { qs_version: FS_QSTATV_VERSION1, ..RawState::default() };
    let no_id: libc::c_uint = 0;
    // SAFETY: the structure lives through the call, is borrowed exclusively, and consists of integers, which the kernel fills
    // as its version says.
    let returned = unsafe { libc::syscall(SYS_QUOTACTL_FD, fd.as_fd().as_raw_fd(), GET_STATE, no_id, &raw mut raw) };
    match Errno::result(returned) {
        Ok(_) => {
            let files = [raw.qs_uquota, raw.qs_gquota, raw.qs_pquota];
            Ok(files.iter().map(|file| file.qfs_ino).filter(|inode| ![0, u64::MAX].contains(inode)).collect())
        }
        // Quotas are off, the filesystem has none, or the kernel.
        Err(Errno::ENOSYS | Errno::ESRCH | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOTBLK) => Ok(Vec::new()),
        Err(errno) => Err(Error { call: "quotactl_fd", errno }),
    }
}
