//! What masters say to each other, on its way over simulated links.

use raft::eraftpb::Message;
use tepui_master::raft::world::Saying;
use tepui_types::wire::peer::Standing;

use super::Sabotage;
use super::checks::Violation;
use super::machine::change_entries;
use super::masters::node;
use super::network::Place;
use super::world::{Happening, MILLI, World};

impl World {
    pub(super) fn on_message(
        &mut self,
        from: usize,
        to: usize,
        mut message: Message,
    ) -> Result<(), Violation> {
        if self.masters[to].running.is_none() {
            let delay = self.network.delay_us(&mut self.dice);
            self.after(delay, Happening::Unreachable { from, to });
            return Ok(());
        }
        if !self.lets_in(from, to) {
            return Ok(());
        }
        if self.is_sabotaged(Sabotage::ChangeEntries) && to == 0 {
            change_entries(&mut message);
        }
        let Some(running) = &self.masters[to].running else {
            return Ok(());
        };
        running.log.handle.step(vec![message]);
        self.wake(to);
        Ok(())
    }

    pub(super) fn on_standing(
        &mut self,
        from: usize,
        to: usize,
        standing: Standing,
    ) -> Result<(), Violation> {
        if self.masters[to].running.is_none() || !self.lets_in(from, to) {
            return Ok(());
        }
        if let Some(running) = &self.masters[to].running {
            running.log.handle.standing(node(from), standing);
            self.wake(to);
        }
        Ok(())
    }

    pub(super) fn on_unreachable(&mut self, from: usize, to: usize) -> Result<(), Violation> {
        if let Some(running) = &self.masters[from].running {
            running.log.handle.unreachable(node(to));
            self.wake(from);
        }
        Ok(())
    }

    pub(super) fn send(&mut self, from: usize, to: usize, saying: Saying, spent: u64) {
        let (from_place, to_place) = (Place::Master(from), Place::Master(to));
        if to >= self.masters.len() {
            return;
        }
        let copies = self.network.copies(&mut self.dice, from_place, to_place);
        if copies.is_empty() && self.dice.chance(3_000) {
            self.after(spent + MILLI, Happening::Unreachable { from, to });
        }
        for delay in copies {
            let happening = match &saying {
                Saying::Message(message) => Happening::Message {
                    from,
                    to,
                    message: message.clone(),
                },
                Saying::Standing(standing) => Happening::Standing {
                    from,
                    to,
                    standing: *standing,
                },
                Saying::ImageLost => Happening::Unreachable { from: to, to: from },
            };
            self.after(spent + delay, happening);
        }
    }
}
