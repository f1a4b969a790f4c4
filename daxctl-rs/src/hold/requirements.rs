//! What a hold needs besides a map without blockers: requirements on kernel, build, filesystem, mount and caller.

use std::os::fd::AsFd;
use std::sync::{Mutex, OnceLock, PoisonError};

use caps::Capability;
use libdaxfile::Errno;
use libdaxfile::quota::{self, Type};
use libdaxfile::statx::{S_IFDIR, S_IFMT, Statx};
use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat};

use super::writable::{self, MissingPart, Part};
use super::{frozen, missing_among};
use crate::error::{Error, Result, ResultExt};
use crate::file::target::Target;
use crate::needs::Hold;
use crate::status::Status;
use crate::system::filesystem::Filesystem;
use crate::system::fresh::Fresh;
use crate::system::kernel;

/// A requirement of a hold that is not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The exit status of a pin without it.
    pub status: Status,
    /// The requirement in words.
    pub what: String,
    /// The errno that the kernel would return, if it would return one.
    pub errno: Option<Errno>,
    /// Whether only this caller lacks it, so that root can pin the file.
    pub caller_only: bool,
}

impl Missing {
    fn of_system(what: impl Into<String>) -> Self {
        Missing { status: Status::Unable, what: what.into(), errno: None, caller_only: false }
    }

    fn of_caller(what: impl Into<String>) -> Self {
        Missing { status: Status::NotPermitted, what: what.into(), errno: None, caller_only: true }
    }

    /// Returns what this process lacks to remove the record in the attribute of another hold than this one.
    ///
    /// # Errors
    /// The kernel does not report the capabilities of the process.
    pub fn to_remove_the_record(target: &Target, hold: Hold) -> Result<Option<Self>> {
        if hold != Hold::None {
            return Ok(target.require_write_access().err().map(|error| Missing {
                errno: error.errno,
                ..Missing::of_caller("removing the record that is in the way needs write access")
            }));
        }
        let missing = missing_among(&[(Capability::CAP_SYS_ADMIN, true)])?;
        Ok((!missing.is_empty()).then(|| Missing {
            errno: Some(Errno::EPERM),
            ..Missing::of_caller("removing the record that is in the way needs CAP_SYS_ADMIN")
        }))
    }

    /// The error of a pin without it, with what to do instead.
    #[must_use]
    pub fn error(&self, hold: Hold) -> Error {
        let instead = match hold {
            _ if self.status == Status::Unable && hold != Hold::Writable => "",
            Hold::Frozen => "; --hold none records the map with write access alone",
            Hold::Writable if self.caller_only => "; --hold none records the map with write access alone",
            Hold::Writable => writable::ALTERNATIVES,
            Hold::None => "",
        };
        let message = format!("hold {}: {}{instead}", hold.name(), self.what);
        match self.errno {
            Some(errno) => Error { status: self.status, ..Error::from_errno(errno).because(message) },
            None => Error::new(self.status, message),
        }
    }
}

/// Major and minor number.
type Device = (u32, u32);

/// Finds the unmet requirements of holds. Checks only once what is the same for every file.
#[derive(Debug, Default)]
pub struct Requirements {
    guard: OnceLock<Vec<MissingPart>>,
    initial_user_namespace: OnceLock<Option<bool>>,
    quotas: Mutex<Vec<(Device, Vec<Type>)>>,
    free: Fresh<(Device, u64)>,
}

impl Requirements {
    /// Lists the unmet requirements of a hold on an open file or directory. The first one decides the exit status. The
    /// list ends with a requirement that makes further checks pointless.
    ///
    /// # Errors
    /// The kernel does not report the capabilities of the process.
    pub fn missing(&self, hold: Hold, fd: impl AsFd, statx: &Statx, filesystem: &Filesystem) -> Result<Vec<Missing>> {
        if let Some(why) = filesystem.refusal(hold) {
            return Ok(vec![Missing::of_system(why)]);
        }
        if filesystem.read_only {
            return Ok(vec![Missing {
                errno: Some(Errno::EROFS),
                ..Missing::of_system(
                    "the filesystem is mounted read-only, and a pin writes a record: remount it read-write",
                )
            }]);
        }
        let needs = |capabilities: Vec<String>| {
            (!capabilities.is_empty()).then(|| Missing::of_caller(format!("needs {}", capabilities.join(", "))))
        };
        let mut missing = Vec::new();
        match hold {
            Hold::Frozen => {
                missing.extend(needs(frozen::missing_capabilities(statx)?));
                if *self.initial_user_namespace.get_or_init(kernel::initial_user_namespace) == Some(false) {
                    missing.push(Missing::of_caller("needs CAP_SYS_ADMIN in the initial user namespace"));
                }
            }
            Hold::Writable => {
                if filesystem.uuid.is_none() {
                    missing.push(Missing::of_system("the filesystem has no UUID, by which the guard identifies it"));
                }
                let privileged = may_load_programs()?;
                let parts = self.guard.get_or_init(writable::missing_parts);
                // Requirements that no privilege can meet come first, then what an administrator can grant to the
                // caller.
                let idle = parts.first().is_some_and(|missing| missing.part != Part::Permission);
                let capabilities = needs(writable::missing_capabilities()?);
                missing.extend(capabilities.clone().filter(|_| !idle));
                missing.extend(parts.iter().map(|part| Missing {
                    status: part.part.status(),
                    what: part.message.clone(),
                    errno: None,
                    caller_only: part.part == Part::Permission && !privileged,
                }));
                missing.extend(capabilities.filter(|_| idle));
            }
            Hold::None => match may_write(fd, statx) {
                Err(error) if matches!(error.errno, Some(Errno::EACCES | Errno::EPERM | Errno::EROFS)) => {
                    missing.push(Missing { errno: error.errno, ..Missing::of_caller("needs write access") });
                }
                answer => answer?,
            },
        }
        Ok(missing)
    }

    /// Returns the free space that this process may use on the filesystem of a file. The answer may be a moment old.
    ///
    /// # Errors
    /// An error of fstatvfs(2).
    pub fn free_bytes(&self, target: &Target) -> Result<u64> {
        let device = target.device();
        let read = || Ok((device, target.filesystem.free_bytes(target)?));
        self.free.get(|known| known.0 == device, read, |known| known.1)
    }

    /// Returns which quotas the filesystem of an open file, on this device, enforces.
    ///
    /// # Errors
    /// An error of quotactl_fd(2).
    pub fn quotas(&self, fd: impl AsFd, device: Device) -> Result<Vec<Type>> {
        let mut known = self.quotas.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, quotas)) = known.iter().find(|(known, _)| *known == device) {
            return Ok(quotas.clone());
        }
        let enforced = quota::state(fd)?.enforced;
        known.push((device, enforced.clone()));
        Ok(enforced)
    }
}

/// Whether a refusal to load the guard's programs would come from the machine, and not from a missing capability.
fn may_load_programs() -> Result<bool> {
    let needed = [Capability::CAP_SYS_ADMIN, Capability::CAP_BPF, Capability::CAP_PERFMON].map(|one| (one, true));
    Ok(missing_among(&needed)?.is_empty() || kernel::lockdown().as_deref() == Some("confidentiality"))
}

fn may_write(fd: impl AsFd, statx: &Statx) -> Result<()> {
    if u32::from(statx.mode) & S_IFMT == S_IFDIR {
        return faccessat(fd, ".", AccessFlags::W_OK, AtFlags::AT_EACCESS).call("faccessat");
    }
    faccessat(fd, "", AccessFlags::W_OK, AtFlags::AT_EACCESS | AtFlags::AT_EMPTY_PATH).call("faccessat")
}
