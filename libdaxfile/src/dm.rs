//! `DM_TABLE_STATUS`: the targets of a device-mapper device.
//!
//! Version 4 of the device-mapper interface (Linux 2.6 and later). Needs `CAP_SYS_ADMIN` and a descriptor of
//! `/dev/mapper/control`, which only root may open.
//!
//! Reference: `table_status()` and `retrieve_status()` in `drivers/md/dm-ioctl.c`, `include/uapi/linux/dm-ioctl.h`.

use std::mem::offset_of;
use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::error::Result;
use crate::ioctl::{Ioctl, encode_device};

/// Bytes in the unit that the kernel counts in (`SECTOR_SHIFT`).
const SECTOR: u64 = 512;

/// Bytes for the answer: about 1,600 targets without arguments.
const ROOM: usize = 1 << 16;

/// `struct dm_ioctl`.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct RawDm {
    pub version: [u32; 3],
    pub data_size: u32,
    pub data_start: u32,
    pub target_count: u32,
    pub open_count: i32,
    pub flags: u32,
    pub event_nr: u32,
    pub padding: u32,
    pub dev: u64,
    pub name: [u8; 128],
    pub uuid: [u8; 129],
    pub data: [u8; 7],
}

/// `struct dm_target_spec`.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct RawTarget {
    pub sector_start: u64,
    pub length: u64,
    pub status: i32,
    pub next: u32,
    pub target_type: [u8; 16],
}

/// `struct dm_ioctl` and the room behind it for the answer.
#[doc(hidden)]
#[repr(C)]
pub struct RawAnswer {
    pub head: RawDm,
    pub data: [u8; ROOM],
}

/// `_IOWR(0xfd, 12, struct dm_ioctl)`
#[doc(hidden)]
pub const DM_TABLE_STATUS: Ioctl<RawDm> = Ioctl::read_write::<RawDm>("ioctl(DM_TABLE_STATUS)", 0xfd, 12);

/// The version of the interface; the kernel refuses another major version.
#[doc(hidden)]
pub const DM_VERSION_MAJOR: u32 = 4;
/// Return the arguments of the targets instead of their status.
#[doc(hidden)]
pub const DM_STATUS_TABLE_FLAG: u32 = 1 << 4;
/// The answer did not fit into the buffer.
#[doc(hidden)]
pub const DM_BUFFER_FULL_FLAG: u32 = 1 << 8;
/// Answer from memory: thin targets would otherwise commit their metadata first.
#[doc(hidden)]
pub const DM_NOFLUSH_FLAG: u32 = 1 << 11;

/// The part of each target's state that [`targets`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Its status.
    Status,
    /// The arguments of its table line. For some kinds they contain encryption keys.
    Arguments,
}

/// A target, which maps one range of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Offset on the device, in bytes.
    pub start: u64,
    /// Length, in bytes.
    pub length: u64,
    /// Kind of target, such as `linear`.
    pub kind: String,
    /// The status or the arguments, in the format of this kind of target.
    pub answer: String,
}

/// Returns the targets in the active table of a device-mapper device (major, minor), in order; none if it has no active
/// table.
///
/// # Errors
/// - `EACCES`: the caller lacks `CAP_SYS_ADMIN`.
/// - `ENXIO`: no device-mapper device has this number.
/// - `EOVERFLOW`: the answer is longer than 64 KiB.
/// - `EIO`: the answer makes no sense.
#[doc(alias = "DM_TABLE_STATUS")]
pub fn targets(control: impl AsFd, device: (u32, u32), question: Question) -> Result<Vec<Target>> {
    #[expect(clippy::cast_possible_truncation, reason = "a small constant")]
    let head = RawDm {
        version: [DM_VERSION_MAJOR, 0, 0],
        data_size: size_of::<RawAnswer>() as u32,
        data_start: size_of::<RawDm>() as u32,
        target_count: 0,
        open_count: 0,
        flags: DM_NOFLUSH_FLAG | if question == Question::Arguments { DM_STATUS_TABLE_FLAG } else { 0 },
        event_nr: 0,
        padding: 0,
        dev: encode_device(device).into(),
        name: [0; 128],
        uuid: [0; 129],
        data: [0; 7],
    };
    let mut answer = Box::new(RawAnswer { head, data: [0; ROOM] });
    let raw: *mut RawAnswer = &raw mut *answer;
    // SAFETY: `data_size` announces the live, exclusively borrowed answer, head and room; the kernel writes no more
    // than that, and every bit pattern is a valid value of these integer fields.
    unsafe { DM_TABLE_STATUS.call(control, raw.cast::<RawDm>()) }?;
    if answer.head.flags & DM_BUFFER_FULL_FLAG != 0 {
        return Err(DM_TABLE_STATUS.error(Errno::EOVERFLOW));
    }
    let start = usize::try_from(answer.head.data_start).unwrap_or(usize::MAX).checked_sub(size_of::<RawDm>());
    let data = start.and_then(|start| answer.data.get(start..));
    data.and_then(|data| parse(data, answer.head.target_count)).ok_or(DM_TABLE_STATUS.error(Errno::EIO))
}

/// Parses the targets in `data`; `None` if an offset leads out of the slice.
fn parse(data: &[u8], count: u32) -> Option<Vec<Target>> {
    let mut at = 0;
    let mut targets = Vec::new();
    for _ in 0..count {
        let raw = data.get(at..)?;
        let u64_at = |offset: usize| raw.get(offset..)?.first_chunk().copied().map(u64::from_ne_bytes);
        let next = u32::from_ne_bytes(*raw.get(offset_of!(RawTarget, next)..)?.first_chunk()?);
        let kind = raw.get(offset_of!(RawTarget, target_type)..size_of::<RawTarget>())?;
        targets.push(Target {
            start: u64_at(offset_of!(RawTarget, sector_start))?.checked_mul(SECTOR)?,
            length: u64_at(offset_of!(RawTarget, length))?.checked_mul(SECTOR)?,
            kind: until_nul(kind),
            answer: until_nul(raw.get(size_of::<RawTarget>()..)?),
        });
        // `next` is an offset from the first target, and must lead forward.
        at = usize::try_from(next).ok().filter(|&next| next > at)?;
    }
    Some(targets)
}

fn until_nul(bytes: &[u8]) -> String {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(start: u64, length: u64, next: u32, kind: &str, answer: &str) -> Vec<u8> {
        let mut bytes = [start.to_ne_bytes(), length.to_ne_bytes()].concat();
        bytes.extend(0_i32.to_ne_bytes());
        bytes.extend(next.to_ne_bytes());
        for (text, room) in [(kind, 16), (answer, 24)] {
            bytes.extend(text.bytes());
            bytes.resize(bytes.len() + room - text.len(), 0);
        }
        bytes
    }

    #[test]
    fn parse_returns_every_target() {
        let two = [raw(0, 8, 64, "linear", "7:0 2048"), raw(8, 16, 128, "striped", "")].concat();
        let target = |start, length, kind: &str, answer: &str| Target {
            start,
            length,
            kind: kind.to_owned(),
            answer: answer.to_owned(),
        };
        let all = [target(0, 4096, "linear", "7:0 2048"), target(4096, 8192, "striped", "")];
        assert_eq!(parse(&two, 2), Some(all.to_vec()));
        assert_eq!(parse(&two, 1), Some(all[..1].to_vec()));
        assert_eq!(parse(&[], 0), Some(Vec::new()));
    }

    #[test]
    fn parse_refuses_targets_that_lead_out_or_back() {
        let one = raw(0, 8, 64, "linear", "7:0 2048");
        assert_eq!(parse(&one, 2), None);
        assert_eq!(parse(&one[..39], 1), None);
        assert_eq!(parse(&raw(0, 8, 0, "linear", ""), 1), None);
        assert_eq!(parse(&raw(u64::MAX, 8, 64, "linear", ""), 1), None);
    }
}
