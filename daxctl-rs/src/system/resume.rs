//! Where the kernel is set to resume from hibernation: its command line and `/sys/power`.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use serde::Serialize;

use crate::error::{Error, Result, ResultExt};
use crate::status::Status;

/// The parameter with which the kernel does not resume at all.
const NORESUME: &str = "noresume";

/// The place to resume from, according to one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The source.
    pub source: &'static str,
    /// The device as written there, or `noresume`.
    pub resume: Option<String>,
    /// The swap header's offset on the device, in pages. A swap partition has none.
    pub resume_offset: Option<u64>,
}

/// Reads the parameters that the kernel was booted with.
///
/// # Errors
/// An error of reading `/proc/cmdline`.
pub(crate) fn command_line() -> Result<Setting> {
    let line = std::fs::read("/proc/cmdline").call("read(/proc/cmdline)")?;
    Ok(parse(&String::from_utf8_lossy(&line)))
}

/// Reads where the kernel hibernates to and resumes from next: an initramfs or systemd may have set it.
///
/// # Errors
/// Status 3 if the kernel has no hibernation; an error of reading the two files.
pub(crate) fn power() -> Result<Setting> {
    let read = |path: &'static str, call| match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::new(
            Status::Unable,
            format!("no {path}: this kernel has no hibernation, or /sys is not mounted"),
        )),
        text => text.call(call),
    };
    let resume = read("/sys/power/resume", "read(/sys/power/resume)")?;
    let resume_offset = read("/sys/power/resume_offset", "read(/sys/power/resume_offset)")?;
    Ok(Setting {
        source: "/sys/power",
        resume: Some(resume.trim().to_owned()).filter(|device| device != "0:0"),
        resume_offset: resume_offset.trim().parse().ok().filter(|offset| *offset != 0),
    })
}

fn parse(line: &str) -> Setting {
    let mut setting = Setting { source: "/proc/cmdline", resume: None, resume_offset: None };
    let mut noresume = false;
    // If a parameter occurs twice, the last one counts.
    for parameter in parameters(line) {
        if parameter == NORESUME {
            noresume = true;
        } else if let Some(device) = parameter.strip_prefix("resume=") {
            setting.resume = Some(device.to_owned()).filter(|device| !device.is_empty());
        } else if let Some(offset) = parameter.strip_prefix("resume_offset=") {
            setting.resume_offset = offset.parse().ok();
        }
    }
    if noresume {
        setting.resume = Some(NORESUME.to_owned());
    }
    setting
}

/// Splits the kernel's parameters: blanks separate them except between double quotes, and `--` ends them
/// (`parse_args()`).
fn parameters(line: &str) -> Vec<String> {
    let mut quoted = false;
    let words = line.split(|c: char| {
        quoted ^= c == '"';
        c.is_ascii_whitespace() && !quoted
    });
    words.take_while(|word| *word != "--").map(|word| word.replace('"', "")).collect()
}

/// The number of the block device that a value of `resume` names. `None` if no device here has that name.
///
/// # Errors
/// Status 2 if nothing shows which device it names.
pub(crate) fn device(resume: &str) -> Result<Option<(u32, u32)>> {
    if resume == NORESUME {
        return Ok(None);
    }
    if let Some((major, minor)) = resume.split_once(':')
        && let (Ok(major), Ok(minor)) = (major.parse(), minor.parse())
    {
        return Ok(Some((major, minor)));
    }
    let unknown = |why: &str| Err(Error::new(Status::Failed, format!("resume={resume}: {why}")));
    let path = match resume.split_once('=') {
        _ if resume.starts_with("/dev/") => PathBuf::from(resume),
        Some((tag @ ("UUID" | "LABEL" | "PARTUUID" | "PARTLABEL"), name)) => {
            let links = Path::new("/dev/disk").join(format!("by-{}", tag.to_lowercase()));
            if !links.is_dir() {
                return unknown(&format!("{} is missing, so the device is not known", links.display()));
            }
            links.join(name.replace('/', "\\x2f"))
        }
        _ => return unknown("daxfile cannot resolve this form of a device's name"),
    };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_block_device() => {
            let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
            Ok(Some((narrow(major(metadata.rdev())), narrow(minor(metadata.rdev())))))
        }
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).call("stat(the device to resume from)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_last_parameters_count() {
        let set = |line: &str| {
            let setting = parse(line);
            (setting.resume, setting.resume_offset)
        };
        let some = |device: &str, offset| (Some(device.to_owned()), offset);
        assert_eq!(set("quiet resume=/dev/sda2 resume_offset=7\n"), some("/dev/sda2", Some(7)));
        assert_eq!(set("resume=8:1 resume=\"UUID=a b\" resume_offset=1 resume_offset=2"), some("UUID=a b", Some(2)));
        assert_eq!(set("\"resume=8:1\" x=\"a resume=8:2\" xresume=8:3 -- resume=8:4"), some("8:1", None));
        assert_eq!(set("resume=8:1 resume_offset=9 noresume"), some("noresume", Some(9)));
        assert_eq!(set("resume=8:1 resume= resume_offset=x"), (None, None));
    }

    #[test]
    fn device_numbers_name_devices() {
        assert_eq!(device("254:16"), Ok(Some((254, 16))));
        assert_eq!(device("/dev/no such device"), Ok(None));
        assert_eq!(device("/dev/null"), Ok(None));
        assert_eq!(device(NORESUME), Ok(None));
        assert_eq!(device("swap").map_err(|error| error.status), Err(Status::Failed));
    }
}
