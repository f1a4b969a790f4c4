//! quotactl_fd(2): which disk quotas a filesystem enforces, which files store them, and how much space an owner may
//! use.
//!
//! Linux 5.14 and later.
//!
//! Reference: quotactl(2), `include/uapi/linux/dqblk_xfs.h`, `quota_getxstatev()` and `quota_getquota()` in
//! `fs/quota/quota.c`.

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

/// `Q_XGETQSTATV`.
#[doc(hidden)]
pub const Q_XGETQSTATV: libc::c_uint = 0x5808;

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
    /// Inode numbers of the files that store the quotas.
    pub files: Vec<u64>,
    /// The types whose limits the filesystem enforces.
    pub enforced: Vec<Type>,
}

/// The space that the files of one owner use, and its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use.
    pub used: u64,
    /// The hard limit in bytes, if there is one.
    pub limit: Option<u64>,
    /// The soft limit in bytes, if there is one. The files may exceed it for the grace time.
    pub soft_limit: Option<u64>,
    /// When the grace time ends, in seconds since 1970; 0 while the soft limit is not exceeded.
    pub grace_ends: u64,
}

/// Returns which quotas of users, groups and projects are on in the filesystem of an open file: none if the filesystem
/// or the kernel has no quotas. Needs no privilege.
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
    // The answer has the quotas of all types, and no ID.
    match query(fd, Type::User, 0, &mut raw) {
        Ok(()) => {
            let files = [raw.qs_uquota, raw.qs_gquota, raw.qs_pquota];
            // FS_QUOTA_UDQ_ENFD, FS_QUOTA_GDQ_ENFD, FS_QUOTA_PDQ_ENFD.
            let enforced = Type::ALL.into_iter().zip([1 << 1, 1 << 3, 1 << 5]);
            Ok(State {
                files: files.iter().map(|file| file.qfs_ino).filter(|inode| ![0, u64::MAX].contains(inode)).collect(),
                enforced: enforced.filter(|(_, flag)| raw.qs_flags & flag != 0).map(|(of, _)| of).collect(),
            })
        }
        // Quotas are off, or the filesystem or the kernel has none.
        Err(Error {
            errno: Errno::ENOSYS | Errno::ESRCH | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOTBLK, ..
        }) => Ok(State::default()),
        Err(error) => Err(error),
    }
}

/// Returns how much space the files of a user, a group or a project use in the filesystem of an open file, and the
/// limits.
///
/// # Errors
/// - `EPERM`: the quota is that of another user, of a group that the process is not in, or of a project, and the caller
///   lacks `CAP_SYS_ADMIN`.
/// - `ESRCH`: quotas of this type are off. `ENOENT`: XFS has no files and no limits of this owner.
/// - `ENOSYS`: the kernel is older than 5.14, or was built without quotas.
#[doc(alias = "quotactl_fd")]
pub fn usage(fd: impl AsFd, of: Type, id: u32) -> Result<Usage> {
    let mut raw = RawUsage::default();
    query(fd, of, id, &mut raw)?;
    let limit = |units: u64| (units > 0).then(|| units.saturating_mul(QIF_DQBLKSIZE));
    Ok(Usage {
        used: raw.dqb_curspace,
        limit: limit(raw.dqb_bhardlimit),
        soft_limit: limit(raw.dqb_bsoftlimit),
        grace_ends: raw.dqb_btime,
    })
}

/// An answer of quotactl_fd(2), with the command that asks for it.
trait Answer {
    const COMMAND: libc::c_uint;
}

impl Answer for RawState {
    const COMMAND: libc::c_uint = Q_XGETQSTATV;
}

impl Answer for RawUsage {
    const COMMAND: libc::c_uint = Q_GETQUOTA;
}

fn query<T: Answer>(fd: impl AsFd, of: Type, id: u32, answer: &mut T) -> Result<()> {
    let (fd, command) = (fd.as_fd().as_raw_fd(), T::COMMAND << 8 | of as libc::c_uint);
    // SAFETY: the kernel fills the structure of this command. It lives through the call, is borrowed exclusively, and
    // consists of integers.
    let returned = unsafe { libc::syscall(SYS_QUOTACTL_FD, fd, command, id, &raw mut *answer) };
    Errno::result(returned).map(drop).map_err(|errno| Error { call: "quotactl_fd", errno })
}
