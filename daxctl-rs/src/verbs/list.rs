//! `list`: finds the pinned files on a filesystem or below a directory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use libdaxfile::Errno;

use super::each;
use crate::error::{Error, Result};
use crate::file::target::Target;
use crate::hold::writable;
use crate::needs::{Hold, Needs};
use crate::pin::guarded;
use crate::pin::record::Stored;
use crate::pin::search::SearchRoot;
use crate::pin::state::State;
use crate::pin::survey;
use crate::progress::{Progress, Unit};
use crate::report::{FileReport, Sink};
use crate::status::Status;

/// How often to check for an interrupt while the search finds nothing.
const PATIENCE: Duration = Duration::from_millis(100);

/// Most reports that wait to be printed.
const WAITING: usize = 256;

/// Which files to show; an empty list means all.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Files with one of these holds.
    pub holds: Vec<Hold>,
    /// Files in one of these states.
    pub states: Vec<State>,
}

impl Options {
    fn shows(&self, hold: Option<Hold>, state: State) -> bool {
        (self.holds.is_empty() || hold.is_some_and(|hold| self.holds.contains(&hold)))
            && (self.states.is_empty() || self.states.contains(&state))
    }
}

/// Shows the pinned files below each directory, in the order in which the search finds them, each by one of its names.
/// Without a directory, shows those on the filesystem of the current directory. Changes nothing, but the kernel writes
/// back dirty pages of these files.
pub fn run(paths: &[PathBuf], options: &Options, progress: &dyn Progress, sink: &mut Sink<'_>) -> Status {
    // The walk keeps directories open while it reads those below. A walk of a shallow tree works without a higher limit.
    each::allow_many_descriptors();
    progress.begin(0, Unit::Found);
    let mut status = Status::Done;
    if paths.is_empty() {
        status = match SearchRoot::here() {
            Ok(root) => search_below(&root, options, progress, sink),
            Err(error) => each::emit(FileReport::failed(Path::new("."), &error), sink),
        };
    }
    for path in paths.iter().take_while(|_| !progress.interrupted()) {
        let listed = match SearchRoot::open(path) {
            Ok(root) => search_below(&root, options, progress, sink),
            Err(Error { errno: Some(Errno::ENOTDIR), .. }) => {
                list_file(path, options).map_or(Status::Done, |report| each::emit(report, sink))
            }
            Err(error) => each::emit(FileReport::failed(path, &error), sink),
        };
        status = status.max(listed);
    }
    progress.end();
    status
}

fn list_file(path: &Path, options: &Options) -> Option<FileReport> {
    match Target::open(path) {
        Ok(target) => look(path, &target, options),
        Err(error) => Some(FileReport::failed(path, &error)),
    }
}

fn search_below(root: &SearchRoot, options: &Options, progress: &dyn Progress, sink: &mut Sink<'_>) -> Status {
    let guarded = writable::inodes(root.filesystem.uuid);
    let mut status = Status::Done;
    if let Err(error) = &guarded {
        let mut report = FileReport::new(root.path());
        report.notes.push(format!("files that the guard holds without a record cannot be found: {error}"));
        status = status.max(each::emit(report, sink));
    }
    let guarded = guarded.unwrap_or_default();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(WAITING);
        let (guarded, stop) = (&guarded, &stop);
        let search = move || {
            root.search(guarded, stop, &|path, target| {
                let report = match target {
                    Ok(target) => look(path, &target, options),
                    Err(error) => Some(FileReport::failed(path, &error)),
                };
                if let Some(report) = report
                    && sender.send(report).is_err()
                {
                    stop.store(true, Ordering::Relaxed);
                }
            });
        };
        if thread::Builder::new().spawn_scoped(scope, search).is_err() {
            status = status.max(each::emit(FileReport::failed(root.path(), &each::no_thread()), sink));
        }
        loop {
            match receiver.recv_timeout(PATIENCE) {
                Ok(report) => {
                    progress.advance(1);
                    status = status.max(each::emit(report, sink));
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if progress.interrupted() {
                stop.store(true, Ordering::Relaxed);
                break;
            }
        }
    });
    status
}

/// Returns the report on a file; `None` if it is not pinned, or the options exclude it.
fn look(path: &Path, target: &Target, options: &Options) -> Option<FileReport> {
    let mut report = FileReport::new(path);
    match look_at(target, options, &mut report) {
        Ok(true) => {}
        Ok(false) => return None,
        Err(error) => report.fail(&error),
    }
    Some(report)
}

fn look_at(target: &Target, options: &Options, report: &mut FileReport) -> Result<bool> {
    let survey = survey::of_opened(target, Needs::default(), |_| ())?;
    let hold = match &survey.stored {
        Stored::Own(record) => Some(record.needs.hold),
        Stored::Absent if guarded::is_listed(target)? => {
            report.notes.push(guarded::UNRECORDED.into());
            Some(Hold::Writable)
        }
        Stored::Absent => return Ok(false),
        _ => None,
    };
    report.describe(target, &survey);
    report.add_drift(&survey);
    Ok(options.shows(hold, survey.state))
}
