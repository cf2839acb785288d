//! What only the leader does: effects, allocation, frameworks.
//!
//! Its loop takes what applied commands leave, forwards effects to agents, lets
//! the allocator look at what has changed and hands its decisions to the
//! frameworks. All of it is soft: a new leader derives it from the state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tepui_cluster::{Changes, Effect};
use tepui_types::wire::agent::AgentEffect;
use tepui_types::{AgentId, TaskId, TaskState};

use crate::Master;
use crate::agents::liveness;
use crate::mailbox::Delivery;
use crate::raft::Leadership;

pub mod allocation;
pub mod deadlines;
pub mod offers;
pub mod preemption;

use allocation::Allocation;

/// Leads whenever this master is the leader; runs until it is dropped.
pub async fn follow_leadership(master: Arc<Master>) {
    let mut leadership = master.leadership.clone();
    loop {
        let now = *leadership.borrow_and_update();
        let ended = match now {
            Leadership::Leader { term } => tokio::select! {
                () = lead(term, &master) => Ok(()),
                ended = leadership.changed() => ended,
            },
            Leadership::Follower { .. } => leadership.changed().await,
        };
        if ended.is_err() {
            // The log's thread is gone, and the master with it.
            return;
        }
    }
}

/// Leads during one term, whose first entry is applied; runs until it is dropped.
async fn lead(term: u64, master: &Master) {
    let leader = Leader::new(term, master);
    tokio::join!(
        leader.run(),
        liveness::watch(master),
        deadlines::keep(master),
        preemption::keep(master)
    );
}

/// What wakes the loop.
enum Event {
    /// Commands were applied.
    Delivery(Delivery),
    /// A framework has answered offers.
    OffersAnswered,
    /// An offer or a filter is over.
    Deadline,
}

struct Leader<'a> {
    master: &'a Master,
    allocation: Allocation,
}

impl<'a> Leader<'a> {
    /// Takes over: everything is derived from the state.
    fn new(term: u64, master: &'a Master) -> Self {
        tracing::info!(term, "leading");
        let state = master.view.load();
        master.sessions.lead(term, &state);
        master.offers.begin(&state, &master.sessions);
        let allocation = Allocation::new(master.offers.clone(), master.clock.clone());
        master.sessions.resend_owed(&state);
        master.frameworks.lead(term);
        Self { master, allocation }
    }

    async fn run(&self) {
        self.allocate(&Changes::default());
        loop {
            match self.next_event().await {
                Event::Delivery(delivery) => self.on_delivery(delivery),
                Event::OffersAnswered | Event::Deadline => self.allocate(&Changes::default()),
            }
        }
    }

    async fn next_event(&self) -> Event {
        let deadline = self.allocation.next_deadline();
        tokio::select! {
            delivery = self.master.mailbox.take() => Event::Delivery(delivery),
            () = self.master.offers.changed() => Event::OffersAnswered,
            () = sleep(deadline) => Event::Deadline,
        }
    }

    fn on_delivery(&self, delivery: Delivery) {
        let Delivery {
            effects,
            changes,
            overflowed,
        } = delivery;
        if overflowed {
            self.master.sessions.resend_owed(&self.master.view.load());
        }
        for (agent, owed) in by_agent(effects) {
            if !owed.effects.is_empty() {
                self.master.sessions.deliver(agent, owed.effects);
            }
            if !owed.recorded.is_empty() {
                self.master.sessions.recorded(agent, owed.recorded);
            }
        }
        if changes.masters {
            self.master
                .sessions
                .masters_changed(&self.master.view.load());
        }
        // What was freed is offered first: a framework then has the offer and the news of what
        // freed it in one turn, and the log one command less.
        self.allocate(&changes);
        self.master.frameworks.on_changes(&changes);
    }

    fn allocate(&self, changes: &Changes) {
        let decisions = self.allocation.run(&self.master.view, changes);
        if !decisions.is_empty() {
            self.master.frameworks.on_decisions(decisions);
        }
    }
}

/// What only a leader does stops with the term.
impl Drop for Leader<'_> {
    fn drop(&mut self) {
        tracing::info!("leading no longer");
        self.master.frameworks.stop_leading();
        self.master.sessions.stop_leading();
        self.master.offers.reset();
    }
}

/// What one agent is to be told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Owed {
    effects: Vec<AgentEffect>,
    recorded: Vec<(TaskId, TaskState)>,
}

/// Groups a delivery, so that each agent gets few frames; each agent's effects
/// keep their order.
fn by_agent(effects: Vec<Effect>) -> BTreeMap<AgentId, Owed> {
    let mut agents = BTreeMap::<AgentId, Owed>::new();
    for effect in effects {
        match effect {
            Effect::Agent(agent, effect) => agents.entry(agent).or_default().effects.push(effect),
            Effect::Recorded(agent, tasks) => {
                agents.entry(agent).or_default().recorded.extend(tasks);
            }
            // Every master's business, the leader's no more than others'.
            Effect::Archive(_) => {}
        }
    }
    agents
}

async fn sleep(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tepui_types::{FrameworkId, TaskName};

    #[test]
    fn an_agents_effects_keep_their_order() {
        let task = |attempt| TaskId {
            framework: FrameworkId(1),
            name: TaskName::new("x").unwrap(),
            attempt,
        };
        let kill = |attempt| AgentEffect::Kill {
            task: task(attempt),
            grace_ms: 0,
        };
        let (one, two) = (AgentId(1), AgentId(2));
        let effects = vec![
            Effect::Agent(one, kill(1)),
            Effect::Agent(two, kill(2)),
            Effect::Recorded(one, vec![(task(0), TaskState::Finished)]),
            Effect::Agent(one, kill(3)),
        ];
        let agents = by_agent(effects);
        assert_eq!(agents[&one].effects, [kill(1), kill(3)]);
        assert_eq!(agents[&one].recorded, [(task(0), TaskState::Finished)]);
        assert_eq!(agents[&two].effects, [kill(2)]);
    }
}
