//! How filesystems are mounted: proc_pid_mountinfo(5).

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use serde::Serialize;

use crate::error::{Named, Result};
use crate::name::{self, unescape};

/// Where and how the filesystem of an open file is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Where.
    #[serde(serialize_with = "name::serialize")]
    pub point: PathBuf,
    /// What is mounted: usually the name of a device.
    #[serde(serialize_with = "name::serialize")]
    pub source: PathBuf,
    /// As which filesystem.
    #[serde(skip)]
    pub filesystem: String,
    /// The mount's own options, then the filesystem's.
    pub options: Vec<String>,
    /// Whether all of the filesystem is mounted there, not only a directory of it.
    #[serde(skip)]
    pub whole: bool,
}

impl Mount {
    /// Looks it up in /proc/self/mountinfo, by the number that /proc/self/fdinfo has of the descriptor; see
    /// proc_pid_mountinfo(5). `None` where it is mounted in another namespace only, or where /proc is not mounted.
    ///
    /// # Errors
    /// Where one of them cannot be read.
    pub fn of(file: impl AsFd) -> Result<Option<Self>> {
        let fdinfo = format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd());
        let fdinfo = match std::fs::read_to_string(fdinfo) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.named("read(/proc/self/fdinfo)")?,
        };
        let number = fdinfo.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim).unwrap_or_default();
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

fn mountinfo() -> Result<Vec<u8>> {
    match std::fs::read("/proc/self/mountinfo") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.named("read(/proc/self/mountinfo)"),
    }
}

/// The realtime device of the XFS on a device (major, minor), as its mount options name it; see proc_pid_mountinfo(5).
///
/// # Errors
/// Where /proc/self/mountinfo cannot be read.
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
