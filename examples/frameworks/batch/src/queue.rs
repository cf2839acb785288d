//! Jobs with tasks to launch, in the order in which they get resources.
//!
//! Soft state: rebuilt from the jobs whenever an instance starts, and set right
//! for every job that a turn has touched.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// A job's place: the higher priority first, then the older job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    priority: Reverse<i32>,
    sequence: u64,
}

impl Rank {
    /// The rank of a job with this priority and place in the order of submission.
    pub fn new(priority: i32, sequence: u64) -> Self {
        Self {
            priority: Reverse(priority),
            sequence,
        }
    }
}

/// The jobs that wait, by rank.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: BTreeMap<Rank, String>,
}

impl Queue {
    /// Puts a job in, or takes it out.
    pub fn set(&mut self, rank: Rank, job: &str, waits: bool) {
        if waits {
            self.waiting.entry(rank).or_insert_with(|| job.to_owned());
        } else {
            self.waiting.remove(&rank);
        }
    }

    /// Whether no job waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The names of the jobs that wait, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.waiting.values().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priority_goes_before_age_and_age_before_the_rest() {
        let mut queue = Queue::default();
        queue.set(Rank::new(0, 1), "old", true);
        queue.set(Rank::new(0, 2), "young", true);
        queue.set(Rank::new(5, 3), "urgent", true);
        queue.set(Rank::new(-5, 0), "idle", true);
        assert_eq!(
            queue.iter().collect::<Vec<_>>(),
            ["urgent", "old", "young", "idle"]
        );
        queue.set(Rank::new(0, 1), "old", false);
        assert_eq!(
            queue.iter().collect::<Vec<_>>(),
            ["urgent", "young", "idle"]
        );
    }
}
