//! quotactl_fd(2): which disk quotas a filesystem enforces, in which files it keeps them, and what they leave to an owner.
//!
//! Reference: quotactl(2), `include/uapi/linux/dqblk_xfs.h`, `quota_getxstatev()` and `quota_getquota()` in `fs/quota/quota.c`.

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

/// `struct if_dqblk`.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawUsage {
    pub dqb_bhardlimit: u64,
    pub dqb_bsoftlimit: u64,
    pub dqb_curspace: u64,
    pub dqb_ihardlimit: u64,
    pub dqb_isoftlimit: u64,
    pub dqb_curinodes: u64,
    pub dqb_btime: u64,
    pub dqb_itime: u64,
    pub dqb_valid: u32,
}

/// `Q_GETQUOTA`.
#[doc(hidden)]
pub const Q_GETQUOTA: libc::c_uint = 0x0080_0007;

/// The unit of `dqb_bhardlimit` and `dqb_bsoftlimit`.
#[doc(hidden)]
pub const QIF_DQBLKSIZE: u64 = 1024;

/// Whose files a quota counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// Those of a user: `USRQUOTA`.
    User,
    /// Those of a group: `GRPQUOTA`.
    Group,
    /// Those of a project: `PRJQUOTA`.
    Project,
}

impl Type {
    const ALL: [Type; 3] = [Type::User, Type::Group, Type::Project];
}

/// Which quotas are on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// The inode numbers of the files that keep them.
    pub files: Vec<u64>,
    /// Those with limits that the filesystem enforces.
    pub enforced: Vec<Type>,
}

/// The space that the files of one owner take, and may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use.
    pub used: u64,
    /// The most bytes, if there is a limit.
    pub limit: Option<u64>,
    /// The most bytes for longer than the grace time, if there is a limit.
    pub soft_limit: Option<u64>,
    /// When the grace time ends, in seconds since 1970; 0 while the soft limit is kept.
    pub grace_ends: u64,
}

/// Reads which quotas of users, groups and projects are on in the filesystem that holds `fd`. No privilege is needed.
///
/// # Errors
/// - `EBADF`: the descriptor was opened with `O_PATH`.
///
/// ```
/// let file = std::fs::File::open("/proc/self/exe")?;
/// let state = libdaxfile::quota::state(&file)?;
/// println!("quotas are kept in {:?}, and enforced: {:?}", state.files, state.enforced);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "quotactl_fd")]
pub fn state(fd: impl AsFd) -> Result<State> {
    let mut raw = RawState { qs_version: FS_QSTATV_VERSION1, ..RawState::default() };
    let no_id: libc::c_uint = 0;
    // SAFETY: the structure lives through the call, is borrowed exclusively, and consists of integers, which the kernel fills
    // as its version says.
    let returned = unsafe { libc::syscall(SYS_QUOTACTL_FD, fd.as_fd().as_raw_fd(), GET_STATE, no_id, &raw mut raw) };
    match Errno::result(returned) {
        Ok(_) => {
            let files = [raw.qs_uquota, raw.qs_gquota, raw.qs_pquota];
            // FS_QUOTA_UDQ_ENFD, FS_QUOTA_GDQ_ENFD, FS_QUOTA_PDQ_ENFD.
            let enforced = Type::ALL.into_iter().zip([1 << 1, 1 << 3, 1 << 5]);
            Ok(State {
                files: files.iter().map(|file| file.qfs_ino).filter(|inode| ![0, u64::MAX].contains(inode)).collect(),
                enforced: enforced.filter(|(_, flag)| raw.qs_flags & flag != 0).map(|(of, _)| of).collect(),
            })
        }
        // Quotas are off, the filesystem has none, or the kernel.
        Err(Errno::ENOSYS | Errno::ESRCH | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOTBLK) => Ok(State::default()),
        Err(errno) => Err(Error { call: "quotactl_fd", errno }),
    }
}

/// Reads what the quota of a user, a group or a project leaves in the filesystem that holds `fd`.
///
/// # Errors
/// - `EPERM`: only `CAP_SYS_ADMIN` may read the quota of another user, of a group that the process is not in, and of a
///   project.
/// - `ESRCH`: quotas of this type are off.
#[doc(alias = "quotactl_fd")]
pub fn usage(fd: impl AsFd, of: Type, id: u32) -> Result<Usage> {
    let mut raw = RawUsage::default();
    let command = Q_GETQUOTA << 8 | of as libc::c_uint;
    // SAFETY: the structure lives through the call, is borrowed exclusively, and consists of integers, which the kernel fills.
    let returned = unsafe { libc::syscall(SYS_QUOTACTL_FD, fd.as_fd().as_raw_fd(), command, id, &raw mut raw) };
    Errno::result(returned).map_err(|errno| Error { call: "quotactl_fd", errno })?;
    let limit = |units: u64| (units > 0).then(|| units.saturating_mul(QIF_DQBLKSIZE));
    Ok(Usage {
        used: raw.dqb_curspace,
        limit: limit(raw.dqb_bhardlimit),
        soft_limit: limit(raw.dqb_bsoftlimit),
        grace_ends: raw.dqb_btime,
    })
}
