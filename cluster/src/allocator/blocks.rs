//! Agents by what is free on them, the smallest first.
//!
//! The order is by gpus, cpus and memory: who asks for no gpus meets agents with
//! some last, and large agents stay whole for large demands. The list is cut
//! into blocks, and each knows the most of every resource that any agent in it
//! has, so a search skips what cannot do. The order, and so every answer, is the
//! same however the list has come to be.

use tepui_types::AgentId;
use tepui_types::resources::ResourceRequest;

use super::traits::TraitsId;

/// A block is split when it has so many: what is moved for one change, and read
/// when a block is not skipped, stays about as much as the list of blocks at
/// 50,000 agents.
const MOST: usize = 256;

/// What is free on agents; those with nothing free are not in it.
#[derive(Debug, Default)]
pub(super) struct Blocks(Vec<Block>);

#[derive(Debug)]
struct Block {
    /// Sorted; never empty.
    entries: Vec<Entry>,
    most: Free,
}

/// In the order of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    free: Free,
    agent: AgentId,
    /// Whoever searches may choose by it.
    traits: TraitsId,
}

/// Amounts in the order of their weight for the list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Free {
    gpus: u64,
    cpus: u64,
    mem: u64,
    disk: u64,
    ports: u64,
}

impl Blocks {
    /// Takes an agent in.
    pub fn insert(&mut self, agent: AgentId, traits: TraitsId, free: &ResourceRequest) {
        let free = Free::from(free);
        let entry = Entry {
            free,
            agent,
            traits,
        };
        if self.0.is_empty() {
            let entries = Vec::with_capacity(MOST);
            let most = Free::default();
            self.0.push(Block { entries, most });
        }
        let index = self.block(&entry).min(self.0.len() - 1);
        let block = &mut self.0[index];
        let at = block.entries.partition_point(|other| *other < entry);
        block.entries.insert(at, entry);
        block.most = block.most.or_more(&free);
        if block.entries.len() >= MOST {
            let entries = block.entries.split_off(MOST / 2);
            block.refresh();
            let mut upper = Block {
                entries,
                most: Free::default(),
            };
            upper.refresh();
            self.0.insert(index + 1, upper);
        }
    }

    /// Takes an agent out that was put in with these amounts.
    pub fn remove(&mut self, agent: AgentId, traits: TraitsId, free: &ResourceRequest) {
        let free = Free::from(free);
        let entry = Entry {
            free,
            agent,
            traits,
        };
        let index = self.block(&entry);
        let Some(block) = self.0.get_mut(index) else {
            return;
        };
        let Ok(at) = block.entries.binary_search(&entry) else {
            return;
        };
        block.entries.remove(at);
        if block.entries.is_empty() {
            self.0.remove(index);
        } else if block.most.is_reached_by(&free) {
            block.refresh();
        }
    }

    /// The first agent on which a request may fit and that is accepted.
    pub fn find<T>(
        &self,
        request: &ResourceRequest,
        mut accept: impl FnMut(AgentId, TraitsId) -> Option<T>,
    ) -> Option<T> {
        let wanted = Free::from(request);
        // Whatever is before this has too few gpus, or as many and too few cpus.
        let from = Entry {
            free: Free {
                gpus: wanted.gpus,
                cpus: wanted.cpus,
                ..Free::default()
            },
            agent: AgentId(0),
            traits: TraitsId::NONE,
        };
        for block in &self.0[self.block(&from)..] {
            if !wanted.fits_in(&block.most) {
                continue;
            }
            let fitting = block.entries.iter();
            let mut fitting = fitting.filter(|entry| wanted.fits_in(&entry.free));
            if let Some(answer) = fitting.find_map(|entry| accept(entry.agent, entry.traits)) {
                return Some(answer);
            }
        }
        None
    }

    /// The block that holds this entry, or would.
    fn block(&self, entry: &Entry) -> usize {
        self.0
            .partition_point(|block| block.entries.last().is_some_and(|last| last < entry))
    }
}

impl Block {
    fn refresh(&mut self) {
        let entries = self.entries.iter();
        self.most = entries.fold(Free::default(), |most, entry| most.or_more(&entry.free));
    }
}

impl Free {
    fn fits_in(&self, other: &Self) -> bool {
        self.gpus <= other.gpus
            && self.cpus <= other.cpus
            && self.mem <= other.mem
            && self.disk <= other.disk
            && self.ports <= other.ports
    }

    fn or_more(&self, other: &Self) -> Self {
        Self {
            gpus: self.gpus.max(other.gpus),
            cpus: self.cpus.max(other.cpus),
            mem: self.mem.max(other.mem),
            disk: self.disk.max(other.disk),
            ports: self.ports.max(other.ports),
        }
    }

    /// Whether `other` has the most of something.
    fn is_reached_by(&self, other: &Self) -> bool {
        self.gpus == other.gpus
            || self.cpus == other.cpus
            || self.mem == other.mem
            || self.disk == other.disk
            || self.ports == other.ports
    }
}

impl From<&ResourceRequest> for Free {
    fn from(amounts: &ResourceRequest) -> Self {
        Self {
            gpus: amounts.gpus_milli,
            cpus: amounts.cpus.0,
            mem: amounts.mem.0,
            disk: amounts.disk.0,
            ports: amounts.ports,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use tepui_types::{Bytes, MilliCpus};

    fn amounts(cpus: u64, mem: u64, gpus: u64) -> ResourceRequest {
        ResourceRequest {
            cpus: MilliCpus(cpus),
            mem: Bytes(mem),
            gpus_milli: gpus,
            ..ResourceRequest::default()
        }
    }

    proptest! {
        #[test]
        fn a_search_finds_what_a_look_at_all_finds(
            changes in proptest::collection::vec((0u64..900, 1u64..9, 1u64..9, 0u64..2), 1..1500),
            wanted in (0u64..9, 0u64..9, 0u64..2),
        ) {
            let mut blocks = Blocks::default();
            let mut all = std::collections::BTreeMap::new();
            for (agent, cpus, mem, gpus) in changes {
                let free = amounts(cpus, mem, gpus);
                if let Some(before) = all.insert(AgentId(agent), free.clone()) {
                    blocks.remove(AgentId(agent), TraitsId::NONE, &before);
                }
                // Some are taken out and stay out.
                if cpus == 1 {
                    all.remove(&AgentId(agent));
                } else {
                    blocks.insert(AgentId(agent), TraitsId::NONE, &free);
                }
            }
            let request = amounts(wanted.0, wanted.1, wanted.2);
            let mut found = Vec::new();
            blocks.find(&request, |agent, _| {
                found.push(agent);
                None::<()>
            });
            let mut fitting: Vec<_> = all.iter().filter(|(_, free)| request.fits_in(free)).collect();
            fitting.sort_by_key(|(agent, free)| (free.gpus_milli, free.cpus, free.mem, **agent));
            let fitting: Vec<_> = fitting.into_iter().map(|(agent, _)| *agent).collect();
            prop_assert_eq!(found, fitting);
        }
    }
}
