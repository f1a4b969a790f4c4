//! `probe`: which holds can be had at a place, and what each other one lacks.

use std::fs::File;
use std::path::Path;

use libdaxfile::statx::{self, S_IFDIR, S_IFMT, Statx};
use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat};

use super::each;
use crate::error::{Named, Result};
use crate::file::open;
use crate::hold::{frozen, writable};
use crate::needs::Hold;
use crate::report::{FileReport, FilesystemFacts, HoldFacts, ProbeFacts, Sink, format_uuid};
use crate::status::Status;
use crate::system::devices;
use crate::system::filesystem::Filesystem;
use crate::system::kernel::Host;
use crate::system::mounts::Mount;

/// Looks at a directory, or at a regular file. The status is that of `hold`, if one is asked about.
pub fn run(path: &Path, hold: Option<Hold>, sink: &mut Sink<'_>) -> Status {
    let mut report = FileReport::new(path);
    match probe(path) {
        Ok(facts) => {
            let asked = facts.holds.iter().find(|facts| Some(facts.hold) == hold);
            report.raise(asked.map_or(Status::Done, |facts| facts.exit_status));
            report.probe = Some(facts);
        }
        Err(error) => report.fail(&error),
    }
    each::tell(report, sink)
}

fn probe(path: &Path) -> Result<ProbeFacts> {
    let file = open::either(path)?;
    let statx = statx::get(&file)?;
    let filesystem = Filesystem::of(&file)?;
    let host = Host::look()?;
    let holds = Hold::ALL.map(|hold| assess(hold, &file, &statx, &filesystem, &host));
    let holds = holds.into_iter().collect::<Result<_>>()?;
    Ok(ProbeFacts {
        filesystem: FilesystemFacts {
            name: filesystem.name(),
            uuid: filesystem.uuid.map(format_uuid),
            block_size: filesystem.block_size,
            features: filesystem.features(),
            mount: Mount::of(&file)?,
        },
        devices: devices::layers(statx.device),
        host,
        holds,
    })
}

fn assess(hold: Hold, file: &File, statx: &Statx, filesystem: &Filesystem, host: &Host) -> Result<HoldFacts> {
    let lacks = lacks(hold, file, statx, filesystem, host)?;
    let exit_status = lacks.first().map_or(Status::Done, |(status, _)| *status);
    let lacks: Vec<_> = lacks.into_iter().map(|(_, lack)| lack).collect();
    Ok(HoldFacts { hold, exit_status, missing: lacks.first().cloned(), lacks })
}

/// What a pin would end with, and why; the first is what decides. Where one makes it idle to ask for more, it is the last.
fn lacks(
    hold: Hold,
    file: &File,
    statx: &Statx,
    filesystem: &Filesystem,
    host: &Host,
) -> Result<Vec<(Status, String)>> {
    if let Some(why) = filesystem.refusal(hold) {
        return Ok(vec![(Status::Unable, why.into())]);
    }
    if filesystem.read_only {
        return Ok(vec![(Status::Unable, "mounted read-only".into())]);
    }
    let needs = |missing: Vec<String>| {
        (!missing.is_empty()).then(|| (Status::NotPermitted, format!("needs {}", missing.join(", "))))
    };
    let mut lacks = Vec::new();
    match hold {
        Hold::Frozen => {
            lacks.extend(needs(frozen::missing_capabilities(statx)?));
            if host.initial_user_namespace == Some(false) {
                lacks.push((Status::NotPermitted, "needs CAP_SYS_ADMIN outside of any user namespace".into()));
            }
        }
        Hold::Writable => {
            if filesystem.uuid.is_none() {
                lacks.push((Status::Unable, "the filesystem has no UUID for the guard to know it by".into()));
            }
            lacks.extend(writable::lacks().into_iter().map(|lack| (lack.part.status(), lack.message)));
            lacks.extend(needs(writable::missing_capabilities()?));
        }
        Hold::None => {
            if let Err(error) = may_write(file, statx) {
                lacks.push((error.status, "needs write access".into()));
            }
        }
    }
    Ok(lacks)
}

fn may_write(file: &File, statx: &Statx) -> Result<()> {
    if u32::from(statx.mode) & S_IFMT == S_IFDIR {
        return faccessat(file, ".", AccessFlags::W_OK, AtFlags::AT_EACCESS).named("faccessat");
    }
    faccessat(file, "", AccessFlags::W_OK, AtFlags::AT_EACCESS | AtFlags::AT_EMPTY_PATH).named("faccessat")
}
