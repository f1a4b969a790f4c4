//! Progress on a terminal, and signals.

use std::cell::{Cell, RefCell};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use daxfile::progress::{Progress, Unit};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Work that is over sooner shows nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Shows progress on a terminal, and remembers signals.
pub(crate) struct Meter {
    visible: bool,
    bar: RefCell<Option<(Instant, ProgressBar)>>,
    done: Cell<u64>,
    signal: Arc<AtomicUsize>,
    stopped: Cell<bool>,
}

impl Meter {
    pub(crate) fn new(wanted: bool) -> Self {
        Meter {
            visible: wanted && std::io::stderr().is_terminal(),
            bar: RefCell::new(None),
            done: Cell::new(0),
            signal: Arc::new(AtomicUsize::new(0)),
            stopped: Cell::new(false),
        }
    }

    /// From now on signals interrupt the work instead of ending the program in the middle of it. Those that nohup(1), or
    /// a shell without job control, had it ignore stay ignored.
    pub(crate) fn catch_signals(&self) -> std::io::Result<()> {
        let ignored = ignored_signals();
        for signal in [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0) {
            let number = usize::try_from(signal).unwrap_or_default();
            signal_hook::flag::register_usize(signal, Arc::clone(&self.signal), number)?;
        }
        Ok(())
    }

    /// Prints something while no bar is in the way.
    pub(crate) fn aside(&self, print: impl FnOnce()) {
        match &*self.bar.borrow() {
            Some((_, bar)) => bar.suspend(print),
            None => print(),
        }
    }

    /// Has the work end as a signal would.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
    }

    /// The signal that came, if one did.
    pub(crate) fn signal(&self) -> Option<i32> {
        i32::try_from(self.signal.load(Ordering::Relaxed)).ok().filter(|&signal| signal != 0)
    }
}

/// The signals that are ignored, as proc_pid_status(5) tells them; sigaction(2) would take `unsafe`.
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
            Unit::Files => "{wide_bar} {pos} of {len} files, {eta} left",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        self.done.set(0);
        self.bar.replace(Some((Instant::now(), bar)));
    }

    fn advance(&self, units: u64) {
        if let Some((begun, bar)) = &*self.bar.borrow() {
            self.done.set(self.done.get() + units);
            if bar.is_hidden() && begun.elapsed() > PATIENCE {
                bar.set_draw_target(ProgressDrawTarget::stderr());
            }
            bar.set_position(self.done.get());
        }
    }

    fn end(&self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn interrupted(&self) -> bool {
        self.stopped.get() || self.signal().is_some()
    }
}
