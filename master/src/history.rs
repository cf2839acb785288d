//! Ended tasks that the state has forgotten, on this master's disk, outside the state's hash.
//!
//! The log's thread writes a task here in the step in which it is forgotten, before anyone can see
//! that it is gone; replaying the log after a crash writes the same again and counts it once. Past
//! a bound the oldest are dropped.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tepui_cluster::effect::Archived;
use tepui_cluster::state::tasks::Task;
use tepui_types::{OperationId, TaskId, TaskSpec, envelope};

use crate::error::StorageError;
use crate::storage::{Batch, Direction, Family, Scan, Storage, keys};

/// Version of a task's record.
const VERSION: u8 = 1;

/// What is kept, and how much is dropped when that is too much.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Tasks.
    pub tasks: u64,
    /// Bytes of their records: specifications may take up to 64 KiB each.
    pub bytes: u64,
    /// Tasks that are dropped at once, so that dropping is rare.
    pub drop: usize,
}

impl Limits {
    /// A million tasks of ordinary size, 4 GiB of any.
    pub const DEFAULT: Self = Self {
        tasks: 1_000_000,
        bytes: 4 * 1024 * 1024 * 1024,
        drop: 10_000,
    };
}

/// An ended task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedTask {
    /// The task as it was when the state forgot it.
    pub task: Arc<Task>,
    /// What it ran.
    pub spec: Arc<TaskSpec>,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Size {
    tasks: u64,
    bytes: u64,
}

/// Reads the history; clones share it. All calls read the disk: at most milliseconds.
#[derive(Clone)]
pub struct History {
    storage: Storage,
}

impl History {
    pub(crate) fn new(storage: Storage) -> Self {
        Self { storage }
    }

    /// The task with this identity.
    pub fn get(&self, id: &TaskId) -> Result<Option<ArchivedTask>, StorageError> {
        let Some(key) = self
            .storage
            .get(Family::History, &keys::history_by_task(id))?
        else {
            return Ok(None);
        };
        match self.storage.get(Family::History, &key)? {
            Some(record) => decode(&record).map(Some),
            None => Ok(None),
        }
    }

    /// At most `limit` earlier attempts than this one, newest first.
    pub fn attempts_before(
        &self,
        id: &TaskId,
        limit: usize,
    ) -> Result<Vec<ArchivedTask>, StorageError> {
        let from = keys::history_by_task(id);
        let mut records = Vec::new();
        self.storage
            .scan(Family::History, &from, Direction::Down, |key, record| {
                if records.len() == limit || !keys::is_history_of_same_name(key, &from) {
                    return Ok(Scan::Stop);
                }
                if key != from {
                    records.push(record.to_vec());
                }
                Ok(Scan::Continue)
            })?;
        let mut tasks = Vec::with_capacity(records.len());
        for key in records {
            // The oldest may be dropped meanwhile.
            if let Some(record) = self.storage.get(Family::History, &key)? {
                tasks.push(decode(&record)?);
            }
        }
        Ok(tasks)
    }

    /// At most `limit` tasks that were launched before an operation, or the newest: newest first.
    pub fn scan_before(
        &self,
        before: Option<OperationId>,
        limit: usize,
    ) -> Result<Vec<ArchivedTask>, StorageError> {
        let newest = OperationId {
            index: u64::MAX,
            ordinal: u32::MAX,
        };
        let from = keys::history_by_operation(before.unwrap_or(newest));
        let mut tasks = Vec::new();
        self.storage
            .scan(Family::History, &from, Direction::Down, |key, record| {
                match keys::history_operation(key) {
                    _ if tasks.len() >= limit => return Ok(Scan::Stop),
                    None => return Ok(Scan::Stop),
                    Some(operation) if before.is_some_and(|before| operation >= before) => {}
                    Some(_) => tasks.push(decode(record)?),
                }
                Ok(Scan::Continue)
            })?;
        Ok(tasks)
    }
}

/// The writing end; the log's thread has it.
pub(crate) struct Archive {
    storage: Storage,
    limits: Limits,
    size: Size,
}

impl Archive {
    pub fn open(storage: Storage, limits: Limits) -> Result<Self, StorageError> {
        let size = storage.get_record(Family::Meta, keys::HISTORY_SIZE, "the history's size")?;
        Ok(Self {
            storage,
            limits,
            size: size.unwrap_or_default(),
        })
    }

    /// Adds forgotten tasks to a batch, and the removal of the oldest where they are too many.
    pub fn append(&mut self, batch: &mut Batch, tasks: &[Archived]) -> Result<(), StorageError> {
        if tasks.is_empty() {
            return Ok(());
        }
        for Archived { task, spec } in tasks {
            let key = keys::history_by_operation(task.operation);
            if self.storage.get(Family::History, &key)?.is_some() {
                continue;
            }
            let record = ArchivedTask {
                task: task.clone(),
                spec: spec.clone(),
            };
            let record = envelope::encode(VERSION, &record);
            self.size.tasks += 1;
            self.size.bytes += record.len() as u64;
            batch.put(Family::History, &key, record);
            batch.put(Family::History, &keys::history_by_task(&task.id), key);
        }
        if self.size.tasks > self.limits.tasks || self.size.bytes > self.limits.bytes {
            self.drop_oldest(batch)?;
        }
        batch.put_record(Family::Meta, keys::HISTORY_SIZE, &self.size);
        Ok(())
    }

    fn drop_oldest(&mut self, batch: &mut Batch) -> Result<(), StorageError> {
        let start = keys::history_by_operation(OperationId {
            index: 0,
            ordinal: 0,
        });
        let mut end = None;
        let mut dropped = 0;
        let storage = &self.storage;
        let size = &mut self.size;
        storage.scan(Family::History, &start, Direction::Up, |key, record| {
            let Some(operation) = keys::history_operation(key) else {
                return Ok(Scan::Stop);
            };
            if dropped == self.limits.drop {
                return Ok(Scan::Stop);
            }
            let task = decode(record)?.task;
            batch.delete(Family::History, &keys::history_by_task(&task.id));
            size.tasks = size.tasks.saturating_sub(1);
            size.bytes = size.bytes.saturating_sub(record.len() as u64);
            end = Some(operation);
            dropped += 1;
            Ok(Scan::Continue)
        })?;
        if let Some(OperationId { index, ordinal }) = end {
            let after = OperationId {
                index,
                ordinal: ordinal.saturating_add(1),
            };
            let end = keys::history_by_operation(after);
            batch.delete_range(Family::History, &start, &end);
        }
        Ok(())
    }
}

fn decode(record: &[u8]) -> Result<ArchivedTask, StorageError> {
    envelope::decode(VERSION, record).map_err(StorageError::decode("an ended task"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Durability;
    use tepui_types::task::{CommandWorkload, TaskStatus};
    use tepui_types::{AgentId, Resources, Role, TaskState, Timestamp, Workload};

    fn spec() -> Arc<TaskSpec> {
        let command = CommandWorkload::new(vec!["true".into()]);
        Arc::new(TaskSpec::new(Workload::Command(command)))
    }

    fn archived(index: u64) -> Archived {
        let spec = spec();
        let key = tepui_cluster::state::specs::Specs::default().intern(&spec);
        let task = Task {
            id: format!("f1.t.{index}").parse().unwrap(),
            operation: OperationId { index, ordinal: 0 },
            agent: AgentId(1),
            framework_name: "batch".into(),
            role: Role::default(),
            spec: key,
            resources: Resources::default(),
            array_index: None,
            chosen: None,
            after: None,
            on_deck: false,
            next: None,
            life: Default::default(),
            status: TaskStatus {
                state: TaskState::Finished,
                reason: None,
                exit_code: Some(0),
                usage: None,
                signs: None,
                time: Timestamp(index),
            },
            sequence: 2,
            acknowledged: 2,
            kill: None,
            taken: None,
            ends_by: None,
            launched_at: Timestamp(0),
            started_at: None,
            ended_at: Some(Timestamp(index)),
            revision: index,
        };
        Archived {
            task: Arc::new(task),
            spec,
        }
    }

    fn append(archive: &mut Archive, tasks: &[Archived]) {
        let mut batch = Batch::default();
        archive.append(&mut batch, tasks).unwrap();
        archive.storage.write(batch, Durability::Ordered).unwrap();
    }

    fn indexes(tasks: Vec<ArchivedTask>) -> Vec<u64> {
        tasks
            .iter()
            .map(|archived| archived.task.operation.index)
            .collect()
    }

    #[test]
    fn ended_tasks_are_found_by_id_and_newest_first() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(folder.path()).unwrap();
        let mut archive = Archive::open(storage.clone(), Limits::DEFAULT).unwrap();
        let tasks: Vec<_> = (1..=300).map(archived).collect();
        append(&mut archive, &tasks);
        let history = History::new(storage);
        assert_eq!(indexes(history.scan_before(None, 2).unwrap()), [300, 299]);
        let before = OperationId {
            index: 257,
            ordinal: 0,
        };
        assert_eq!(
            indexes(history.scan_before(Some(before), 2).unwrap()),
            [256, 255]
        );
        let found = history.get(&"f1.t.7".parse().unwrap()).unwrap().unwrap();
        assert_eq!((found.task.operation.index, found.spec), (7, spec()));
        assert!(history.get(&"f2.t.7".parse().unwrap()).unwrap().is_none());
    }

    #[test]
    fn attempts_of_a_name_are_found_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(folder.path()).unwrap();
        let mut archive = Archive::open(storage.clone(), Limits::DEFAULT).unwrap();
        let ids = [
            "f1.t.1", "f1.t.300", "f1.ta.2", "f1.s.3", "f2.t.4", "f1.t.5",
        ];
        let tasks = ids.iter().enumerate().map(|(index, id)| {
            let mut archived = archived(index as u64);
            Arc::make_mut(&mut archived.task).id = id.parse().unwrap();
            archived
        });
        append(&mut archive, &tasks.collect::<Vec<_>>());
        let history = History::new(storage);
        let before = |id: &str, limit| {
            let found = history.attempts_before(&id.parse().unwrap(), limit);
            let ids = found.unwrap();
            let ids = ids.iter().map(|archived| archived.task.id.to_string());
            ids.collect::<Vec<_>>()
        };
        assert_eq!(before("f1.t.301", 9), ["f1.t.300", "f1.t.5", "f1.t.1"]);
        assert_eq!(before("f1.t.300", 1), ["f1.t.5"]);
        assert!(before("f1.t.1", 9).is_empty());
    }

    #[test]
    fn a_replay_counts_once_and_the_oldest_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(folder.path()).unwrap();
        let limits = Limits {
            tasks: 10,
            bytes: u64::MAX,
            drop: 3,
        };
        let mut archive = Archive::open(storage.clone(), limits).unwrap();
        let tasks: Vec<_> = (1..=10).map(archived).collect();
        append(&mut archive, &tasks);
        append(&mut archive, &tasks);
        assert_eq!(archive.size.tasks, 10);
        append(&mut archive, &[archived(11)]);
        let mut reopened = Archive::open(storage.clone(), limits).unwrap();
        assert_eq!(reopened.size, archive.size);
        let history = History::new(storage);
        assert_eq!(
            indexes(history.scan_before(None, 100).unwrap()),
            (4..=11).rev().collect::<Vec<_>>()
        );
        assert!(history.get(&"f1.t.3".parse().unwrap()).unwrap().is_none());
        append(&mut reopened, &[archived(12)]);
        assert_eq!(reopened.size.tasks, 9);
    }
}
