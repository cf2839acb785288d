//! The disk of a simulated master: keeps what was synced, and loses of the rest what a machine may.
//!
//! Batches are whole, as RocksDB writes them. When the process dies, what was written without a log
//! is lost; when the machine does, so is any number of the last batches that no sync followed, and
//! the note of what was synced goes back to any value that it had since it was last on the disk.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tepui_master::error::StorageError;
use tepui_master::storage::watermark::Mark;
use tepui_master::storage::{Batch, Direction, Disk, Durability, Family, Scan, Visit, Write};

use super::dice::Dice;

type Tables = BTreeMap<(Family, Vec<u8>), Vec<u8>>;

/// A disk; clones share it.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// What its readers see.
    seen: Tables,
    /// What is there after whatever comes.
    durable: Tables,
    /// What was written since the last sync, in order.
    ordered: Vec<Vec<Write>>,
    /// What a flush makes durable.
    unlogged: Vec<Write>,
    mark: Mark,
    /// What the note on the disk may say after the machine's death, beside what it says now.
    older_marks: Vec<Mark>,
    /// Microseconds that a sync takes.
    sync_us: u64,
    /// Microseconds that were spent since someone last asked.
    spent_us: u64,
    /// Writes until the process dies in the midst of one.
    fuse: Option<u64>,
    is_dead: bool,
    /// A disk that says that it has synced, and has not: to see whether that is found out.
    lies: bool,
}

impl MemoryDisk {
    /// An empty disk, or one that lies about its syncs.
    pub fn new(lies: bool) -> Self {
        let disk = Self::default();
        disk.inner().lies = lies;
        disk
    }

    /// How long a sync takes from now on.
    pub fn set_sync_us(&self, sync_us: u64) {
        self.inner().sync_us = sync_us;
    }

    /// Microseconds that were spent in it in this step until now.
    pub fn spent_us(&self) -> u64 {
        self.inner().spent_us
    }

    /// The same, and the next step begins.
    pub fn take_spent_us(&self) -> u64 {
        std::mem::take(&mut self.inner().spent_us)
    }

    /// The process dies in one of its next writes.
    pub fn light_fuse(&self, writes: u64) {
        self.inner().fuse = Some(writes);
    }

    /// Whether the process has died in a write.
    pub fn is_dead(&self) -> bool {
        self.inner().is_dead
    }

    /// The process is gone; what the system had taken is there.
    pub fn kill(&self) {
        let mut inner = self.inner();
        let ordered = std::mem::take(&mut inner.ordered);
        inner.begin_anew(ordered);
    }

    /// The machine is gone, and some of what was not synced.
    pub fn cut_power(&self, dice: &mut Dice) {
        let mut inner = self.inner();
        let mut ordered = std::mem::take(&mut inner.ordered);
        ordered.truncate(dice.place(ordered.len() + 1));
        let mut marks = std::mem::take(&mut inner.older_marks);
        marks.push(inner.mark);
        inner.mark = marks[dice.place(marks.len())];
        inner.begin_anew(ordered);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn begin_anew(&mut self, ordered: Vec<Vec<Write>>) {
        for write in ordered.into_iter().flatten() {
            apply(&mut self.durable, write);
        }
        self.seen = self.durable.clone();
        self.unlogged.clear();
        self.fuse = None;
        self.is_dead = false;
        self.spent_us = 0;
    }

    fn check(&mut self) -> Result<(), StorageError> {
        if let Some(fuse) = &mut self.fuse {
            self.is_dead |= *fuse == 0;
            *fuse = fuse.saturating_sub(1);
        }
        if self.is_dead { Err(off()) } else { Ok(()) }
    }

    fn sync(&mut self) {
        self.spent_us += self.sync_us;
        if self.lies {
            return;
        }
        for write in std::mem::take(&mut self.ordered).into_iter().flatten() {
            apply(&mut self.durable, write);
        }
    }
}

fn off() -> StorageError {
    StorageError::Watermark {
        path: "disk".into(),
        source: io::Error::other("the machine is off"),
    }
}

fn apply(tables: &mut Tables, write: Write) {
    match write {
        Write::Put(family, key, value) => {
            tables.insert((family, key), value);
        }
        Write::Delete(family, key) => {
            tables.remove(&(family, key));
        }
        Write::DeleteRange(family, from, to) => {
            let gone = tables.range((family, from)..(family, to));
            let gone: Vec<_> = gone.map(|(key, _)| key.clone()).collect();
            for key in gone {
                tables.remove(&key);
            }
        }
    }
}

impl Disk for MemoryDisk {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.inner().seen.get(&(family, key.to_vec())).cloned())
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError> {
        let inner = self.inner();
        let from = (family, from.to_vec());
        let mut see = |(key, value): (&(Family, Vec<u8>), &Vec<u8>)| {
            Ok::<_, StorageError>(key.0 == family && visit(&key.1, value)? == Scan::Continue)
        };
        match direction {
            Direction::Up => {
                for item in inner.seen.range((Bound::Included(from), Bound::Unbounded)) {
                    if !see(item)? {
                        break;
                    }
                }
            }
            Direction::Down => {
                let range = inner.seen.range((Bound::Unbounded, Bound::Included(from)));
                for item in range.rev() {
                    if !see(item)? {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        let mut inner = self.inner();
        let result = inner.check();
        let writes = batch.into_writes();
        // A process that dies in a write may have written, and has not heard of it.
        for write in &writes {
            apply(&mut inner.seen, write.clone());
        }
        match durability {
            Durability::Unlogged => inner.unlogged.extend(writes),
            Durability::Ordered | Durability::Synced => inner.ordered.push(writes),
        }
        if result.is_ok() && durability == Durability::Synced {
            inner.sync();
        }
        result
    }

    fn flush(&self, family: Family) -> Result<(), StorageError> {
        let mut inner = self.inner();
        inner.check()?;
        let of_family = |write: &Write| match write {
            Write::Put(other, ..) | Write::Delete(other, ..) | Write::DeleteRange(other, ..) => {
                *other == family
            }
        };
        let unlogged = std::mem::take(&mut inner.unlogged);
        let (flushed, rest) = unlogged.into_iter().partition(of_family);
        inner.unlogged = rest;
        // RocksDB syncs the logs that belong to what it flushes.
        inner.ordered.push(flushed);
        inner.sync();
        Ok(())
    }

    fn mark(&self) -> Result<Mark, StorageError> {
        Ok(self.inner().mark)
    }

    fn set_mark(&self, mark: Mark) -> Result<(), StorageError> {
        /// Older values that the disk may still hold: the system writes them back in the end.
        const KEPT: usize = 8;
        let mut inner = self.inner();
        inner.check()?;
        let before = std::mem::replace(&mut inner.mark, mark);
        inner.older_marks.push(before);
        if inner.older_marks.len() > KEPT {
            inner.older_marks.remove(0);
        }
        Ok(())
    }

    fn take_back_mark(&self, mark: Mark) -> Result<(), StorageError> {
        let mut inner = self.inner();
        inner.check()?;
        inner.spent_us += inner.sync_us;
        inner.mark = mark;
        inner.older_marks.clear();
        Ok(())
    }
}
