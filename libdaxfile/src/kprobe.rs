//! Kprobes: BPF programs that run at the entry of a kernel function, held by a link that bpffs can keep.
//!
//! Linux 5.15 and later. Needs `CAP_PERFMON` and `CAP_BPF`, or `CAP_SYS_ADMIN`.
//!
//! Reference: perf_event_open(2), bpf(2); `perf_kprobe_event_init()` in `kernel/events/core.c`, `bpf_perf_link_attach()` in
//! `kernel/bpf/syscall.c`.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::error::{Error, Result};

/// The beginning of `struct perf_event_attr`, of `PERF_ATTR_SIZE_VER1` bytes.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawEvent {
    pub kind: u32,
    pub size: u32,
    pub config: u64,
    pub sample_period: u64,
    pub sample_type: u64,
    pub read_format: u64,
    pub bits: u64,
    pub wakeup_events: u32,
    pub bp_type: u32,
    pub kprobe_func: u64,
    pub probe_offset: u64,
}

/// `union bpf_attr` for `BPF_LINK_CREATE`.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct RawLink {
    pub prog_fd: u32,
    pub target_fd: u32,
    pub attach_type: u32,
    pub flags: u32,
}

/// `union bpf_attr` for `BPF_OBJ_PIN`.
#[doc(hidden)]
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct RawPin {
    pub pathname: u64,
    pub bpf_fd: u32,
    pub file_flags: u32,
}

#[doc(hidden)]
pub const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;
#[doc(hidden)]
pub const BPF_OBJ_PIN: libc::c_int = 6;
#[doc(hidden)]
pub const BPF_LINK_CREATE: libc::c_int = 28;
#[doc(hidden)]
pub const BPF_PERF_EVENT: u32 = 41;

/// Attaches a program of type `BPF_PROG_TYPE_KPROBE` to the instruction at this offset of a kernel function, or to its entry
/// with offset 0, on every processor, and returns the link. The program stays attached until the link is closed and no name
/// in bpffs keeps it.
///
/// `pmu` is the number in `/sys/bus/event_source/devices/kprobe/type`.
///
/// # Errors
/// - `ENOENT`: the kernel has no such function.
/// - `EINVAL`: the function cannot be probed.
/// - `EILSEQ`: no instruction begins there.
/// - `EACCES` or `EPERM`: the caller lacks the capabilities.
#[doc(alias = "BPF_LINK_CREATE")]
pub fn attach(program: impl AsFd, pmu: u32, function: &CStr, offset: u64) -> Result<OwnedFd> {
    const CALL: &str = "perf_event_open(kprobe)";
    #[expect(clippy::cast_possible_truncation, reason = "a small constant")]
    let event = RawEvent {
        kind: pmu,
        size: size_of::<RawEvent>() as u32,
        kprobe_func: address(function),
        probe_offset: offset,
        ..Default::default()
    };
    // The event needs a processor, but the program runs on all of them: the kernel runs it before it looks at the event.
    let (any_process, processor, no_group) = (-1, 0, -1);
    // SAFETY: the structure has the length that it says, the function's name ends with NUL, and both outlive the call.
    let event = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &event, any_process, processor, no_group, PERF_FLAG_FD_CLOEXEC)
    };
    let event = descriptor(CALL, event)?;
    let link = RawLink {
        prog_fd: number(program.as_fd()),
        target_fd: number(event.as_fd()),
        attach_type: BPF_PERF_EVENT,
        flags: 0,
    };
    // SAFETY: the structure has the length given, and its descriptors are open.
    let link = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &link, size_of::<RawLink>()) };
    descriptor("bpf(BPF_LINK_CREATE)", link)
}

/// Gives a link a name in bpffs, which keeps it after its descriptors are closed.
///
/// # Errors
/// - `EEXIST`: the name is taken.
/// - `EPERM`: the directory is not in bpffs, or the caller lacks `CAP_BPF`.
/// - `ENOENT`, `ENOTDIR`, `EACCES`: the path does not lead to a directory that the caller may write to.
#[doc(alias = "BPF_OBJ_PIN")]
pub fn pin(link: impl AsFd, path: &CStr) -> Result<()> {
    let pin = RawPin { pathname: address(path), bpf_fd: number(link.as_fd()), file_flags: 0 };
    // SAFETY: the structure has the length given, and the path ends with NUL and outlives the call.
    let pinned = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_PIN, &pin, size_of::<RawPin>()) };
    Errno::result(pinned).map(drop).map_err(|errno| Error { call: "bpf(BPF_OBJ_PIN)", errno })
}

fn address(string: &CStr) -> u64 {
    string.as_ptr().addr() as u64
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn descriptor(call: &'static str, returned: libc::c_long) -> Result<OwnedFd> {
    let fd = Errno::result(returned).map_err(|errno| Error { call, errno })?;
    #[expect(clippy::cast_possible_truncation, reason = "descriptors are of type int")]
    let fd = fd as libc::c_int;
    // SAFETY: the kernel has just opened this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
