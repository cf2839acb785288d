//! Masters: who replicates the log, and where each is reached.
//!
//! The table says who shall be a member of the group; the leader changes raft's configuration, one
//! step at a time, until it is so. A master that is new begins as a learner and votes once it has
//! caught up, which is the leader's to see and not in here.

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

    /// Takes a master in, or notes that a known one has moved. One that comes with the address of
    /// another takes that one's place: its folder is gone, since the new one listens there.
    pub(super) fn add_master(&mut self, context: &mut Context, id: NodeId, url: &str) -> Outcome {
        if let Some(known) = self.masters.get(&id)
            && known.url == url
        {
            return Ok(Accepted::Master {
                master: id,
                revision: known.revision,
            });
        }
        let replaced: Vec<_> = self
            .masters
            .values()
            .filter(|master| master.url == url && master.id != id)
            .map(|master| master.id)
            .collect();
        let is_new = !self.masters.contains_key(&id) && replaced.is_empty();
        if is_new && self.masters.len() >= limits::MASTERS {
            return Err(Rejection::Limit(format!(
                "the cluster has {} masters, its most: remove one first",
                limits::MASTERS
            )));
        }
        for replaced in replaced {
            self.forget_master(context, replaced);
        }
        let added_at = self
            .masters
            .get(&id)
            .map_or(context.now, |master| master.added_at);
        let master = Master {
            id,
            url: url.to_owned(),
            added_at,
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
        if self.masters.len() == 1 {
            return Err(Rejection::Conflict(format!(
                "master {id} is the only one: add another before it is removed"
            )));
        }
        self.forget_master(context, id);
        Ok(Accepted::Master {
            master: id,
            revision: context.index,
        })
    }

    fn forget_master(&mut self, context: &mut Context, id: NodeId) {
        self.masters.remove(&id);
        context.changes.masters = true;
        context.event(EventBody::Master {
            master: id,
            present: false,
        });
    }
}
