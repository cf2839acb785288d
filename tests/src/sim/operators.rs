//! What operators do with agents while everything else breaks, and what they set right in the end.
//!
//! Agents are taken out of use, drained and opened again; a machine is thrown away and comes back
//! with an empty folder, upon which the agent that it was is marked as gone, sooner or later.

use tepui_cluster::{Command, State};
use tepui_types::{AgentId, AgentStatus};

use super::checks::Violation;
use super::world::{Happening, World};

/// Machines of agents that are thrown away in one run.
const THROWN_AWAY: usize = 3;

impl World {
    /// An operator does something with an agent that a leader knows.
    pub(super) fn use_an_agent(&mut self) {
        let Some(leader) = self.leading() else {
            return;
        };
        let Some(running) = &self.masters[leader].running else {
            return;
        };
        let known: Vec<AgentId> = running.state().agents.keys().copied().collect();
        if known.is_empty() {
            return;
        }
        let agent = known[self.dice.place(known.len())];
        let command = match self.dice.below(4) {
            0 => Command::DeactivateAgent { agent },
            1 => Command::DrainAgent {
                agent,
                deadline_ms: Some(self.dice.below(20_000)),
                grace_ms: Some(self.dice.below(3_000)),
                mark_gone: false,
            },
            2 => match self.lost_agents.last() {
                Some(lost) => Command::MarkAgentGone { agent: *lost },
                None => Command::ReactivateAgent { agent },
            },
            _ => Command::ReactivateAgent { agent },
        };
        self.order(leader, command);
    }

    /// A machine is thrown away; another comes with its name and an empty folder.
    pub(super) fn throw_away(&mut self, number: usize, back: u64) -> Result<(), Violation> {
        let Some(agent) = self.agents[number].id() else {
            return Ok(());
        };
        if self.lost_agents.len() >= THROWN_AWAY {
            return Ok(());
        }
        self.stop_agent(number, true)?;
        self.lost_agents.push(agent);
        let nonce = self.dice.throw_wide();
        self.agents[number].empty(nonce);
        self.after(back, Happening::StartAgent(number));
        Ok(())
    }

    /// What an operator has to set right: agents that will not come back, and such that are not
    /// offered any more.
    pub(super) fn to_set_right(&self, state: &State) -> Option<Command> {
        let lost = self.lost_agents.iter();
        if let Some(agent) = lost.copied().find(|agent| state.agent(*agent).is_some()) {
            return Some(Command::MarkAgentGone { agent });
        }
        let mut closed = state.agents.values().filter(|agent| {
            let standing = agent.standing();
            !matches!(standing, AgentStatus::Active | AgentStatus::Unreachable)
        });
        let agent = closed.next()?.id;
        Some(Command::ReactivateAgent { agent })
    }
}
