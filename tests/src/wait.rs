//! Waits for other processes and for the kernel.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Waits until that has happened; panics if it does not.
#[track_caller]
pub fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        sleep(Duration::from_millis(5));
    }
}
