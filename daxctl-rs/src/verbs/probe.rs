//! `probe`: reports which holds work at a place, and what the others lack.

use std::fs::File;
use std::path::Path;

use libdaxfile::statx::{self, Statx};

use super::each;
use crate::error::Result;
use crate::file::open;
use crate::hold::Requirements;
use crate::needs::Hold;
use crate::report::{FileReport, FilesystemFacts, HoldFacts, ProbeFacts, Sink, format_uuid};
use crate::status::Status;
use crate::system::devices;
use crate::system::filesystem::Filesystem;
use crate::system::kernel::Host;
use crate::system::mounts::Mount;

/// Probes a directory or a regular file. Returns the status of `hold`, if one is given.
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
    each::emit(report, sink)
}

fn probe(path: &Path) -> Result<ProbeFacts> {
    let file = open::file_or_directory(path)?;
    let statx = statx::get(&file)?;
    let filesystem = Filesystem::of(&file)?;
    let host = Host::look()?;
    let holds = Hold::ALL.map(|hold| assess(hold, &file, &statx, &filesystem));
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

fn assess(hold: Hold, file: &File, statx: &Statx, filesystem: &Filesystem) -> Result<HoldFacts> {
    let missing = Requirements::default().missing(hold, file, statx, filesystem)?;
    let exit_status = missing.first().map_or(Status::Done, |missing| missing.status);
    let lacks: Vec<_> = missing.into_iter().map(|missing| missing.what).collect();
    Ok(HoldFacts { hold, exit_status, missing: lacks.first().cloned(), lacks })
}
