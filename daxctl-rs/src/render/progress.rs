//! Progress on a terminal, and signals.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, close, getpid, getppid};

use daxfile::progress::{Progress, Unit};
use daxfile::status::Status;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Show nothing for work that ends sooner.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often to redraw the elapsed time.
const TICK: Duration = Duration::from_millis(250);

/// How long work that changes nothing may take to end after a signal.
const GRACE: Duration = Duration::from_secs(2);

/// Shows progress on a terminal, and remembers signals.
pub(crate) struct Meter {
    visible: bool,
    shown: Mutex<Option<Shown>>,
    signal: Arc<AtomicUsize>,
    stopped: AtomicBool,
}

/// A bar, and the thread that makes it visible if the work takes long.
struct Shown {
    bar: ProgressBar,
    over: Sender<()>,
    waiting: Option<JoinHandle<()>>,
}

impl Meter {
    pub(crate) fn new(wanted: bool) -> Self {
        Meter {
            visible: wanted && std::io::stderr().is_terminal(),
            shown: Mutex::new(None),
            signal: Arc::new(AtomicUsize::new(0)),
            stopped: AtomicBool::new(false),
        }
    }

    /// From now on signals interrupt the work instead of killing the program in the middle. Signals that the program
    /// inherited as ignored, from nohup(1) or a shell without job control, stay ignored.
    pub(crate) fn catch_signals(&self) -> std::io::Result<()> {
        for signal in heeded_signals() {
            let number = usize::try_from(signal).unwrap_or_default();
            signal_hook::flag::register_usize(signal, Arc::clone(&self.signal), number)?;
        }
        Ok(())
    }

    /// Lets a child process do the rest of the work, if there can be one: the program ends soon after a signal, even if a
    /// device hangs and the kernel cannot end the child. Returns in the process that does the work.
    pub(crate) fn work_in_child() {
        let parent = getpid();
        match libdaxfile::process::fork() {
            Ok(Some(child)) => std::process::exit(await_end(child)),
            Ok(None) => stay_with(parent),
            Err(_) => {}
        }
    }

    /// Like `catch_signals`, for work that leaves nothing behind. This work ends even if it does not stop soon: a
    /// device may hang.
    pub(crate) fn catch_signals_briefly(&self) -> std::io::Result<()> {
        let mut signals = Signals::new(heeded_signals())?;
        let seen = Arc::clone(&self.signal);
        let wait = move || {
            if let Some(signal) = signals.forever().next() {
                seen.store(usize::try_from(signal).unwrap_or_default(), Ordering::Relaxed);
                thread::sleep(GRACE);
                die_of(signal);
            }
        };
        thread::Builder::new().spawn(wait).map(drop)
    }

    /// Prints something while the bar is hidden.
    pub(crate) fn suspend(&self, print: impl FnOnce()) {
        match &*self.shown() {
            Some(shown) => shown.bar.suspend(print),
            None => print(),
        }
    }

    fn shown(&self) -> MutexGuard<'_, Option<Shown>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the work as a signal would.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// The signal received, if any.
    pub(crate) fn signal(&self) -> Option<i32> {
        i32::try_from(self.signal.load(Ordering::Relaxed)).ok().filter(|&signal| signal != 0)
    }
}

/// Makes a write beyond the limit of file sizes (`ulimit -f`) fail with EFBIG. By default it kills the process.
pub(crate) fn survive_file_size_limit() {
    // Without a handler, the program would end as it does now.
    let _ = signal_hook::flag::register(libc::SIGXFSZ, Arc::default());
}

/// Ends the process by a signal, as its sender expects. The output is closed first: its reader should not wait for a
/// thread that the kernel cannot end.
pub(crate) fn die_of(signal: i32) {
    for descriptor in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        let _ = close(descriptor);
    }
    let _ = signal_hook::low_level::emulate_default_handler(signal);
}

/// Waits for the child's end, passes signals on to it, and ends like the child. After a signal, does not wait long.
fn await_end(child: Pid) -> i32 {
    if let Ok(mut signals) = Signals::new(heeded_signals()) {
        let pass_on = move || {
            if let Some(signal) = signals.forever().next() {
                let _ = kill(child, Signal::try_from(signal).ok());
                // The child ends first, if it can.
                thread::sleep(GRACE + GRACE / 2);
                die_of(signal);
            }
        };
        let _ = thread::Builder::new().spawn(pass_on);
    }
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, status)) => return status,
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                let signal = signal as i32;
                die_of(signal);
                return 128 + signal;
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return Status::Failed as i32,
        }
    }
}

/// Makes the child end when its parent does.
fn stay_with(parent: Pid) {
    let _ = set_pdeathsig(Signal::SIGKILL);
    // The parent may have ended before.
    if getppid() != parent {
        std::process::exit(Status::Failed as i32);
    }
}

fn heeded_signals() -> impl Iterator<Item = i32> {
    let ignored = ignored_signals();
    [SIGINT, SIGTERM, SIGHUP].into_iter().filter(move |signal| ignored >> (signal - 1) & 1 == 0)
}

/// The ignored signals, as proc_pid_status(5) reports them; sigaction(2) would need `unsafe`.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

impl Progress for Meter {
    fn begin(&self, total: u64, unit: Unit) {
        if !self.visible {
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let template = match unit {
            Unit::Bytes => "{wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
            // The progress within a single file is not known.
            Unit::Files if total < 2 => "{spinner} {elapsed}",
            Unit::Files => "{spinner} {wide_bar} {pos} of {len} files, {elapsed}, {eta} left",
            Unit::Found => "{spinner} {elapsed}, {pos} found",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let (over, waits) = channel();
        let later = bar.clone();
        let show = move || {
            if waits.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                later.set_draw_target(ProgressDrawTarget::stderr());
                later.enable_steady_tick(TICK);
            }
        };
        let waiting = thread::Builder::new().spawn(show).ok();
        *self.shown() = Some(Shown { bar, over, waiting });
    }

    fn advance(&self, units: u64) {
        if let Some(shown) = &*self.shown() {
            shown.bar.inc(units);
        }
    }

    fn end(&self) {
        let shown = self.shown().take();
        if let Some(Shown { bar, over, waiting }) = shown {
            drop(over);
            if let Some(waiting) = waiting {
                let _ = waiting.join();
            }
            bar.finish_and_clear();
        }
    }

    fn interrupted(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.signal().is_some()
    }
}
