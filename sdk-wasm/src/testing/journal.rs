//! A map that can go back to where a turn began, at the cost of what the turn
//! changed and not of what the map holds.

use std::collections::BTreeMap;
use std::ops::Deref;

/// Reads go straight to the map; changes are remembered until the turn ends.
#[derive(Debug)]
pub struct Journaled<K, V> {
    map: BTreeMap<K, V>,
    /// What stood there before, in the order of the changes.
    before: Vec<(K, Option<V>)>,
}

impl<K: Ord + Clone, V: Clone> Journaled<K, V> {
    pub fn insert(&mut self, key: K, value: V) {
        let before = self.map.insert(key.clone(), value);
        self.before.push((key, before));
    }

    pub fn remove<Q>(&mut self, key: &Q)
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        if let Some((key, value)) = self.map.remove_entry(key) {
            self.before.push((key, Some(value)));
        }
    }

    /// Changes a value in place, if it is there.
    pub fn update<Q>(&mut self, key: &Q, change: impl FnOnce(&mut V))
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        if let Some((key, value)) = self.map.remove_entry(key) {
            self.before.push((key.clone(), Some(value.clone())));
            let mut value = value;
            change(&mut value);
            self.map.insert(key, value);
        }
    }

    /// What was changed stays.
    pub fn commit(&mut self) {
        self.before.clear();
    }

    /// All is as it was at the last commit.
    pub fn roll_back(&mut self) {
        while let Some((key, value)) = self.before.pop() {
            match value {
                Some(value) => self.map.insert(key, value),
                None => self.map.remove(&key),
            };
        }
    }
}

impl<K, V> Default for Journaled<K, V> {
    fn default() -> Self {
        Self {
            map: BTreeMap::new(),
            before: Vec::new(),
        }
    }
}

impl<K, V> Deref for Journaled<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rolling_back_undoes_every_change_since_the_commit() {
        let mut map = Journaled::default();
        map.insert(1, "a");
        map.insert(2, "b");
        map.commit();
        map.update(&1, |value| *value = "c");
        map.insert(1, "d");
        map.remove(&2);
        map.insert(3, "e");
        map.remove(&9);
        map.roll_back();
        assert_eq!(*map, BTreeMap::from([(1, "a"), (2, "b")]));
    }
}
