//! `verify`: compares the current map with the record, or with the output of `stat --json --extents`; names what moved.

use std::path::{Path, PathBuf};

use libdaxfile::Errno;

use super::each;
use super::judge::{open_for_writing, pinned_alike};
use crate::error::{Error, Result};
use crate::file::map;
use crate::file::open::Root;
use crate::file::target::Target;
use crate::hold;
use crate::needs::{Hold, Needs};
use crate::pin::drift::Comparison;
use crate::pin::manifest::{Entry, Manifest};
use crate::pin::record::{RecordedMap, Stored};
use crate::pin::state::State;
use crate::pin::survey::{self, Survey};
use crate::progress::{Progress, Unit};
use crate::report::{FileReport, Sink};
use crate::status::Status;

/// Compares each file with its own record. A missing file counts as drift. With `strict`, so do blocks shared since the
/// pin.
pub fn run(paths: &[PathBuf], strict: bool, progress: &dyn Progress, sink: &mut Sink<'_>) -> Status {
    each::in_parallel_with_errors(paths, progress, sink, move |target, report| {
        let target = match target {
            // The file should exist.
            Err(error) if gone(&error) => {
                report.mark_gone();
                return Ok(());
            }
            target => target?,
        };
        let mut survey = survey::of_opened(&target, Needs::default(), |_| ())?;
        hold::detect_writer(&target, &mut survey)?;
        report.describe(&target, &survey);
        judge(&target, &survey, strict, report)
    })
}

fn judge(target: &Target, survey: &Survey, strict: bool, report: &mut FileReport) -> Result<()> {
    report.add_drift(survey);
    survey.require_certainty()?;
    let say = match (&survey.state, &survey.stored) {
        (State::Pinned, _) => None,
        (State::Drifted | State::Unpinned, _) => Some(String::new()),
        (State::WriterInside, _) if survey.context.keeps_quotas => {
            Some("unchanged since the pin, but the kernel keeps disk quotas in it and writes to it".into())
        }
        (State::WriterInside, _) => Some(format!("unchanged since the pin, but {}", open_for_writing(target)?)),
        (State::NotHeld, _) => {
            Some("recorded, but not held: if it is unchanged, pin it again; otherwise unpin it first".into())
        }
        (State::ForeignRecord, Stored::Foreign(record)) => {
            report.notes.push(pinned_alike(record, target));
            Some("not pinned: its pin record belongs to another file".into())
        }
        (State::ForeignRecord, _) => Some("not pinned: its pin record belongs to another file".into()),
        (State::BadRecord, Stored::UnknownVersion(_, version)) => {
            return Err(Error::new(
                Status::Failed,
                format!("its pin record has version {version}: use a newer daxfile"),
            ));
        }
        (State::BadRecord, Stored::Bad(_, why)) => {
            return Err(Error::new(Status::Failed, format!("its pin record cannot be read: {why}")));
        }
        (State::BadRecord, _) => Some("its pin record cannot be read".into()),
    };
    if let Some(say) = say {
        report.notes.extend(Some(say).filter(|say: &String| !say.is_empty()));
        report.raise(Status::No);
    }
    // Under hold writable, shared blocks can be written, and the writes go elsewhere.
    let writable = matches!(&survey.stored, Stored::Own(record) if record.needs.hold == Hold::Writable);
    if report.note_shared() && (strict || writable) {
        report.raise(Status::No);
    }
    if let Stored::Own(record) = &survey.stored
        && record.uuid.is_some()
        && record.uuid != target.filesystem.uuid
    {
        report.notes.push("the filesystem's UUID has changed since the pin".into());
    }
    Ok(())
}

/// Compares files with a manifest: the named ones, or all in the manifest. An entry whose file is missing counts as
/// drift.
pub fn run_against(
    manifest: &Manifest,
    paths: &[PathBuf],
    root: Option<&Path>,
    progress: &dyn Progress,
    sink: &mut Sink<'_>,
) -> Status {
    let below = match root.map(|root| Root::open(root).map_err(|error| (root, error))).transpose() {
        Ok(below) => below,
        // No file could be looked for, so none is gone.
        Err((root, error)) => return each::emit(FileReport::failed(root, &error), sink),
    };
    let mut used = vec![false; manifest.entries().len()];
    let mut status = Status::Done;
    progress.begin((paths.len() + manifest.entries().len()) as u64, Unit::Files);
    for path in paths {
        let mut report = FileReport::new(path);
        let target = Target::open(path);
        let file = target.as_ref().ok().map(|target| (target.identity, target.filesystem.uuid));
        let index = manifest.find(file, path, root);
        match (index, target) {
            (Some(index), target) => {
                used[index] = true;
                compare(&manifest.entries()[index], target, &mut report);
            }
            (None, Err(error)) => report.fail(&error),
            (None, Ok(_)) => report.fail(&Error::new(Status::Failed, "the manifest has no entry for it")),
        }
        status = status.max(each::emit(report, sink));
        progress.advance(1);
    }
    for (entry, _) in manifest.entries().iter().zip(used).filter(|(_, used)| !used) {
        let path = entry.path_below(root);
        let mut report = FileReport::new(&path);
        let target = entry.require_below_root(root).and_then(|()| match &below {
            None => Target::open(&path),
            Some(root) => Target::open_below(root, &entry.path, &path),
        });
        if paths.is_empty() || matches!(&target, Err(error) if gone(error)) {
            compare(entry, target, &mut report);
            status = status.max(each::emit(report, sink));
        }
        progress.advance(1);
    }
    progress.end();
    status
}

/// Whether the file is gone: its name is missing, or a directory in the path is no longer one.
fn gone(error: &Error) -> bool {
    matches!(error.errno, Some(Errno::ENOENT | Errno::ENOTDIR))
}

fn compare(entry: &Entry, target: Result<Target>, report: &mut FileReport) {
    // Without a map nothing is known about the file, not even that it existed.
    let recorded = entry.map.as_ref().ok_or_else(|| {
        Error::new(Status::Failed, "the manifest has no extents for it: make it with stat --json --extents")
    });
    let compared = match (recorded, target) {
        (Err(error), _) => Err(error),
        (Ok(_), Err(error)) if gone(&error) => {
            report.notes.push("in the manifest, but the file does not exist".into());
            report.mark_gone();
            Ok(())
        }
        (Ok(_), Err(error)) => Err(error),
        (Ok(recorded), Ok(target)) => compare_with(entry, recorded, &target, report),
    };
    if let Err(error) = compared {
        report.fail(&error);
    }
}

fn compare_with(entry: &Entry, recorded: &RecordedMap, target: &Target, report: &mut FileReport) -> Result<()> {
    let mut comparison = Comparison::new(recorded, entry.size);
    let survey = survey::of_opened(target, Needs::default(), |run: &map::Run| comparison.push(run))?;
    report.describe(target, &survey);
    let drift = comparison.finish();
    report.add_changes(&drift);
    if !drift.changes.is_empty() {
        report.notes.push("the map differs from the manifest".into());
        report.raise(Status::No);
    }
    if entry.size != survey.inode.statx.size {
        report.notes.push(format!("{} bytes in the manifest, {} now", entry.size, survey.inode.statx.size));
        report.raise(Status::No);
    }
    Ok(())
}
