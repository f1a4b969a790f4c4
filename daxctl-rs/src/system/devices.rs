//! The block devices below a filesystem.

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use libdaxfile::dm::{self, Question};
use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};

use super::kernel::text;
use crate::name::{serialize_some, unescape};

/// Unit of sysfs and device-mapper (`SECTOR_SHIFT`).
pub const SECTOR: u64 = 512;

/// A block device below a filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Its number, `major:minor`.
    pub device: String,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: LayerKind,
    /// Whether the device reports that it can be accessed as DAX (`queue/dax`).
    pub dax: Option<bool>,
    /// For a partition, and for a device-mapper device with one linear target: its start on the next layer, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// For a loop device: its backing file.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serialize_some")]
    pub backing_file: Option<PathBuf>,
    /// For a device-mapper device: its facts from device-mapper.
    #[serde(flatten)]
    pub mapped: Option<Mapped>,
}

/// Facts that device-mapper reports about one of its devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mapped {
    /// Its name in device-mapper.
    pub mapped_name: String,
    /// The kinds of its targets, in order. `None` if the kernel does not report them: that needs CAP_SYS_ADMIN.
    pub targets: Option<Vec<String>>,
}

/// Kinds of block devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
#[serde(into = "&'static str")]
pub enum LayerKind {
    /// A part of the next layer.
    Partition,
    /// A file.
    Loop,
    /// A device that device-mapper makes of others.
    DeviceMapper,
    /// A device that md makes of others.
    Md,
    /// None of these.
    Disk,
}

impl LayerKind {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Returns the device and the layers below it, as long as each byte is in one place of the next layer, at a known
/// offset. Empty if the number belongs to no block device.
#[must_use]
pub fn layers((major, minor): (u32, u32)) -> Vec<Layer> {
    /// More layers than any sane stack has.
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

/// Returns where a partition or a whole device of persistent memory begins in the machine's memory, as far as sysfs
/// reports it to the caller. An unreported offset counts as 0. Only root sees the start of the device itself, but that
/// is a multiple of 2 MiB unless it was configured otherwise (`ndctl create-namespace --align`).
pub(crate) fn memory_start((major, minor): (u32, u32)) -> u64 {
    let Some(at) = in_sysfs(format_args!("{major}:{minor}")) else { return 0 };
    let Some(layer) = layer(&at) else { return 0 };
    let disk = if layer.kind == LayerKind::Partition { at.parent() } else { Some(at.as_path()) };
    let resource = disk.and_then(|disk| text(disk.join("device/resource")));
    let base = resource.and_then(|text| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok());
    base.unwrap_or(0).saturating_add(layer.start.unwrap_or(0))
}

/// Whether the device reports that it can be accessed as DAX.
pub(crate) fn has_dax((major, minor): (u32, u32)) -> Option<bool> {
    layer(&in_sysfs(format_args!("{major}:{minor}"))?)?.dax
}

/// The smallest number of bytes that the device can read or write.
pub(crate) fn logical_block_size((major, minor): (u32, u32)) -> Option<u64> {
    let at = in_sysfs(format_args!("{major}:{minor}"))?;
    let disk = if at.join("partition").exists() { at.parent()? } else { at.as_path() };
    text(disk.join("queue/logical_block_size"))?.parse().ok()
}

/// Clusters that the ext4 on the device reserves and gives to nobody (`/sys/fs/ext4/DISK/reserved_clusters`).
pub(crate) fn ext4_reserved_clusters((major, minor): (u32, u32)) -> Option<u64> {
    let at = in_sysfs(format_args!("{major}:{minor}"))?;
    text(Path::new("/sys/fs/ext4").join(at.file_name()?).join("reserved_clusters"))?.parse().ok()
}

/// The directory in sysfs of the device with this number.
fn in_sysfs(number: impl Display) -> Option<PathBuf> {
    std::fs::canonicalize(format!("/sys/dev/block/{number}")).ok()
}

/// Reads a layer, as far as sysfs reports it.
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

/// Returns the directory in sysfs of the next layer. Asks device-mapper, and adds the answer to the layer.
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

/// The targets of a device-mapper device. `None` if the kernel does not report them to this process.
fn targets(device: &str, question: Question) -> Option<Vec<dm::Target>> {
    let (major, minor) = device.split_once(':')?;
    let control = File::open("/dev/mapper/control").ok()?;
    dm::targets(control, (major.parse().ok()?, minor.parse().ok()?), question).ok()
}

/// If the device is one linear target: the device below and its start there, in bytes. Does not ask other targets for
/// their parameters, which can contain a key.
fn place(device: &str, targets: &[dm::Target]) -> Option<(String, u64)> {
    let is_linear = |targets: &[dm::Target]| matches!(targets, [only] if only.start == 0 && only.kind == "linear");
    let made = is_linear(targets).then(|| self::targets(device, Question::Arguments)).flatten()?;
    is_linear(&made).then(|| linear(&made.first()?.answer)).flatten()
}

/// Parses the parameters of a linear target: `linear_status()` in `drivers/md/dm-linear.c`.
fn linear(arguments: &str) -> Option<(String, u64)> {
    let (device, sectors) = arguments.split_once(' ')?;
    Some((device.to_owned(), sectors.parse::<u64>().ok()?.checked_mul(SECTOR)?))
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
    fn a_linear_target_says_where_it_starts() {
        assert_eq!(linear("259:1 2048"), Some(("259:1".to_owned(), 1 << 20)));
        assert_eq!(linear("259:1"), None);
    }
}
