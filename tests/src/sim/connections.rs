//! Connections between agents and masters: frames in order, until a link is cut under them.
//!
//! A frame that meets a cut link is lost, and everything after it on that connection; both ends
//! learn of it by silence alone, as they do of a machine that is gone.

use tepui_types::wire::agent::{AgentFrame, MasterFrame};

use super::checks::Violation;
use super::network::Place;
use super::world::{Happening, World};

impl World {
    pub(super) fn send_to_agent(&mut self, connection: u64, frame: MasterFrame) {
        let delay = self.network.delay_us(&mut self.dice);
        let Some(known) = self.connections.get_mut(&connection) else {
            return;
        };
        // Strictly later, so that the order stays.
        known.to_agent_at = (known.to_agent_at + 1).max(self.now + delay);
        let (at, frame) = (known.to_agent_at, Box::new(frame));
        self.at(at, Happening::ToAgent { connection, frame });
    }

    pub(super) fn send_to_master(&mut self, connection: u64, frame: AgentFrame) {
        let delay = self.network.delay_us(&mut self.dice);
        let Some(known) = self.connections.get_mut(&connection) else {
            return;
        };
        known.to_master_at = (known.to_master_at + 1).max(self.now + delay);
        let (at, frame) = (known.to_master_at, Box::new(frame));
        self.at(at, Happening::ToMaster { connection, frame });
    }

    /// The two ends, if a frame gets through now.
    pub(super) fn arrive(&mut self, connection: u64, to_master: bool) -> Option<(usize, usize)> {
        let known = self.connections.get_mut(&connection)?;
        let (agent, master) = (Place::Agent(known.agent), Place::Master(known.master));
        known.carries &= match to_master {
            true => self.network.carries(agent, master),
            false => self.network.carries(master, agent),
        };
        known.carries.then_some((known.agent, known.master))
    }

    /// One end hangs up; the other hears of it if the link is whole.
    pub(super) fn hang_up(&mut self, connection: u64, place: Place) {
        let Some(known) = self.connections.get(&connection) else {
            return;
        };
        let (agent, master, carries) = (known.agent, known.master, known.carries);
        match place {
            Place::Agent(_) => self.forget_master(connection, agent),
            Place::Master(_) => self.forget_session(connection, master),
        }
        let other = match place {
            Place::Agent(_) => Place::Master(master),
            Place::Master(_) => Place::Agent(agent),
        };
        if carries && self.network.carries(place, other) {
            let delay = self.network.delay_us(&mut self.dice);
            self.after(
                delay,
                Happening::HungUp {
                    connection,
                    place: other,
                },
            );
        } else if let Some(known) = self.connections.get_mut(&connection) {
            known.carries = false;
        }
    }

    /// A process is gone, and with it its end of every connection.
    pub(super) fn hang_up_all(&mut self, place: Place) {
        let is_mine = |agent: usize, master: usize| match place {
            Place::Agent(mine) => agent == mine,
            Place::Master(mine) => master == mine,
        };
        let mine: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, known)| is_mine(known.agent, known.master))
            .map(|(connection, _)| *connection)
            .collect();
        for connection in mine {
            self.hang_up(connection, place);
        }
    }

    pub(super) fn on_hung_up(&mut self, connection: u64, place: Place) -> Result<(), Violation> {
        match place {
            Place::Agent(agent) => self.forget_master(connection, agent),
            Place::Master(master) => self.forget_session(connection, master),
        }
        self.connections.remove(&connection);
        Ok(())
    }
}
