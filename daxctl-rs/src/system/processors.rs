//! Work on many files, shared among the processors.

use std::iter;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Builder};

/// Least number of items for a thread: starting one takes as long as a few files.
const LEAST: usize = 8;

/// The number of threads that can run at the same time.
pub(crate) fn count() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Does the same to all items, on several processors at once if there are many. The results are in the order of the
/// items.
pub(crate) fn share<T: Send, R: Send>(items: Vec<T>, act: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = match items.len() / LEAST {
        most @ 0..2 => most,
        most => count().min(most),
    };
    if threads < 2 {
        return items.into_iter().map(act).collect();
    }
    let queue = Mutex::new(items.into_iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || iter::from_fn(next).map(|(index, item)| (index, act(item))).collect::<Vec<_>>();
    let mut results = thread::scope(|scope| {
        // With fewer threads than wanted, the others do more.
        let others: Vec<_> = (1..threads).map_while(|_| Builder::new().spawn_scoped(scope, work).ok()).collect();
        let mut results = work();
        results
            .extend(others.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))));
        results
    });
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn shared_work_keeps_the_order() {
        for length in [0, 1, 7, 8, 16, 17, 1000, 1001] {
            let doubled = share((0..length).collect(), |number: u32| 2 * number);
            assert_eq!(doubled, (0..length).map(|number| 2 * number).collect::<Vec<_>>());
        }
    }
}
