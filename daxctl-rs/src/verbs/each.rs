//! Does the same to every named file, and combines the statuses.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::error::{Error, Result};
use crate::file::opener::Opener;
use crate::file::target::Target;
use crate::progress::{Progress, Unit};
use crate::report::{FileReport, Sink};
use crate::status::Status;
use crate::system::processors;

/// Reports that threads collect before they wake the caller. More reports at a time make handing over cheaper; fewer take
/// less memory.
const TOGETHER: usize = 128;

/// Each thread hands over its reports at least this many times.
const HANDOVERS: usize = 4;

/// How far threads may work ahead of the first file whose report has not been passed on.
const AHEAD: usize = 8 * TOGETHER;

/// How long the reports on later files wait for an earlier file.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the caller looks for files that stall, and for an interrupt.
const TICK: Duration = Duration::from_millis(100);

/// How long files may take to finish after an interrupt.
const GRACE: Duration = Duration::from_millis(500);

/// Most threads, including those that a file stalls.
const THREADS: usize = 64;

/// Looks at every file, at several at a time. Only for work that takes no lock: a file may be named twice.
pub(super) fn in_parallel(
    paths: &[PathBuf],
    progress: &dyn Progress,
    sink: &mut Sink<'_>,
    look: impl Fn(&Target, &mut FileReport) -> Result<()> + Send + Sync + 'static,
) -> Status {
    in_parallel_with_errors(paths, progress, sink, move |target, report| look(&target?, report))
}

/// Like `in_parallel`, but calls `look` also for a file that cannot be opened, with the error.
pub(super) fn in_parallel_with_errors(
    paths: &[PathBuf],
    progress: &dyn Progress,
    sink: &mut Sink<'_>,
    look: impl Fn(Result<Target>, &mut FileReport) -> Result<()> + Send + Sync + 'static,
) -> Status {
    in_parallel_unopened(paths, progress, sink, move |open, report| look(open(), report))
}

/// Opens a file by its name.
type Open<'a> = dyn Fn() -> Result<Target> + 'a;

/// Like `in_parallel`, but gives `look` a function that opens the file, so that `look` decides whether to open it.
///
/// Reports are passed on in order. A file on a device or a server that does not answer stalls the thread that looks at
/// it, and the kernel may not let that thread end. After a while the reports on the other files no longer wait for it.
pub(super) fn in_parallel_unopened(
    paths: &[PathBuf],
    progress: &dyn Progress,
    sink: &mut Sink<'_>,
    look: impl Fn(&Open<'_>, &mut FileReport) -> Result<()> + Send + Sync + 'static,
) -> Status {
    progress.begin(paths.len() as u64, Unit::Files);
    let mut pass_on = |report| {
        progress.advance(1);
        emit(report, sink)
    };
    let status = match paths {
        [path] => pass_on(attempt(path, |report| look(&|| Target::open(path), report))),
        paths => Work::new(paths, look).run(&|| progress.interrupted(), &mut pass_on),
    };
    progress.end();
    status
}

/// Files that several threads look at.
struct Work<L> {
    paths: Vec<PathBuf>,
    look: L,
    together: usize,
    state: Mutex<State>,
    /// Signals reports, or the end of a thread.
    news: Condvar,
    /// Signals that a thread may look at more files, or should end.
    room: Condvar,
}

/// A file that a thread is looking at, and since when.
type Begun = (usize, Instant);

#[derive(Default)]
struct State {
    /// The next file to look at.
    next: usize,
    /// The first file that no thread may look at until more reports have been passed on.
    limit: usize,
    begun: Vec<Begun>,
    reports: Vec<(usize, thread::Result<FileReport>)>,
}

impl<L: Fn(&Open<'_>, &mut FileReport) -> Result<()> + Send + Sync + 'static> Work<L> {
    fn new(paths: &[PathBuf], look: L) -> Arc<Self> {
        Arc::new(Work {
            paths: paths.to_owned(),
            look,
            together: (paths.len() / (processors::count() * HANDOVERS)).clamp(1, TOGETHER),
            state: Mutex::new(State { limit: AHEAD, ..State::default() }),
            news: Condvar::new(),
            room: Condvar::new(),
        })
    }

    /// Looks at all files, and returns the largest status.
    fn run(self: Arc<Self>, interrupted: &dyn Fn() -> bool, pass_on: &mut dyn FnMut(FileReport) -> Status) -> Status {
        let mut status = Status::Done;
        let mut threads = 0;
        for _ in 0..processors::count().min(self.paths.len()) {
            threads += usize::from(self.start());
        }
        if threads == 0 {
            let error = no_thread();
            return self.paths.iter().map(|path| pass_on(FileReport::failed(path, &error))).max().unwrap_or_default();
        }
        // The files before this one have been passed on, or are late.
        let mut due = 0;
        let mut early = BTreeMap::new();
        let mut late = BTreeSet::new();
        while (due < self.paths.len() || !late.is_empty()) && !interrupted() {
            let (reports, begun) = self.wait();
            for (index, report) in reports {
                late.remove(&index);
                match index < due {
                    true => status = status.max(pass_on(report)),
                    false => drop(early.insert(index, report)),
                }
            }
            for (index, _) in begun.iter().filter(|(_, since)| since.elapsed() > PATIENCE) {
                if late.insert(*index) {
                    // Two threads take the place of the one that stalls, because the next files may stall as well.
                    for _ in 0..2 {
                        threads += usize::from(threads < THREADS && self.start());
                    }
                }
            }
            while due < self.paths.len() && !interrupted() {
                match early.remove(&due) {
                    Some(report) => status = status.max(pass_on(report)),
                    None if late.contains(&due) => {}
                    None => break,
                }
                due += 1;
            }
            self.lock().limit = due + AHEAD;
            self.room.notify_all();
        }
        let stalled = if interrupted() { self.stop() } else { Vec::new() };
        if !stalled.is_empty() {
            // These reports were ready, but waited for a file that stalls.
            early.extend(self.wait().0);
            for report in early.into_values().chain(stalled) {
                status = status.max(pass_on(report));
            }
        }
        status
    }

    /// Starts a thread. It is never joined, so that the caller can return while a file stalls it.
    fn start(self: &Arc<Self>) -> bool {
        let work = Arc::clone(self);
        thread::Builder::new().spawn(move || work.look_at_some()).is_ok()
    }

    fn look_at_some(&self) {
        let opener = Opener::new(self.paths.len());
        while let Some(index) = self.next() {
            let path = &self.paths[index];
            let look = || attempt(path, |report| (self.look)(&|| opener.open(path), report));
            let report = catch_unwind(AssertUnwindSafe(look));
            let mut state = self.lock();
            state.begun.retain(|(begun, _)| *begun != index);
            state.reports.push((index, report));
            if state.reports.len() >= self.together {
                self.news.notify_one();
            }
        }
        self.news.notify_one();
    }

    fn next(&self) -> Option<usize> {
        let mut state = self.lock();
        while state.next < self.paths.len() && state.next >= state.limit {
            // The caller may be asleep, because the threads have not collected enough reports.
            self.news.notify_one();
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let index = Some(state.next).filter(|index| *index < self.paths.len())?;
        state.next += 1;
        state.begun.push((index, Instant::now()));
        Some(index)
    }

    /// Waits for reports, and returns them and the files that threads are looking at.
    fn wait(&self) -> (Vec<(usize, FileReport)>, Vec<Begun>) {
        let state = self.lock();
        let too_few = |state: &mut State| {
            let over = state.next >= self.paths.len() && state.begun.is_empty();
            state.reports.len() < self.together && !over
        };
        let waited = self.news.wait_timeout_while(state, TICK, too_few);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let reports = std::mem::take(&mut state.reports);
        let begun = state.begun.clone();
        drop(state);
        let or_panic =
            |(index, report): (usize, thread::Result<_>)| (index, report.unwrap_or_else(|panic| resume_unwind(panic)));
        (reports.into_iter().map(or_panic).collect(), begun)
    }

    /// Lets the threads finish what they have begun, and returns reports on files that stall them.
    fn stop(&self) -> Vec<FileReport> {
        let mut state = self.lock();
        state.next = self.paths.len();
        self.room.notify_all();
        let end = Instant::now() + GRACE;
        while !state.begun.is_empty() && Instant::now() < end {
            let waited = self.news.wait_timeout(state, TICK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut stalled = state.begun.clone();
        // A file that a thread began only a moment ago has not stalled: the process ends before it is done.
        stalled.retain(|(_, since)| since.elapsed() > 2 * GRACE);
        stalled.sort_unstable();
        let report = |(index, since): Begun| {
            let waited = since.elapsed().as_secs();
            let why = "it is large, or its device or server does not answer";
            let error = Error::new(Status::Failed, format!("interrupted after {waited} s: {why}"));
            FileReport::failed(&self.paths[index], &error)
        };
        stalled.into_iter().map(report).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does the same to every file, one after the other. A failure does not prevent work on the others.
pub(super) fn in_sequence(
    paths: &[PathBuf],
    progress: &dyn Progress,
    sink: &mut Sink<'_>,
    act: impl Fn(&Target, &mut FileReport) -> Result<()>,
) -> Status {
    let mut status = Status::Done;
    progress.begin(paths.len() as u64, Unit::Files);
    for path in paths.iter().take_while(|_| !progress.interrupted()) {
        let report = report_on(path, |target, report| act(&target, report));
        progress.advance(1);
        status = status.max(emit(report, sink));
    }
    progress.end();
    status
}

/// Files of the first batch; each later batch is twice as large, up to the limit. Small, so that the first reports appear
/// soon. An interrupt rolls back no more than the batch in progress.
const FIRST_BATCH: usize = 128;

/// Maximum number of files to change together: larger batches hardly save waits for the device.
pub(super) const LARGEST_BATCH: usize = 1024;

/// Descriptors that each of these files keeps open: the file, and two locks.
const DESCRIPTORS: u64 = 3;

/// Descriptors to leave for all else.
const OTHER_DESCRIPTORS: u64 = 128;

/// Raises the limit of open files as far as this process may, and returns it.
pub(super) fn allow_many_descriptors() -> u64 {
    /// The usual limit of a process.
    const USUAL: u64 = 1024;
    let Ok((now, most)) = getrlimit(Resource::RLIMIT_NOFILE) else { return USUAL };
    if setrlimit(Resource::RLIMIT_NOFILE, most, most).is_ok() { most } else { now }
}

/// Changes files in batches of at most `most` files. `act` receives the next files, at least one. It may stop
/// early: it returns a report for each file that it has done, in order, and receives the rest again.
pub(super) fn in_batches(
    paths: &[PathBuf],
    most: usize,
    progress: &dyn Progress,
    sink: &mut Sink<'_>,
    mut act: impl FnMut(&[PathBuf]) -> Vec<FileReport>,
) -> Status {
    let limit = allow_many_descriptors().saturating_sub(OTHER_DESCRIPTORS) / DESCRIPTORS;
    let most = most.min(usize::try_from(limit).unwrap_or(usize::MAX)).max(1);
    let mut size = FIRST_BATCH.min(most);
    let mut status = Status::Done;
    let mut rest = paths;
    progress.begin(paths.len() as u64, Unit::Files);
    while !rest.is_empty() && !progress.interrupted() {
        let batch = act(&rest[..rest.len().min(size)]);
        rest = &rest[batch.len()..];
        size = (2 * size).min(most);
        progress.advance(batch.len() as u64);
        status = batch.into_iter().fold(status, |status, report| status.max(emit(report, sink)));
    }
    progress.end();
    status
}

/// Opens the files up to the first one that is named a second time, and calls `act` on each, on all processors, until the
/// user interrupts. Returns their reports, and the work that `act` leaves for the whole batch, with the index of each
/// file's report.
pub(super) fn open_batch<T: Send>(
    paths: &[PathBuf],
    progress: &dyn Progress,
    act: impl Fn(Target, &mut FileReport) -> Result<Option<T>> + Sync,
) -> (Vec<FileReport>, Vec<(usize, T)>) {
    let opener = Opener::new(paths.len());
    let mut named = BTreeSet::new();
    // If a file is named twice, the second name waits for the next batch, because this batch locks the file.
    let mut is_new = |opened: &Result<Target>| match opened {
        Ok(target) => named.insert((target.device(), target.identity)),
        Err(_) => true,
    };
    let opened = paths.iter().map(|path| (path, opener.open(path))).take_while(|(_, opened)| is_new(opened)).collect();
    let done = processors::share(opened, |(path, opened): (&PathBuf, _)| {
        if progress.interrupted() {
            return None;
        }
        let mut left = None;
        let report = report(path, opened, |target, report| {
            left = act(target, report)?;
            Ok(())
        });
        Some((report, left))
    });
    let (reports, left): (Vec<_>, Vec<_>) = done.into_iter().flatten().unzip();
    (reports, left.into_iter().enumerate().filter_map(|(index, left)| Some((index, left?))).collect())
}

/// The error when the kernel refuses to start a thread.
pub(super) fn no_thread() -> Error {
    Error::new(Status::Failed, "no thread could be started")
}

/// Passes on a report, and returns its status.
pub(super) fn emit(report: FileReport, sink: &mut Sink<'_>) -> Status {
    let status = report.exit_status;
    sink(report);
    status
}

pub(super) fn report_on(path: &Path, act: impl FnOnce(Target, &mut FileReport) -> Result<()>) -> FileReport {
    report(path, Target::open(path), act)
}

pub(super) fn report(
    path: &Path,
    target: Result<Target>,
    act: impl FnOnce(Target, &mut FileReport) -> Result<()>,
) -> FileReport {
    attempt(path, |report| act(target?, report))
}

fn attempt(path: &Path, act: impl FnOnce(&mut FileReport) -> Result<()>) -> FileReport {
    let mut report = FileReport::new(path);
    if let Err(error) = act(&mut report) {
        report.fail(&error);
    }
    report
}
