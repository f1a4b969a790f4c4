//! How filesystems are mounted: proc_pid_mountinfo(5).

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use serde::Serialize;

use crate::error::{Result, ResultExt};
use crate::name::{self, unescape};

/// The mount of an open file's filesystem: where it is mounted, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// The mount point.
    #[serde(serialize_with = "name::serialize")]
    pub point: PathBuf,
    /// The mounted source: usually the name of a device.
    #[serde(serialize_with = "name::serialize")]
    pub source: PathBuf,
    /// The filesystem type.
    #[serde(skip)]
    pub filesystem: String,
    /// The mount's own options, then the filesystem's.
    pub options: Vec<String>,
    /// Whether the root of the filesystem is mounted there, and not a directory within it.
    #[serde(skip)]
    pub whole: bool,
}

impl Mount {
    /// Finds the mount in /proc/self/mountinfo, by the mount ID that /proc/self/fdinfo shows for the descriptor; see
    /// proc_pid_mountinfo(5). `None` if it is mounted only in another namespace, or if /proc is not mounted.
    ///
    /// # Errors
    /// An error of reading one of these files.
    pub fn of(file: impl AsFd) -> Result<Option<Self>> {
        let Some(number) = mount_number(file)? else { return Ok(None) };
        let of_line = |line: &[u8]| {
            let (mount, filesystem) = line.split_at(line.windows(3).position(|separator| separator == b" - ")?);
            let mut mount = mount.split(|&byte| byte == b' ');
            let here = mount.next() == Some(number.as_bytes());
            let root = mount.nth(2).filter(|_| here)?;
            let point = mount.next()?;
            let own = mount.next()?;
            let mut filesystem = filesystem.split(|&byte| byte == b' ').skip(2);
            let kind = String::from_utf8_lossy(filesystem.next()?).into_owned();
            let (source, options) = (filesystem.next()?, filesystem.next()?);
            let mut all = Vec::new();
            for option in [own, options].iter().flat_map(|options| options.split(|&byte| byte == b',')) {
                let option = unescape(option).to_string_lossy().into_owned();
                if !all.contains(&option) {
                    all.push(option);
                }
            }
            Some(Mount {
                point: unescape(point).into(),
                source: unescape(source).into(),
                filesystem: kind,
                options: all,
                whole: root == b"/",
            })
        };
        Ok(mountinfo()?.split(|&byte| byte == b'\n').find_map(of_line))
    }
}

/// Whether something is mounted on a directory or file of the mount that an open file is on, as far as /proc reports it.
///
/// # Errors
/// As for [`Mount::of`].
pub(crate) fn may_be_covered(file: impl AsFd) -> Result<bool> {
    let Some(number) = mount_number(file)? else { return Ok(true) };
    let parent_of_line = |line: &[u8]| line.split(|&byte| byte == b' ').nth(1) == Some(number.as_bytes());
    Ok(mountinfo()?.split(|&byte| byte == b'\n').any(parent_of_line))
}

/// The mount ID that /proc reports for a descriptor.
fn mount_number(file: impl AsFd) -> Result<Option<String>> {
    let fdinfo = format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd());
    let fdinfo = match std::fs::read_to_string(fdinfo) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.call("read(/proc/self/fdinfo)")?,
    };
    let number = fdinfo.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    Ok(Some(number.map(str::trim).unwrap_or_default().to_owned()))
}

fn mountinfo() -> Result<Vec<u8>> {
    match std::fs::read("/proc/self/mountinfo") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.call("read(/proc/self/mountinfo)"),
    }
}

/// The realtime device of the XFS on a device (major, minor), as its mount options name it; see proc_pid_mountinfo(5).
///
/// # Errors
/// An error of reading /proc/self/mountinfo.
pub(crate) fn realtime_device((major, minor): (u32, u32)) -> Result<Option<PathBuf>> {
    let mountinfo = mountinfo()?;
    let device = format!("{major}:{minor}");
    let of_line = |line: &[u8]| {
        let mut fields = line.split(|&byte| byte == b' ');
        let here = fields.nth(2) == Some(device.as_bytes());
        let options = fields.next_back().filter(|_| here)?;
        let name = options.split(|&byte| byte == b',').find_map(|option| option.strip_prefix(b"rtdev="))?;
        Some(PathBuf::from(unescape(name)))
    };
    Ok(mountinfo.split(|&byte| byte == b'\n').find_map(of_line))
}
