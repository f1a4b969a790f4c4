//! Work on many files, shared among the processors.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread;

/// Least number of items for a thread: starting one takes as long as a few files.
const LEAST: usize = 8;

/// Does the same to all items, on several processors at once if there are many. The results are in the order of the
/// items.
pub(crate) fn share<T: Send, R: Send>(items: Vec<T>, act: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = match items.len() / LEAST {
        most @ 0..2 => most,
        most => thread::available_parallelism().map_or(1, NonZero::get).min(most),
    };
    if threads < 2 {
        return items.into_iter().map(act).collect();
    }
    let (length, act) = (items.len().div_ceil(threads), &act);
    let mut items = items.into_iter();
    thread::scope(|scope| {
        let parts: Vec<Vec<T>> = (0..threads).map(|_| items.by_ref().take(length).collect()).collect();
        let work = |part: Vec<T>| scope.spawn(move || part.into_iter().map(act).collect::<Vec<R>>());
        let running: Vec<_> = parts.into_iter().map(work).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
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
