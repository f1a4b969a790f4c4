//! An iterator over items that the kernel returns many at a time.

use std::collections::VecDeque;
use std::mem::take;

use crate::error::Result;

/// A system call that is repeated until it has returned all items.
pub(crate) trait Fetch {
    type Item;

    /// Makes the next call. Returns its items, and whether they are the last ones. After no items, or an error, there is no
    /// further call.
    fn fetch(&mut self) -> Result<(VecDeque<Self::Item>, bool)>;
}

/// Iterates over all items of the calls. Nothing follows an error.
pub(crate) struct Batches<F: Fetch> {
    pub(crate) source: F,
    fetched: VecDeque<F::Item>,
    done: bool,
}

impl<F: Fetch> Batches<F> {
    /// Starts before the first call; `empty` says that no call is needed.
    pub(crate) fn new(source: F, empty: bool) -> Self {
        Batches { source, fetched: VecDeque::new(), done: empty }
    }

    /// Returns the items of the next call, or those that are left of the last one. Empty after the last item.
    pub(crate) fn batch(&mut self) -> Result<VecDeque<F::Item>> {
        if self.fetched.is_empty() && !self.done {
            self.done = true;
            let (items, last) = self.source.fetch()?;
            self.done = last || items.is_empty();
            return Ok(items);
        }
        Ok(take(&mut self.fetched))
    }
}

impl<F: Fetch> Iterator for Batches<F> {
    type Item = Result<F::Item>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.fetched.is_empty() {
            match self.batch() {
                Ok(items) => self.fetched = items,
                Err(error) => return Some(Err(error)),
            }
        }
        self.fetched.pop_front().map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::error::Error;

    /// Returns these batches; the last one with the mark of the last.
    struct Calls(Vec<Result<Vec<u32>>>);

    impl Fetch for Calls {
        type Item = u32;

        fn fetch(&mut self) -> Result<(VecDeque<u32>, bool)> {
            let items = self.0.remove(0)?;
            Ok((items.into(), self.0.is_empty()))
        }
    }

    fn failed() -> Error {
        Error { call: "ioctl", errno: Errno::EIO }
    }

    #[test]
    fn batches_return_every_item_and_end() {
        let mut all = Batches::new(Calls(vec![Ok(vec![1, 2]), Ok(vec![3])]), false);
        assert_eq!(all.by_ref().collect::<Result<Vec<_>>>(), Ok(vec![1, 2, 3]));
        assert_eq!(all.next(), None);
        let mut none = Batches::new(Calls(vec![Ok(vec![]), Ok(vec![1])]), false);
        assert_eq!((none.next(), none.next()), (None, None));
        assert_eq!(Batches::new(Calls(Vec::new()), true).next(), None);
    }

    #[test]
    fn batches_return_nothing_after_an_error() {
        let mut broken = Batches::new(Calls(vec![Ok(vec![1]), Err(failed()), Ok(vec![2])]), false);
        assert_eq!(broken.by_ref().collect::<Vec<_>>(), [Ok(1), Err(failed())]);
        assert_eq!(broken.next(), None);
    }

    #[test]
    fn a_batch_returns_what_is_left() {
        let mut calls = Batches::new(Calls(vec![Ok(vec![1, 2, 3]), Ok(vec![4])]), false);
        assert_eq!(calls.next(), Some(Ok(1)));
        assert_eq!((calls.batch(), calls.batch(), calls.batch()), (Ok([2, 3].into()), Ok([4].into()), Ok([].into())));
    }
}
