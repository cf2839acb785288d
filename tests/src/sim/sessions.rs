//! Agents' sessions on a leader: who is let in, what it is owed, one report after another.

use tepui_cluster::{Accepted, Command};
use tepui_master::proposals::{Committed, ProposeError, Request};
use tepui_types::wire::agent::{AgentFrame, MasterFrame, Welcome, effect_batches};
use tepui_types::{AgentId, AgentStatus, Principal};

use super::checks::Violation;
use super::leader::{HEARTBEAT_US, Purpose, SILENCE_US};
use super::network::Place;
use super::world::{Connection, MILLI, World};

impl World {
    /// An agent is at the door.
    pub(super) fn on_dialled(
        &mut self,
        connection: u64,
        hello: AgentFrame,
    ) -> Result<(), Violation> {
        let Some(Connection { agent, master, .. }) = self.connections.get(&connection) else {
            return Ok(());
        };
        let (agent, master) = (*agent, *master);
        let leads = self.leader(master).is_some();
        let AgentFrame::Hello(hello) = hello else {
            return Err("an agent says nothing of itself first".into());
        };
        if !leads
            || !self
                .network
                .carries(Place::Agent(agent), Place::Master(master))
        {
            self.hang_up(connection, Place::Master(master));
            return Ok(());
        }
        let Some(running) = &mut self.masters[master].running else {
            return Ok(());
        };
        let principal = match hello.agent {
            Some(agent) => Principal::Agent(agent),
            None => Principal::Leader,
        };
        let command = Command::from(hello);
        running.propose(
            Purpose::Register { connection },
            Request::new(principal, command),
        );
        self.wake(master);
        Ok(())
    }

    pub(super) fn on_registered(
        &mut self,
        connection: u64,
        result: Result<Committed, ProposeError>,
    ) -> Result<(), Violation> {
        let Some(Connection { master, .. }) = self.connections.get(&connection) else {
            return Ok(());
        };
        let master = *master;
        let agent = match result {
            Ok(Committed {
                outcome: Ok(Accepted::Agent { agent }),
                ..
            }) => agent,
            Ok(Committed { outcome, .. }) => {
                return Err(format!("an agent is turned away: {outcome:?}"));
            }
            Err(_) => {
                self.hang_up(connection, Place::Master(master));
                return Ok(());
            }
        };
        let now = self.now;
        let Some(running) = &mut self.masters[master].running else {
            return Ok(());
        };
        let state = running.log.view.load();
        let Some(leader) = &mut running.leader else {
            return Ok(());
        };
        let term = leader.term;
        let before = leader.sessions.insert(agent, connection);
        leader.heard.insert(agent, now);
        let welcome = Welcome {
            cluster: state.cluster,
            masters: Vec::new(),
            agent,
            term,
            heartbeat_ms: HEARTBEAT_US / MILLI,
            timeout_ms: SILENCE_US / MILLI,
        };
        if let Some(before) = before {
            self.hang_up(before, Place::Master(master));
        }
        // Hanging up the older session took the table's entry with it.
        if let Some(leader) = self.leader(master) {
            leader.sessions.insert(agent, connection);
        }
        self.send_to_agent(connection, MasterFrame::Welcome(welcome));
        if state
            .agent(agent)
            .is_none_or(|agent| agent.status != AgentStatus::Active)
        {
            self.hang_up(connection, Place::Master(master));
            return Ok(());
        }
        for effects in effect_batches(state.owed_to(agent)) {
            self.send_to_agent(connection, MasterFrame::Effects { term, effects });
        }
        Ok(())
    }

    /// A frame of an agent's.
    pub(super) fn on_agent_frame(
        &mut self,
        connection: u64,
        frame: AgentFrame,
    ) -> Result<(), Violation> {
        let Some((_, master)) = self.arrive(connection, true) else {
            return Ok(());
        };
        let now = self.now;
        let Some(leader) = self.leader(master) else {
            return Ok(());
        };
        let session = leader
            .sessions
            .iter()
            .find(|(_, session)| **session == connection);
        let Some(id) = session.map(|(agent, _)| *agent) else {
            return Ok(());
        };
        leader.heard.insert(id, now);
        let inbox = leader.inboxes.entry(connection).or_default();
        let is_first = inbox.is_empty();
        if let AgentFrame::Heartbeat(sent) = frame {
            self.send_to_agent(connection, MasterFrame::Heard(sent));
            return Ok(());
        }
        inbox.push_back(frame);
        if is_first {
            self.report_next(connection, id, master);
        }
        Ok(())
    }

    /// Proposes the oldest frame of a connection; the next waits for what becomes of it.
    fn report_next(&mut self, connection: u64, agent: AgentId, master: usize) {
        let Some(running) = &mut self.masters[master].running else {
            return;
        };
        let Some(leader) = &mut running.leader else {
            return;
        };
        let Some(AgentFrame::Statuses(reports)) =
            leader.inboxes.entry(connection).or_default().front()
        else {
            return;
        };
        let command = Command::ReportTasks {
            agent,
            reports: reports.clone(),
        };
        let request = Request::new(Principal::Agent(agent), command);
        running.propose(Purpose::Report { connection }, request);
        self.wake(master);
    }

    pub(super) fn on_reported(
        &mut self,
        connection: u64,
        result: Result<Committed, ProposeError>,
    ) -> Result<(), Violation> {
        let Some(Connection { master, .. }) = self.connections.get(&connection) else {
            return Ok(());
        };
        let master = *master;
        if result.is_err() {
            // A report that is not taken is sent again by the agent's next session.
            self.hang_up(connection, Place::Master(master));
            return Ok(());
        }
        let now = self.now;
        let Some(leader) = self.leader(master) else {
            return Ok(());
        };
        if let Some(inbox) = leader.inboxes.get_mut(&connection) {
            inbox.pop_front();
        }
        let session = leader
            .sessions
            .iter()
            .find(|(_, session)| **session == connection);
        if let Some(agent) = session.map(|(agent, _)| *agent) {
            leader.heard.insert(agent, now);
            self.report_next(connection, agent, master);
        }
        Ok(())
    }
}
