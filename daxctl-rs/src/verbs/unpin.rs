//! `unpin`: ends the hold, removes the record, and restores the flags.

use std::path::PathBuf;

use libdaxfile::Errno;
use libdaxfile::fsxattr::Xflags;

use super::{each, judge};
use crate::error::{Error, Result};
use crate::file::target::Target;
use crate::hold::{self, writable};
use crate::name;
use crate::needs::Hold;
use crate::pin::guarded;
use crate::pin::record::{self, Stored, attribute};
use crate::progress::Progress;
use crate::report::{Action, FileReport, Sink};
use crate::status::Status;
use crate::system::locks::Locks;

/// Unpins each file; leaves a file that is not pinned unchanged.
pub fn run(paths: &[PathBuf], dry_run: bool, progress: &dyn Progress, sink: &mut Sink<'_>) -> Status {
    each::in_batches(paths, each::LARGEST_BATCH, progress, sink, |paths| unpin_batch(paths, dry_run, progress))
}

/// Unpins the first few of the files, at least one, and reports on these.
fn unpin_batch(paths: &[PathBuf], dry_run: bool, progress: &dyn Progress) -> Vec<FileReport> {
    let locks = Locks::default();
    let (mut reports, ended) = each::open_batch(paths, progress, |target, report| {
        if let Some(why) = target.filesystem.elsewhere() {
            let name = target.filesystem.name();
            return Err(Error::new(Status::Unable, format!("no file can be pinned on {name}: {why}")));
        }
        let lock = target.lock_with(&locks)?;
        target.require_named("that file is unchanged")?;
        let action = unpin(&target, dry_run, report)?;
        // If nothing can be written, nothing needs to become durable.
        if dry_run || target.filesystem.read_only {
            report.action = Some(action);
            return Ok(None);
        }
        Ok(Some((target, lock, action)))
    });
    // Include files that were unpinned before: the process that unpinned them may not have reached its fsync.
    let targets: Vec<&Target> = ended.iter().map(|(_, (target, ..))| target).collect();
    for ((index, (.., action)), synced) in ended.iter().zip(hold::sync(&targets)) {
        match synced {
            Ok(()) => reports[*index].action = Some(*action),
            // A filesystem that writes to no disk, such as procfs.
            Err(error) if *action == Action::AlreadyUnpinned && error.errno == Some(Errno::EINVAL) => {
                reports[*index].action = Some(*action);
            }
            Err(error) => {
                reports[*index].fail(&error.because("unpinned, but a crash may pin it again: unpin once more"));
            }
        }
    }
    reports
}

/// Ends the pin. Durable after the next fsync.
fn unpin(target: &Target, dry_run: bool, report: &mut FileReport) -> Result<Action> {
    let ended = if dry_run { Action::WouldUnpin } else { Action::Unpinned };
    let mut action = Action::AlreadyUnpinned;
    // Behind the enforced record there may be another one, which would become visible.
    for hold in [Hold::Frozen, Hold::None] {
        let stored = record::load_for(target, hold)?;
        if stored == Stored::Absent || action == Action::WouldUnpin {
            continue;
        }
        end(target, hold, &stored, action == ended, dry_run, report)?;
        action = ended;
    }
    // The file's record does not show whether the guard has the file.
    if action != Action::WouldUnpin && guarded::is_listed(target)? {
        report.notes.push(guarded::UNRECORDED.into());
        if !dry_run {
            writable::release(target)?;
        }
        action = ended;
    }
    if action == Action::AlreadyUnpinned && target.inode_state()?.immutable() {
        report.notes.push("immutable, but not by a pin: left unchanged".into());
    }
    Ok(action)
}

/// Ends the pin that one record describes; `second` says that another one has been ended before.
fn end(
    target: &Target,
    hold: Hold,
    stored: &Stored,
    second: bool,
    dry_run: bool,
    report: &mut FileReport,
) -> Result<()> {
    let strange = match stored {
        Stored::UnknownVersion(_, version) => {
            return Err(Error::new(
                Status::Failed,
                format!("its pin record has version {version} and is left alone: use a newer daxfile"),
            ));
        }
        Stored::Own(_) | Stored::Absent => None,
        Stored::Foreign(record) => Some(judge::foreign(record)),
        Stored::Bad(..) => Some("an unreadable pin record".into()),
    };
    if let Some(what) = strange {
        if target.inode_state()?.immutable() {
            let file = name::for_shell(&target.path);
            return Err(Error::new(
                Status::No,
                format!(
                    "immutable, with {what}, like a copy of a pinned file that bsdtar, borg, xfsrestore or restore made; \
                     to end both: chattr -i {file} && daxfile unpin {file}"
                ),
            ));
        }
        report.notes.push(match second {
            true => format!("had {what} as well, which is removed"),
            false => format!("has {what}: its flags are left alone"),
        });
        judge::note_pin_alike(stored, target, report);
    }
    // The attribute of one enforced hold may contain the record of another.
    let hold = match stored {
        Stored::Own(record) => record.needs.hold,
        _ => hold,
    };
    // Of the flags that forbid the change, unpin clears only the hold's own.
    let flags = target.inode_state()?.xflags();
    let chattr = match hold {
        // Under IMMUTABLE, ext4 refuses a change of any other flag.
        Hold::Frozen if flags.contains(Xflags::APPEND) => Some(("append-only", "chattr -ia")),
        _ if flags.contains(Xflags::APPEND) => Some(("append-only", "chattr -a")),
        Hold::None | Hold::Writable if flags.contains(Xflags::IMMUTABLE) => {
            Some(("immutable, but not by its pin", "chattr -i"))
        }
        _ => None,
    };
    if let Some((what, command)) = chattr {
        return Err(Error::new(Status::No, format!("{what}: {command} first")));
    }
    if dry_run {
        return rehearse(target, stored);
    }
    if hold != Hold::None && matches!(stored, Stored::Own(_)) {
        // A failure halfway would have lifted the hold for a moment.
        rehearse(target, stored)?;
    }
    match stored {
        Stored::Own(record) => hold::release(target, record),
        _ => hold::remove_record(target, hold).and_then(|()| target.fsync()),
    }
}

/// Checks, without touching the file, whether its pin could be ended.
fn rehearse(target: &Target, stored: &Stored) -> Result<()> {
    if target.filesystem.read_only {
        return Err(
            Error::from_errno(Errno::EROFS).because("its record cannot be removed; remount the filesystem read-write")
        );
    }
    if stored.attribute() == Some(attribute(Hold::None)) {
        return target.require_write_access();
    }
    let (what, added) = match stored {
        Stored::Own(record) => (format!("ending hold {}", record.needs.hold.name()), record.added),
        _ => ("removing the record".into(), Xflags::empty()),
    };
    let missing = hold::missing_for_release(added, &target.inode_state()?)?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(Status::NotPermitted, format!("{what} needs {}", missing.join(", "))))
}
