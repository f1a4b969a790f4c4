//! Answers that many files share, and that stay good for a moment.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Result;

/// How long an answer stays valid: a command may look at many small files in this time, and no user can observe whether
/// something changed shortly before or shortly after a look.
const FRESH: Duration = Duration::from_millis(10);

/// The last answer, and when it was read.
#[derive(Debug)]
pub(crate) struct Fresh<T>(Mutex<Option<(Instant, T)>>);

impl<T> Fresh<T> {
    pub(crate) const fn new() -> Self {
        Fresh(Mutex::new(None))
    }

    /// Returns a part of the answer. Calls `read` if there is no answer, or if the last one is old or does not `serve`.
    ///
    /// # Errors
    /// The error of `read`.
    pub(crate) fn get<R>(
        &self,
        serves: impl FnOnce(&T) -> bool,
        read: impl FnOnce() -> Result<T>,
        part: impl FnOnce(&T) -> R,
    ) -> Result<R> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = match last.take().filter(|(at, answer)| at.elapsed() < FRESH && serves(answer)) {
            Some(fresh) => fresh,
            None => (Instant::now(), read()?),
        };
        Ok(part(&last.insert(now).1))
    }
}

impl<T> Default for Fresh<T> {
    fn default() -> Self {
        Fresh::new()
    }
}
