//! `DM_TABLE_STATUS`: the targets that a device-mapper device is made of.
//!
//! Reference: `table_status()` and `retrieve_status()` in `drivers/md/dm-ioctl.c`, `linux/dm-ioctl.h`. All of its ioctls
//! take CAP_SYS_ADMIN, and a descriptor of `/dev/mapper/control`, which only root may open.

use std::mem::offset_of;
use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::ioctl::{encode_device, ioctl};

const CALL: &str = "ioctl(DM_TABLE_STATUS)";

/// Unit of the kernel's numbers (`SECTOR_SHIFT`).
const SECTOR: u64 = 512;

/// Room for an answer: some 1,600 targets without their arguments.
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

#[doc(hidden)]
#[repr(C)]
pub struct RawAnswer {
    pub head: RawDm,
    pub data: [u8; ROOM],
}

/// `_IOWR(0xfd, 12, struct dm_ioctl)`
#[doc(hidden)]
pub const DM_TABLE_STATUS: u64 = nix::request_code_readwrite!(0xfd, 12, size_of::<RawDm>());

/// The interface's version that matters (`DM_VERSION_MAJOR`).
#[doc(hidden)]
pub const DM_VERSION_MAJOR: u32 = 4;
/// Asks for the arguments that targets were made with, instead of what they are doing.
#[doc(hidden)]
pub const DM_STATUS_TABLE_FLAG: u32 = 1 << 4;
/// The answer did not fit.
#[doc(hidden)]
pub const DM_BUFFER_FULL_FLAG: u32 = 1 << 8;
/// Has thin targets not write anything down for the sake of the answer.
#[doc(hidden)]
pub const DM_NOFLUSH_FLAG: u32 = 1 << 11;

/// What is asked of the targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// What they are doing.
    Status,
    /// What they were made with: of some, keys of encryption.
    Arguments,
}

/// A target: a piece of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it starts on the device, in bytes.
    pub start: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// What maps it: `linear`, say.
    pub kind: String,
    /// What it answered; how that reads is the kind's own.
    pub answer: String,
}

/// The targets of the active table of the device-mapper device with this number (major, minor), in order; none where it
/// has no such table.
///
/// # Errors
/// `EACCES` without CAP_SYS_ADMIN; `ENXIO` where there is no such device; `EOVERFLOW` where the answer is longer than
/// 64 KiB.
#[doc(alias = "DM_TABLE_STATUS")]
pub fn targets(control: impl AsFd, device: (u32, u32), question: Question) -> Result<Vec<Target>> {
    let failed = |errno| Error { call: CALL, errno };
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
    // SAFETY: `data_size` announces the live, exclusively borrowed answer, head and room; the kernel writes no more, and
    // every bit pattern is a valid value of these integer fields.
    unsafe { ioctl(CALL, control, DM_TABLE_STATUS, raw.cast::<RawDm>()) }?;
    if answer.head.flags & DM_BUFFER_FULL_FLAG != 0 {
        return Err(failed(Errno::EOVERFLOW));
    }
    let start = usize::try_from(answer.head.data_start).unwrap_or(usize::MAX).checked_sub(size_of::<RawDm>());
    let data = start.and_then(|start| answer.data.get(start..));
    data.and_then(|data| parse(data, answer.head.target_count)).ok_or(failed(Errno::EIO))
}

/// `None` where it leads out of the data.
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
        // It counts from the first target, and leads on.
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
    fn targets_follow_each_other() {
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
    fn nothing_leads_out_of_the_answer_or_back() {
        let one = raw(0, 8, 64, "linear", "7:0 2048");
        assert_eq!(parse(&one, 2), None);
        assert_eq!(parse(&one[..39], 1), None);
        assert_eq!(parse(&raw(0, 8, 0, "linear", ""), 1), None);
        assert_eq!(parse(&raw(u64::MAX, 8, 64, "linear", ""), 1), None);
    }
}
