//! Where each task of a job stands, kept only for tasks that need it.
//!
//! A task that was never launched, and one that has ended, has no cell: the
//! job's counters say all there is to say. Cells are stored in chunks of
//! [`CHUNK`] neighbours, so that a turn rewrites what it touched and not the
//! array; a chunk without cells is not stored.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tepui_sdk::TaskId;

/// Neighbours in one stored chunk. Small, so that a turn that was shown the
/// most updates, each of another chunk, still writes well below its limit.
pub const CHUNK: u32 = 16;

/// A task that was launched before and has not ended for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Attempts that failed by their own doing.
    pub failures: u32,
    /// Attempts in a row that were lost without blame.
    pub losses: u32,
    /// Where it stands.
    pub place: Place,
}

/// Where such a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// It is launched again from this time on, in milliseconds since the epoch.
    Waiting(u64),
    /// Launched, with this attempt.
    Active(u64),
    /// Launched, with this attempt, and its end was asked for.
    Killing(u64),
}

/// The cells of a job, by their tasks' index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tasks {
    cells: BTreeMap<u32, Cell>,
    /// Waiting tasks by the time from which they may be launched.
    waiting: BTreeSet<(u64, u32)>,
    /// Chunks that differ from what is stored.
    dirty: BTreeSet<u32>,
}

/// A stored chunk: offsets in it, and the cells there.
pub type Chunk = Vec<(u8, Cell)>;

impl Tasks {
    /// A task's cell.
    pub fn get(&self, index: u32) -> Option<Cell> {
        self.cells.get(&index).copied()
    }

    /// The attempt of a launched task.
    pub fn attempt(&self, index: u32) -> Option<u64> {
        match self.cells.get(&index)?.place {
            Place::Active(attempt) | Place::Killing(attempt) => Some(attempt),
            Place::Waiting(_) => None,
        }
    }

    /// Sets a task's cell.
    pub fn set(&mut self, index: u32, cell: Cell) {
        self.remove(index);
        if let Place::Waiting(due) = cell.place {
            self.waiting.insert((due, index));
        }
        self.cells.insert(index, cell);
    }

    /// Forgets a task's cell.
    pub fn remove(&mut self, index: u32) {
        if let Some(Cell {
            place: Place::Waiting(due),
            ..
        }) = self.cells.remove(&index)
        {
            self.waiting.remove(&(due, index));
        }
        self.dirty.insert(index / CHUNK);
    }

    /// Whether no task has a cell.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// How many wait, due or not.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many are launched.
    pub fn active(&self) -> usize {
        self.cells.len() - self.waiting.len()
    }

    /// Tasks that may be launched again at `now`, the longest due first.
    pub fn ready(&self, now: u64) -> impl Iterator<Item = u32> + '_ {
        self.waiting
            .iter()
            .take_while(move |(due, _)| *due <= now)
            .map(|(_, index)| *index)
    }

    /// When the next task that waits at `now` may be launched.
    pub fn next_due(&self, now: u64) -> Option<u64> {
        self.waiting
            .range((now.saturating_add(1), 0)..)
            .next()
            .map(|(due, _)| *due)
    }

    /// Forgets all that wait; answers how many there were.
    pub fn drop_waiting(&mut self) -> usize {
        let waiting: Vec<u32> = self.waiting.iter().map(|(_, index)| *index).collect();
        waiting.iter().for_each(|index| self.remove(*index));
        waiting.len()
    }

    /// Launched tasks whose end was not asked for yet: index and attempt.
    pub fn not_killing(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.cells
            .iter()
            .filter_map(|(index, cell)| match cell.place {
                Place::Active(attempt) => Some((*index, attempt)),
                Place::Waiting(_) | Place::Killing(_) => None,
            })
    }

    /// Takes in a stored chunk.
    pub fn load(&mut self, number: u32, chunk: Chunk) {
        for (offset, cell) in chunk {
            self.set(number * CHUNK + u32::from(offset), cell);
        }
        self.dirty.remove(&number);
    }

    /// The chunks that must be stored anew; an empty one must be deleted.
    pub fn take_dirty(&mut self) -> Vec<(u32, Chunk)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty
            .into_iter()
            .map(|number| (number, self.chunk(number)))
            .collect()
    }

    fn chunk(&self, number: u32) -> Chunk {
        let first = number * CHUNK;
        let cells = self.cells.range(first..first + CHUNK);
        // Offsets are below CHUNK.
        cells
            .map(|(index, cell)| ((index - first) as u8, *cell))
            .collect()
    }
}

/// A task's name: the job's for a job of one, else with the task's number.
pub fn task_name(job: &str, count: u32, index: u32) -> String {
    if count == 1 {
        job.to_owned()
    } else {
        format!("{job}-{index}")
    }
}

/// The array and the index in a task's name, if it can be an array's.
pub fn array_task(name: &str) -> Option<(&str, u32)> {
    let (job, digits) = name.rsplit_once('-')?;
    let index: u32 = digits.parse().ok()?;
    // `+7` and `007` are numbers, too, but no task is named so.
    (index.to_string() == digits).then_some((job, index))
}

/// The identity of a launched task.
pub fn task_id(job: &str, count: u32, index: u32, attempt: u64) -> TaskId {
    TaskId {
        name: task_name(job, count, index),
        attempt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(place: Place) -> Cell {
        Cell {
            failures: 0,
            losses: 0,
            place,
        }
    }

    #[test]
    fn only_touched_chunks_are_stored_and_empty_ones_go() {
        let mut tasks = Tasks::default();
        tasks.set(3, cell(Place::Active(1)));
        tasks.set(40, cell(Place::Waiting(9)));
        let chunks = tasks.take_dirty();
        assert_eq!(
            chunks.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
            [0, 2]
        );
        assert!(tasks.take_dirty().is_empty());

        let mut loaded = Tasks::default();
        chunks
            .into_iter()
            .for_each(|(number, chunk)| loaded.load(number, chunk));
        assert_eq!(loaded, tasks);

        tasks.remove(40);
        assert_eq!(tasks.take_dirty(), [(2, Vec::new())]);
    }

    #[test]
    fn waiting_tasks_are_ready_in_the_order_of_their_times() {
        let mut tasks = Tasks::default();
        tasks.set(1, cell(Place::Waiting(20)));
        tasks.set(2, cell(Place::Waiting(10)));
        tasks.set(3, cell(Place::Waiting(30)));
        assert_eq!(tasks.ready(20).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(tasks.next_due(20), Some(30));
        tasks.set(3, cell(Place::Active(7)));
        assert_eq!(tasks.next_due(20), None);
        assert_eq!((tasks.waiting(), tasks.active()), (2, 1));
    }

    #[test]
    fn only_canonical_numbers_name_tasks_of_arrays() {
        assert_eq!(array_task("job-7"), Some(("job", 7)));
        assert_eq!(array_task("a-1-0"), Some(("a-1", 0)));
        for name in ["job", "job-", "job-07", "job-x", "job-99999999999"] {
            assert_eq!(array_task(name), None, "{name}");
        }
    }
}
