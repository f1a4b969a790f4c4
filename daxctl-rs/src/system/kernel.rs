//! The kernel, and the limits of this process in it.

use std::fmt::Display;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use caps::{CapSet, Capability};
use nix::sys::utsname::uname;
use nix::unistd::{Uid, geteuid};
use serde::Serialize;

use crate::error::{Error, Result, ResultExt};
use crate::status::Status;

/// Capabilities that one or another hold needs.
const USED: [Capability; 6] = [
    Capability::CAP_LINUX_IMMUTABLE,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_FOWNER,
    Capability::CAP_LEASE,
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
];

/// The facts, besides the filesystem, that a hold depends on. `None` means that a fact could not be read.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// The kernel's release.
    pub kernel: String,
    /// The active Linux security modules, in order (`/sys/kernel/security/lsm`).
    pub lsm: Option<Vec<String>>,
    /// The level of kernel_lockdown(7).
    pub lockdown: Option<String>,
    /// Those effective capabilities that a hold may need.
    pub capabilities: Vec<String>,
    /// Whether the process is in the initial user namespace, so that these capabilities count.
    pub initial_user_namespace: Option<bool>,
    /// The number of seconds after which the kernel breaks a lease by force (`/proc/sys/fs/lease-break-time`).
    pub lease_break_time: Option<u64>,
}

impl Host {
    /// Reads the facts of this kernel and this process.
    ///
    /// # Errors
    /// An error of uname(2) or capget(2).
    pub fn look() -> Result<Self> {
        let capabilities = caps::read(None, CapSet::Effective).map_err(failed)?;
        let used = USED.iter().filter(|capability| capabilities.contains(*capability));
        Ok(Host {
            kernel: uname().call("uname")?.release().to_string_lossy().into_owned(),
            lsm: active_lsms(),
            lockdown: lockdown(),
            capabilities: used.map(ToString::to_string).collect(),
            initial_user_namespace: initial_user_namespace(),
            lease_break_time: text("/proc/sys/fs/lease-break-time").and_then(|seconds| seconds.parse().ok()),
        })
    }
}

/// Whether a capability is effective in this process. Asks once for each: this program never changes its own.
///
/// # Errors
/// An error of capget(2).
pub(crate) fn has_capability(capability: Capability) -> Result<bool> {
    static KNOWN: AtomicU64 = AtomicU64::new(0);
    static EFFECTIVE: AtomicU64 = AtomicU64::new(0);
    let bit = capability.bitmask();
    if KNOWN.load(Ordering::Acquire) & bit == 0 {
        let has = caps::has_cap(None, CapSet::Effective, capability).map_err(failed)?;
        EFFECTIVE.fetch_or(if has { bit } else { 0 }, Ordering::Relaxed);
        KNOWN.fetch_or(bit, Ordering::Release);
    }
    Ok(EFFECTIVE.load(Ordering::Relaxed) & bit != 0)
}

/// The effective user of this process. Asks once: this program never changes its user.
pub(crate) fn effective_user() -> Uid {
    static USER: OnceLock<Uid> = OnceLock::new();
    *USER.get_or_init(geteuid)
}

fn failed(error: impl Display) -> Error {
    Error::new(Status::Failed, format!("capget: {error}"))
}

/// Whether this process is in the initial user namespace, if /proc reports that.
pub(crate) fn initial_user_namespace() -> Option<bool> {
    text("/proc/self/uid_map").map(|map| is_everybody(&map))
}

/// The active Linux security modules, in order, if securityfs reports them.
pub(crate) fn active_lsms() -> Option<Vec<String>> {
    text("/sys/kernel/security/lsm").map(|list| list.split(',').map(str::to_owned).collect())
}

/// The level of kernel_lockdown(7), if securityfs reports it.
pub(crate) fn lockdown() -> Option<String> {
    text("/sys/kernel/security/lockdown").and_then(|levels| chosen(&levels))
}

/// The level in brackets: `none [integrity] confidentiality`.
fn chosen(levels: &str) -> Option<String> {
    let (_, rest) = levels.split_once('[')?;
    rest.split_once(']').map(|(level, _)| level.to_owned())
}

/// Whether a uid_map is the initial one of user_namespaces(7).
fn is_everybody(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Bytes in all page caches that wait to be written: `Dirty` of proc_meminfo(5).
pub(crate) fn dirty_bytes() -> Option<u64> {
    let meminfo = text("/proc/meminfo")?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("Dirty:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The content of a file of procfs or sysfs, without surrounding white space.
pub(crate) fn text(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
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
    fn only_the_initial_namespace_has_everybody() {
        assert!(is_everybody("         0          0 4294967295"));
        assert!(!is_everybody("0 1000 1"));
    }
}
