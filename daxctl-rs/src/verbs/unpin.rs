//! `unpin`: ends the hold, removes the record, and gives back the flags as they were.

use std::path::PathBuf;

use libdaxfile::{Errno, xattr};

use crate::error::{Error, Result};
use crate::hold::{self, frozen};
use crate::needs::Hold;
use crate::progress::Progress;
use crate::record::{self, Stored};
use crate::report::{Action, FileReport, Report, Status};
use crate::target::Target;

/// Unpins each file; one that is not pinned stays as it is.
pub fn run(paths: &[PathBuf], dry_run: bool, progress: &dyn Progress) -> Report {
    Report::new(super::each(paths, progress, |target, report| unpin(target, dry_run, report)))
}

fn unpin(target: &Target, dry_run: bool, report: &mut FileReport) -> Result<()> {
    let _lock = target.lock()?;
    let stored = record::load(target)?;
    let immutable = target.inode_state()?.immutable();
    let strange = match &stored {
        Stored::Absent => {
            if immutable {
                report.notes.push("immutable, but not by a pin: left so".into());
            }
            report.action = Some(Action::AlreadyUnpinned);
            return Ok(());
        }
        Stored::UnknownVersion(_, version) => {
            return Err(Error::new(
                Status::Failed,
                format!("its pin record is of version {version}, and left alone: use a newer daxfile"),
            ));
        }
        Stored::Own(_) => None,
        Stored::Foreign(_) => Some("another file's pin record"),
        Stored::Bad(..) => Some("an unreadable pin record"),
    };
    if let Some(what) = strange {
        report.notes.push(format!("has {what}: no flag is touched"));
        if immutable {
            return Err(Error::new(
                Status::No,
                format!("{what} on an immutable file: chattr -i first, if it is not pinned"),
            ));
        }
    }
    if dry_run {
        rehearse(target, &stored)?;
        report.action = Some(Action::WouldUnpin);
        return Ok(());
    }
    match (&stored, stored.attribute()) {
        (Stored::Own(record), _) => hold::release(target, record),
        (_, Some(attribute)) => xattr::remove(target, attribute).map_err(Error::from).and_then(|()| target.fsync()),
        (_, None) => Ok(()),
    }
    .map_err(|error| match (error.call, error.errno) {
        (Some("fremovexattr"), Some(Errno::EPERM | Errno::EACCES)) => {
            error.because("needs CAP_SYS_ADMIN, or write access where the hold is none")
        }
        _ => error,
    })?;
    report.action = Some(Action::Unpinned);
    Ok(())
}

/// Finds, without touching the file, what would keep its pin from being ended.
fn rehearse(target: &Target, stored: &Stored) -> Result<()> {
    if target.filesystem.read_only {
        return Err(Error::call("fremovexattr", Errno::EROFS));
    }
    if stored.attribute() == Some(record::attribute(Hold::None)) {
        return target.require_write_access();
    }
    let missing = frozen::missing_for_thawing(&target.statx()?)?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(Status::NotPermitted, format!("to end hold frozen needs {}", missing.join(", "))))
}
