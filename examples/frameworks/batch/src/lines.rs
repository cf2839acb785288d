//! Lines: tasks of one job that run one after another in one place.
//!
//! Where tasks are short, the way from a task's end over an offer to the next launch takes longer than
//! the task. So a few more are launched ahead, each after the one before it. How many follows from how
//! long the job's tasks have their places: a line is worth [`AHEAD_MS`], so whatever wants the place
//! next waits no longer than that. Soft state: an instance that begins knows of no lines, and the tasks
//! of those that it does not know run all the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How much time of a place is given away ahead, in milliseconds.
const AHEAD_MS: u64 = 50;
/// Tasks that wait in one line, at most.
const MOST: usize = 16;

/// The lines of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    /// Tasks by their line, the one that has the place first.
    lines: BTreeMap<u64, VecDeque<u32>>,
    /// The line of each task.
    of: BTreeMap<u32, u64>,
    next: u64,
    /// Lines that have come or become shorter since they were last looked at.
    changed: BTreeSet<u64>,
    /// How long a task has its place, in eighths of milliseconds, as a moving mean.
    held: Option<u64>,
}

impl Lines {
    /// A task was launched into a place of its own.
    pub fn begin(&mut self, index: u32) {
        self.lines.insert(self.next, VecDeque::from([index]));
        self.of.insert(index, self.next);
        self.changed.insert(self.next);
        self.next += 1;
    }

    /// A task was launched after the last one of a line.
    pub fn follow(&mut self, last: u32, index: u32) {
        if let Some(line) = self.of.get(&last).copied() {
            self.lines.entry(line).or_default().push_back(index);
            self.of.insert(index, line);
        }
    }

    /// A task has ended; `held_ms` is how long it had its place, if it ran to its end.
    pub fn end(&mut self, index: u32, held_ms: Option<u64>) {
        if let Some(held) = held_ms {
            let held = held.saturating_mul(8);
            let mean = self.held.map_or(held, |mean| mean - mean / 8 + held / 8);
            self.held = Some(mean);
        }
        let Some(number) = self.of.remove(&index) else {
            return;
        };
        if let Some(line) = self.lines.get_mut(&number) {
            line.retain(|task| *task != index);
            self.changed.insert(number);
            if line.is_empty() {
                self.lines.remove(&number);
                self.changed.remove(&number);
            }
        }
    }

    /// Which of the changed lines are to become longer: the last of each, and by how many of the
    /// `waiting` tasks.
    pub fn too_short(&mut self, waiting: u32) -> Vec<(u32, usize)> {
        let changed = std::mem::take(&mut self.changed);
        let Some(held) = self.held else {
            return Vec::new();
        };
        let most = (8 * AHEAD_MS / held.max(8)).min(MOST as u64) as usize;
        // The last tasks of a job are spread over all its places.
        let share = (waiting as usize).div_ceil(self.lines.len().max(1));
        let lines = changed.iter().filter_map(|number| self.lines.get(number));
        let short = lines.filter_map(|line| {
            let ahead = line.len() - 1;
            let last = *line.back()?;
            (2 * ahead <= most && most > ahead).then(|| (last, (most - ahead).min(share)))
        });
        short.filter(|(_, more)| *more > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_launched_ahead_before_it_is_known_how_long_tasks_take() {
        let mut lines = Lines::default();
        lines.begin(0);
        assert!(lines.too_short(100).is_empty());
    }

    #[test]
    fn a_line_is_worth_so_much_time_and_no_more() {
        for (held, more) in [(1, 16), (5, 10), (25, 2), (50, 1), (51, 0), (60_000, 0)] {
            let mut lines = Lines::default();
            lines.begin(0);
            lines.end(0, Some(held));
            lines.begin(1);
            let short = lines.too_short(100);
            let expected: Vec<_> = (more > 0).then_some((1, more)).into_iter().collect();
            assert_eq!(short, expected, "{held}");
        }
    }

    #[test]
    fn a_line_is_filled_up_when_half_of_it_has_run() {
        let mut lines = Lines::default();
        lines.begin(0);
        lines.end(0, Some(10));
        lines.begin(1);
        assert_eq!(lines.too_short(100), [(1, 5)]);
        for index in 2..7 {
            lines.follow(index - 1, index);
        }
        for index in 1..4 {
            assert_eq!(lines.too_short(100), []);
            lines.end(index, Some(10));
        }
        assert_eq!(lines.too_short(100), [(6, 3)]);
    }

    #[test]
    fn the_last_tasks_are_spread_over_all_places() {
        let mut lines = Lines::default();
        lines.begin(0);
        lines.end(0, Some(1));
        (1..=4).for_each(|index| lines.begin(index));
        assert_eq!(lines.too_short(6), [(1, 2), (2, 2), (3, 2), (4, 2)]);
    }

    #[test]
    fn a_place_that_is_given_back_is_forgotten() {
        let mut lines = Lines::default();
        lines.begin(0);
        lines.follow(0, 1);
        lines.end(0, Some(1));
        lines.end(1, None);
        assert!(lines.lines.is_empty() && lines.of.is_empty());
        assert!(lines.too_short(100).is_empty());
    }
}
