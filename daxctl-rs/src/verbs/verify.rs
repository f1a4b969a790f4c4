//! `verify`: compares the current map with the record, or with the output of `stat --json --extents`; names what moved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use libdaxfile::Errno;

use super::each;
use super::judge::{note_pin_alike, open_for_writing};
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
use crate::progress::Progress;
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
        let mut survey = survey::with_writers(&target, Needs::default(), |_| ())?;
        hold::detect_writer(&mut survey)?;
        report.describe(&target, &survey);
        judge(&target, &survey, strict, report)
    })
}

fn judge(target: &Target, survey: &Survey, strict: bool, report: &mut FileReport) -> Result<()> {
    if let Some(why) = target.filesystem.elsewhere() {
        return Err(Error::new(Status::Unable, why));
    }
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
        (State::ForeignRecord, stored) => {
            note_pin_alike(stored, target, report);
            Some("not pinned: its pin record belongs to another file".into())
        }
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
    manifest: Manifest,
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
    let used = Mutex::new(vec![false; manifest.entries().len()]);
    let against = Arc::new(Against { manifest, root: root.map(Path::to_owned), below, used });
    let mut status = Status::Done;
    if !paths.is_empty() {
        let against = Arc::clone(&against);
        status = each::in_parallel_with_errors(paths, progress, sink, move |target, report| {
            against.compare_named(target, report)
        });
    }
    let only_gone = !paths.is_empty();
    let mut rest = BTreeMap::<PathBuf, Vec<usize>>::new();
    let mut unnamed = Vec::new();
    for (index, entry) in against.manifest.entries().iter().enumerate() {
        if !against.used.lock().unwrap_or_else(PoisonError::into_inner)[index] {
            let path = entry.path_below(root);
            rest.entry(path.clone()).or_default().insert(0, index);
            unnamed.push(path);
        }
    }
    if unnamed.is_empty() {
        return status;
    }
    let rest = Mutex::new(rest);
    // Of files that the user did not name, only those that are gone concern the user.
    let mut pass_on = |report: FileReport| {
        if !only_gone || report.gone {
            sink(report);
        }
    };
    status.max(each::in_parallel_unopened(&unnamed, progress, &mut pass_on, move |open, report| {
        // A path that several entries have is there as often.
        let index = rest.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&report.path).and_then(Vec::pop);
        let Some(index) = index else { return Ok(()) };
        match against.open(index, &report.path, open) {
            Ok(_) if only_gone => Ok(()),
            Err(error) if only_gone && !gone(&error) => Ok(()),
            target => compare(&against.manifest.entries()[index], target, report),
        }
    }))
}

/// A manifest, and where its files are.
struct Against {
    manifest: Manifest,
    root: Option<PathBuf>,
    below: Option<Root>,
    /// Which entries belong to files that the user named.
    used: Mutex<Vec<bool>>,
}

impl Against {
    /// Compares a file that the user named with its entry.
    fn compare_named(&self, target: Result<Target>, report: &mut FileReport) -> Result<()> {
        let file = target.as_ref().ok().map(|target| (target.identity, target.filesystem.uuid));
        match (self.manifest.find(file, &report.path, self.root.as_deref()), target) {
            (Some(index), target) => {
                self.used.lock().unwrap_or_else(PoisonError::into_inner)[index] = true;
                compare(&self.manifest.entries()[index], target, report)
            }
            (None, Err(error)) => Err(error),
            (None, Ok(_)) => Err(Error::new(Status::Failed, "the manifest has no entry for it")),
        }
    }

    /// Opens the file of an entry.
    fn open(&self, index: usize, path: &Path, open: &dyn Fn() -> Result<Target>) -> Result<Target> {
        let entry = &self.manifest.entries()[index];
        match &self.below {
            None => open(),
            Some(root) => {
                entry.require_below_root(self.root.as_deref())?;
                Target::open_below(root, &entry.path, path)
            }
        }
    }
}

/// Whether the file is gone: its name is missing, or a directory in the path is no longer one.
fn gone(error: &Error) -> bool {
    matches!(error.errno, Some(Errno::ENOENT | Errno::ENOTDIR))
}

fn compare(entry: &Entry, target: Result<Target>, report: &mut FileReport) -> Result<()> {
    // Without a map nothing is known about the file, not even that it existed.
    let recorded = entry.map.as_ref().ok_or_else(|| {
        Error::new(Status::Failed, "the manifest has no extents for it: make it with stat --json --extents")
    })?;
    match target {
        Err(error) if gone(&error) => {
            report.notes.push("in the manifest, but the file does not exist".into());
            report.mark_gone();
            Ok(())
        }
        target => compare_with(entry, recorded, &target?, report),
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
