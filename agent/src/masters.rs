//! Which master to speak to: the leader, found through any of them.
//!
//! The agent begins with the addresses that it was given and learns the others from the leader's
//! welcome. A master that does not lead says who does; one that does not answer is passed over for
//! the next.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The known masters.
#[derive(Debug)]
pub struct Masters(Mutex<Known>);

#[derive(Debug)]
struct Known {
    /// At least one; the given ones first.
    urls: Vec<String>,
    given: usize,
    current: usize,
}

impl Masters {
    /// Those that an operator has named, at least one.
    pub fn new(given: Vec<String>) -> Self {
        assert!(!given.is_empty(), "an agent has a master");
        Self(Mutex::new(Known {
            given: given.len(),
            urls: given,
            current: 0,
        }))
    }

    /// The one to speak to, without a slash at its end.
    pub fn current(&self) -> String {
        let known = self.known();
        known.urls[known.current].clone()
    }

    /// The current one did not answer: the next is the current one.
    pub fn pass_over(&self) {
        let mut known = self.known();
        known.current = (known.current + 1) % known.urls.len();
    }

    /// The leader is there.
    pub fn turn_to(&self, leader: &str) {
        let mut known = self.known();
        known.current = match known.urls.iter().position(|url| url == leader) {
            Some(position) => position,
            None => {
                known.urls.push(leader.to_owned());
                known.urls.len() - 1
            }
        };
    }

    /// These are all; those that were given stay, for they may be names of the same.
    pub fn learn(&self, masters: &[String]) {
        let mut known = self.known();
        let current = known.urls[known.current].clone();
        let given = known.given;
        known.urls.truncate(given);
        for url in masters.iter().chain([&current]) {
            if !known.urls.contains(url) {
                known.urls.push(url.clone());
            }
        }
        // It was put back just now, if it was not there.
        known.current = known
            .urls
            .iter()
            .position(|url| *url == current)
            .unwrap_or(0);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_leader_is_found_through_any_master() {
        let masters = Masters::new(urls(&["a", "b"]));
        assert_eq!(masters.current(), "a");
        masters.pass_over();
        assert_eq!(masters.current(), "b");
        masters.turn_to("c");
        assert_eq!(masters.current(), "c");
        masters.learn(&urls(&["b", "c", "d"]));
        assert_eq!(masters.current(), "c");
        let mut tried: Vec<_> = (0..4)
            .map(|_| {
                masters.pass_over();
                masters.current()
            })
            .collect();
        tried.sort();
        assert_eq!(tried, urls(&["a", "b", "c", "d"]));
    }

    #[test]
    fn those_that_left_are_forgotten_and_those_that_were_given_are_not() {
        let masters = Masters::new(urls(&["a"]));
        masters.learn(&urls(&["b", "c"]));
        masters.learn(&urls(&["b"]));
        masters.pass_over();
        assert_eq!(masters.current(), "b");
        masters.pass_over();
        assert_eq!(masters.current(), "a");
    }
}
