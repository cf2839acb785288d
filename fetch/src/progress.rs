//! How far a fetch is.

use std::sync::{Mutex, PoisonError};

/// How far a fetch is, all its items together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are here.
    pub done: u64,
    /// Bytes of all items; none while a server has not said how many it sends.
    pub total: Option<u64>,
    /// Items that are in place.
    pub placed: usize,
    /// Items.
    pub items: usize,
}

/// How far one item is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Far {
    /// Bytes that are here.
    pub done: u64,
    /// Bytes that there are, where that is known.
    pub total: Option<u64>,
}

/// Sums items, and says so.
pub(crate) struct Tally<'a> {
    items: Mutex<Vec<Item>>,
    say: &'a (dyn Fn(Progress) + Send + Sync),
}

#[derive(Debug, Clone, Copy, Default)]
struct Item {
    far: Far,
    is_placed: bool,
}

impl<'a> Tally<'a> {
    /// Of so many items, of which nothing is known.
    pub fn new(items: usize, say: &'a (dyn Fn(Progress) + Send + Sync)) -> Self {
        Self {
            items: Mutex::new(vec![Item::default(); items]),
            say,
        }
    }

    /// One of them is so far.
    pub fn far(&self, item: usize, far: Far) {
        self.change(item, |item| item.far = far);
    }

    /// One of them is in place.
    pub fn placed(&self, item: usize) {
        self.change(item, |item| item.is_placed = true);
    }

    fn change(&self, at: usize, change: impl FnOnce(&mut Item)) {
        let progress = {
            // Nothing that is done under the lock leaves the items half changed.
            let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(item) = items.get_mut(at) {
                change(item);
            }
            Progress {
                done: items.iter().map(|item| item.far.done).sum(),
                total: items.iter().map(|item| item.far.total).sum(),
                placed: items.iter().filter(|item| item.is_placed).count(),
                items: items.len(),
            }
        };
        (self.say)(progress);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_is_said_once_every_item_has_one() {
        let said = Mutex::new(Vec::new());
        let say = |progress| said.lock().unwrap().push(progress);
        let tally = Tally::new(2, &say);
        let total = Some(10);
        tally.far(0, Far { done: 4, total });
        tally.far(1, Far { done: 10, total });
        tally.placed(1);
        let said = said.lock().unwrap();
        assert_eq!((said[0].done, said[0].total), (4, None));
        assert_eq!((said[1].done, said[1].total), (14, Some(20)));
        assert_eq!((said[2].placed, said[2].items), (1, 2));
    }
}
