//! Lists of bounded length. A file's owner can make some lists arbitrarily long: this counts all items, and keeps the
//! first.

use std::ops::Deref;

/// Most items to keep in one list.
pub const MOST: usize = 10_000;

/// The first items of a list, and the number of all items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundedList<T> {
    first: Vec<T>,
    /// The last item, if it is beyond the limit: the next item may be joined with it.
    last: Option<T>,
    left_out: u64,
}

impl<T> BoundedList<T> {
    /// Makes an empty list.
    #[must_use]
    pub fn new() -> Self {
        BoundedList { first: Vec::new(), last: None, left_out: 0 }
    }

    /// Adds an item.
    pub fn push(&mut self, item: T) {
        if self.first.len() < MOST {
            if self.first.len() == self.first.capacity() {
                // Doubles the room, but never beyond the limit.
                let room = MOST - self.first.len();
                self.first.reserve_exact(room.min(self.first.len().max(4)));
            }
            self.first.push(item);
        } else {
            self.last = Some(item);
            self.left_out += 1;
        }
    }

    /// The last item, whether it is within the limit or not.
    pub fn last_mut(&mut self) -> Option<&mut T> {
        self.last.as_mut().or(self.first.last_mut())
    }

    /// The number of all items, if some were left out.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        (self.left_out > 0).then_some(self.first.len() as u64 + self.left_out)
    }

    /// The items within the limit.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.first
    }
}

impl<T> Default for BoundedList<T> {
    fn default() -> Self {
        BoundedList::new()
    }
}

impl<T> Deref for BoundedList<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_kept_and_all_are_counted() {
        let mut list = BoundedList::new();
        for item in 0..MOST {
            list.push(item);
            assert_eq!(list.last_mut(), Some(&mut { item }));
        }
        assert_eq!((list.len(), list.total()), (MOST, None));
        assert_eq!(list.first.capacity(), MOST, "no room for items beyond the limit");
        list.push(7);
        list.push(8);
        assert_eq!((list.len(), list.total(), list.last_mut()), (MOST, Some(MOST as u64 + 2), Some(&mut 8)));
        assert_eq!(list.into_vec().last(), Some(&(MOST - 1)));
    }
}
