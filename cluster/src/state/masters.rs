//! Masters: who replicates the log, and where each is reached.
//!
//! The table says who shall be a member of the group; the leader changes raft's configuration, one
//! step at a time, until it is so. A master that is new begins as a learner and votes once it has
//! caught up, which is the leader's to see and not in here. One that is to leave stays in the table,
//! and so within reach, until it is no member any more: its vote is needed for its own removal.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tepui_types::api::event::EventBody;
use tepui_types::{ClusterId, NodeId, Timestamp};

use crate::outcome::{Accepted, Outcome, Rejection};
use crate::state::State;
use crate::state::context::Context;
use crate::state::limits;

/// One master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Master {
    /// Its id, minted with its data folder.
    pub id: NodeId,
    /// Where other masters, agents and people reach it, without a slash at its end.
    pub url: String,
    /// Whether it is on its way out.
    pub is_leaving: bool,
    /// When it came to be a member.
    pub added_at: Timestamp,
    /// Log index of its last change.
    pub revision: u64,
}

impl State {
    /// An empty cluster of these masters, the same whoever lists them.
    pub fn founded(
        cluster: ClusterId,
        masters: impl IntoIterator<Item = (NodeId, String)>,
    ) -> Self {
        let mut state = Self::new(cluster);
        for (id, url) in masters {
            let master = Master {
                id,
                url,
                is_leaving: false,
                added_at: Timestamp::default(),
                revision: 0,
            };
            state.masters.insert(id, Arc::new(master));
        }
        state
    }

    /// The master with this id.
    pub fn master(&self, id: NodeId) -> Option<&Arc<Master>> {
        self.masters.get(&id)
    }

    /// Those that are to be members.
    pub fn staying_masters(&self) -> impl Iterator<Item = &Arc<Master>> {
        self.masters.values().filter(|master| !master.is_leaving)
    }

    /// Takes a master in, or notes that a known one has moved. One that comes with the address of
    /// another takes that one's place: its folder is gone, since the new one listens there.
    pub(super) fn add_master(&mut self, context: &mut Context, id: NodeId, url: &str) -> Outcome {
        let known = self.masters.get(&id).cloned();
        if let Some(known) = &known {
            if known.is_leaving {
                return Err(Rejection::Conflict(format!(
                    "master {id} was removed: it comes back with an empty folder, as another one"
                )));
            }
            if known.url == url {
                let (master, revision) = (id, known.revision);
                return Ok(Accepted::Master { master, revision });
            }
        }
        let stays = self.staying_masters();
        let replaced = stays.filter(|master| master.url == url && master.id != id);
        let replaced: Vec<_> = replaced.map(|master| master.id).collect();
        let is_one_more = known.is_none() && replaced.is_empty();
        if is_one_more && self.staying_masters().count() >= limits::MASTERS {
            return Err(Rejection::Limit(format!(
                "the cluster has {} masters, its most: remove one first",
                limits::MASTERS
            )));
        }
        for replaced in replaced {
            self.dismiss_master(context, replaced);
        }
        let master = Master {
            id,
            url: url.to_owned(),
            is_leaving: false,
            added_at: known.map_or(context.now, |known| known.added_at),
            revision: context.index,
        };
        self.masters.insert(id, Arc::new(master));
        context.changes.masters = true;
        context.event(EventBody::Master {
            master: id,
            present: true,
        });
        Ok(Accepted::Master {
            master: id,
            revision: context.index,
        })
    }

    /// Lets a master go: it leaves the group, and the table after that.
    pub(super) fn remove_master(
        &mut self,
        context: &mut Context,
        id: NodeId,
        expected: Option<u64>,
    ) -> Outcome {
        let Some(master) = self.masters.get(&id) else {
            return Err(Rejection::NotFound(format!("there is no master {id}")));
        };
        context.check_revision(expected, master.revision)?;
        if master.is_leaving {
            let revision = master.revision;
            return Ok(Accepted::Master {
                master: id,
                revision,
            });
        }
        if self.staying_masters().count() == 1 {
            return Err(Rejection::Conflict(format!(
                "master {id} is the only one: add another before it is removed"
            )));
        }
        self.dismiss_master(context, id);
        Ok(Accepted::Master {
            master: id,
            revision: context.index,
        })
    }

    /// Forgets a master that has left the group; the leader says so.
    pub(super) fn forget_master(&mut self, context: &mut Context, id: NodeId) -> Outcome {
        if self
            .masters
            .get(&id)
            .is_some_and(|master| master.is_leaving)
        {
            self.masters.remove(&id);
            context.changes.masters = true;
        }
        Ok(Accepted::Done)
    }

    fn dismiss_master(&mut self, context: &mut Context, id: NodeId) {
        let Some(master) = self.masters.get_mut(&id) else {
            return;
        };
        let master = Arc::make_mut(master);
        master.is_leaving = true;
        master.revision = context.index;
        context.changes.masters = true;
        context.event(EventBody::Master {
            master: id,
            present: false,
        });
    }
}
