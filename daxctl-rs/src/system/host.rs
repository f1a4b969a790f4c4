//! The kernel, what bounds this process in it, and the block devices below a filesystem.

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};
use libdaxfile::dm::{self, Question};
use nix::sys::utsname::uname;
use serde::Serialize;

use crate::error::{Error, Named, Result};
use crate::name::{serialize_some, unescape};
use crate::status::Status;

/// Unit of sysfs and device-mapper (`SECTOR_SHIFT`).
pub const SECTOR: u64 = 512;

/// Capabilities that one hold or another needs.
const USED: [Capability; 6] = [
    Capability::CAP_LINUX_IMMUTABLE,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_FOWNER,
    Capability::CAP_LEASE,
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
];

/// What a hold depends on besides the filesystem. `None` is what could not be read.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// The kernel's release.
    pub kernel: String,
    /// The active Linux security modules, in order (`/sys/kernel/security/lsm`).
    pub lsm: Option<Vec<String>>,
    /// What kernel_lockdown(7) is at.
    pub lockdown: Option<String>,
    /// Effective capabilities, of those that a hold may need.
    pub capabilities: Vec<String>,
    /// Whether these count outside of a user namespace of their own.
    pub initial_user_namespace: Option<bool>,
    /// After how many seconds a lease is broken by force (`/proc/sys/fs/lease-break-time`).
    pub lease_break_time: Option<u64>,
}

impl Host {
    /// Looks at this kernel and this process.
    ///
    /// # Errors
    /// Those of uname(2) and capget(2).
    pub fn look() -> Result<Self> {
        let capabilities = caps::read(None, CapSet::Effective)
            .map_err(|error| Error::new(Status::Failed, format!("capget: {error}")))?;
        let used = USED.iter().filter(|capability| capabilities.contains(*capability));
        Ok(Host {
            kernel: uname().named("uname")?.release().to_string_lossy().into_owned(),
            lsm: active_lsms(),
            lockdown: lockdown(),
            capabilities: used.map(ToString::to_string).collect(),
            initial_user_namespace: text("/proc/self/uid_map").map(|map| is_everybody(&map)),
            lease_break_time: text("/proc/sys/fs/lease-break-time").and_then(|seconds| seconds.parse().ok()),
        })
    }
}

/// The active Linux security modules, in order, where securityfs tells.
pub(crate) fn active_lsms() -> Option<Vec<String>> {
    text("/sys/kernel/security/lsm").map(|list| list.split(',').map(str::to_owned).collect())
}

/// What kernel_lockdown(7) is at, where securityfs tells.
pub(crate) fn lockdown() -> Option<String> {
    text("/sys/kernel/security/lockdown").and_then(|levels| chosen(&levels))
}

/// The one in brackets: `none [integrity] confidentiality`.
fn chosen(levels: &str) -> Option<String> {
    let (_, rest) = levels.split_once('[')?;
    rest.split_once(']').map(|(level, _)| level.to_owned())
}

/// Whether a uid_map is that of user_namespaces(7) for the initial one.
fn is_everybody(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// A block device, or one that it lies on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Its number, `major:minor`.
    pub device: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: LayerKind,
    /// Whether it says that it can be accessed as DAX (`queue/dax`).
    pub dax: Option<bool>,
    /// Of a partition, and of a device-mapper device with one linear target, where it starts on the next layer, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// Of a loop device, the file that it is of.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serialize_some")]
    pub backing_file: Option<PathBuf>,
    /// Of a device-mapper device, what it is there.
    #[serde(flatten)]
    pub mapped: Option<Mapped>,
}

/// What device-mapper tells of a device of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mapped {
    /// Its name there.
    pub mapped_name: String,
    /// The kinds of its targets, in order. `None` where they are not told: that takes CAP_SYS_ADMIN.
    pub targets: Option<Vec<String>>,
}

/// Kinds of block devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerKind {
    /// A part of the next layer.
    Partition,
    /// A file.
    Loop,
    /// What device-mapper makes of others.
    DeviceMapper,
    /// What md makes of others.
    Md,
    /// None of these.
    Disk,
}

impl LayerKind {
    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LayerKind::Partition => "partition",
            LayerKind::Loop => "loop",
            LayerKind::DeviceMapper => "device-mapper",
            LayerKind::Md => "md",
            LayerKind::Disk => "disk",
        }
    }
}

/// The device, and what is below it for as long as each byte is in one place there that an offset tells. Empty where the
/// number is of no block device.
#[must_use]
pub fn layers((major, minor): (u32, u32)) -> Vec<Layer> {
    /// More than any sane stack has.
    const DEPTH: usize = 32;
    let mut layers = Vec::new();
    let mut next = in_sysfs(format_args!("{major}:{minor}"));
    while let Some(at) = next.take().filter(|_| layers.len() < DEPTH) {
        let Some(mut layer) = layer(&at) else { break };
        next = below(&at, &mut layer);
        layers.push(layer);
    }
    layers
}

/// Where a partition, or a whole device, of persistent memory begins in the machine's memory, as far as sysfs tells it to
/// the caller. What is not told counts as 0: the beginning of the device itself, which only root is told, is a multiple of 2
/// MiB unless it was configured otherwise (`ndctl create-namespace --align`).
pub(crate) fn memory_start((major, minor): (u32, u32)) -> u64 {
    let Some(at) = in_sysfs(format_args!("{major}:{minor}")) else { return 0 };
    let Some(layer) = layer(&at) else { return 0 };
    let disk = if layer.kind == LayerKind::Partition { at.parent() } else { Some(at.as_path()) };
    let resource = disk.and_then(|disk| text(disk.join("device/resource")));
    let base = resource.and_then(|text| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok());
    base.unwrap_or(0).saturating_add(layer.start.unwrap_or(0))
}

/// Whether the device says that it can be accessed as DAX.
pub(crate) fn has_dax((major, minor): (u32, u32)) -> Option<bool> {
    layer(&in_sysfs(format_args!("{major}:{minor}"))?)?.dax
}

/// Where sysfs has the device with this number.
fn in_sysfs(number: impl Display) -> Option<PathBuf> {
    std::fs::canonicalize(format!("/sys/dev/block/{number}")).ok()
}

/// A layer, as far as sysfs tells.
fn layer(at: &Path) -> Option<Layer> {
    let has = |name: &str| at.join(name).exists();
    let kind = match () {
        () if has("partition") => LayerKind::Partition,
        () if has("loop") => LayerKind::Loop,
        () if has("dm") => LayerKind::DeviceMapper,
        () if has("md") => LayerKind::Md,
        () => LayerKind::Disk,
    };
    let queue = if kind == LayerKind::Partition { at.parent()? } else { at }.join("queue/dax");
    Some(Layer {
        device: text(at.join("dev"))?,
        name: at.file_name()?.to_string_lossy().into_owned(),
        kind,
        dax: text(queue).map(|dax| dax == "1"),
        start: text(at.join("start")).and_then(|sectors| sectors.parse::<u64>().ok()?.checked_mul(SECTOR)),
        backing_file: bytes(&at.join("loop/backing_file")).ok().map(|name| PathBuf::from(unescape(&name))),
        mapped: None,
    })
}

/// Where sysfs has the next layer. Device-mapper is asked, and the answer added to the layer.
fn below(at: &Path, layer: &mut Layer) -> Option<PathBuf> {
    match layer.kind {
        LayerKind::Partition => at.parent().map(Path::to_owned),
        LayerKind::DeviceMapper => {
            let targets = targets(&layer.device, Question::Status);
            let place = targets.as_deref().and_then(|targets| place(&layer.device, targets));
            layer.mapped = Some(Mapped {
                mapped_name: text(at.join("dm/name")).unwrap_or_default(),
                targets: targets.map(|targets| targets.into_iter().map(|target| target.kind).collect()),
            });
            let (device, start) = place?;
            layer.start = Some(start);
            in_sysfs(device)
        }
        LayerKind::Loop | LayerKind::Md | LayerKind::Disk => None,
    }
}

/// A device-mapper device's targets. `None` where the kernel does not tell us.
fn targets(device: &str, question: Question) -> Option<Vec<dm::Target>> {
    let (major, minor) = device.split_once(':')?;
    let control = File::open("/dev/mapper/control").ok()?;
    dm::targets(control, (major.parse().ok()?, minor.parse().ok()?), question).ok()
}

/// On which device it starts where, in bytes, if it is one linear target. Others are not asked what they were made with,
/// for that can be a key.
fn place(device: &str, targets: &[dm::Target]) -> Option<(String, u64)> {
    let is_linear = |targets: &[dm::Target]| matches!(targets, [only] if only.start == 0 && only.kind == "linear");
    let made = is_linear(targets).then(|| self::targets(device, Question::Arguments)).flatten()?;
    is_linear(&made).then(|| linear(&made.first()?.answer)).flatten()
}

/// What a linear target was made with: `linear_status()` in `drivers/md/dm-linear.c`.
fn linear(arguments: &str) -> Option<(String, u64)> {
    let (device, sectors) = arguments.split_once(' ')?;
    Some((device.to_owned(), sectors.parse::<u64>().ok()?.checked_mul(SECTOR)?))
}

fn text(path: impl AsRef<Path>) -> Option<String> {
    bytes(path.as_ref()).ok().map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = std::fs::read(path)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_of_lockdown_is_the_one_in_brackets() {
        assert_eq!(chosen("none [integrity] confidentiality").as_deref(), Some("integrity"));
        assert_eq!(chosen(""), None);
    }

    #[test]
    fn a_linear_target_says_where_it_starts() {
        assert_eq!(linear("259:1 2048"), Some(("259:1".to_owned(), 1 << 20)));
        assert_eq!(linear("259:1"), None);
    }

    #[test]
    fn only_the_initial_namespace_has_everybody() {
        assert!(is_everybody("         0          0 4294967295"));
        assert!(!is_everybody("0 1000 1"));
    }
}
