//! What breaks, and when it is mended.
//!
//! Each seed draws how it is to be broken; then something breaks every moment, until peace: then
//! everything is mended, and all work must come to its end.

use super::checks::Violation;
use super::dice::Dice;
use super::masters::node;
use super::network::Place;
use super::world::{Happening, MILLI, SECOND, World};

/// How much breaks in a run.
#[derive(Debug)]
pub struct Faults {
    /// Of ten thousand turns, those that trap.
    pub traps: u64,
    /// Of ten thousand rounds of an agent, those in which it dies.
    pub agent_deaths: u64,
    /// Microseconds between two faults, at most.
    pause_us: u64,
    /// What there is of each kind of fault.
    weights: [u64; KINDS.len()],
    /// When the last fault was mended.
    pub peace_at: u64,
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy)]
enum Kind {
    StopMaster,
    DieInWrite,
    StopAgent,
    KillExecutor,
    CutLink,
    CutOff,
    SplitMasters,
    JoinLinks,
    BadNetwork,
    SlowDisk,
    ClockJump,
    Transfer,
    AddMaster,
    RemoveMaster,
    LoseDisk,
    UseAgent,
    ThrowAway,
}

const KINDS: [Kind; 17] = [
    Kind::StopMaster,
    Kind::DieInWrite,
    Kind::StopAgent,
    Kind::KillExecutor,
    Kind::CutLink,
    Kind::CutOff,
    Kind::SplitMasters,
    Kind::JoinLinks,
    Kind::BadNetwork,
    Kind::SlowDisk,
    Kind::ClockJump,
    Kind::Transfer,
    Kind::AddMaster,
    Kind::RemoveMaster,
    Kind::LoseDisk,
    Kind::UseAgent,
    Kind::ThrowAway,
];

impl Faults {
    /// How this seed breaks things: some kinds not at all, so that others are seen alone.
    pub fn draw(dice: &mut Dice) -> Self {
        let weights = KINDS.map(|_| match dice.chance(3_000) {
            true => 0,
            false => dice.within(1..10),
        });
        Self {
            traps: dice.below(300),
            agent_deaths: dice.below(300),
            pause_us: dice.within(200 * MILLI..4 * SECOND),
            weights,
            peace_at: u64::MAX / 2,
        }
    }
}

impl World {
    /// Something breaks, or is joined again.
    pub(super) fn on_fault(&mut self) -> Result<(), Violation> {
        if self.is_peace {
            return Ok(());
        }
        let pause = self.dice.below(self.faults.pause_us);
        self.after(pause, Happening::Fault);
        let total: u64 = self.faults.weights.iter().sum();
        if total == 0 {
            return Ok(());
        }
        let mut throw = self.dice.below(total);
        let mut kind = Kind::JoinLinks;
        for (candidate, weight) in KINDS.into_iter().zip(self.faults.weights) {
            if throw < weight {
                kind = candidate;
                break;
            }
            throw -= weight;
        }
        self.trace_with(|| format!("fault: {kind:?}"));
        let master = self.dice.place(self.masters.len());
        let agent = self.dice.place(self.agents.len());
        self.break_something(kind, master, agent)
    }

    fn break_something(
        &mut self,
        kind: Kind,
        master: usize,
        agent: usize,
    ) -> Result<(), Violation> {
        let back = self.dice.within(5 * MILLI..5 * SECOND);
        let power = self.dice.chance(5_000);
        match kind {
            Kind::StopMaster => {
                self.after(back, Happening::StartMaster(master));
                return self.stop_master(master, power);
            }
            Kind::DieInWrite => {
                let writes = self.dice.below(12);
                if self.masters[master].running.is_some() {
                    self.masters[master].disk.light_fuse(writes);
                }
            }
            Kind::StopAgent => {
                self.after(back, Happening::StartAgent(agent));
                return self.stop_agent(agent, power);
            }
            Kind::KillExecutor => {
                let living = self.agents[agent].living_executors();
                if !living.is_empty() {
                    let executor = living[self.dice.place(living.len())];
                    self.kill_executor(agent, executor);
                }
            }
            Kind::CutLink => {
                let (from, to) = (self.draw_place(), self.draw_place());
                self.network.cut(from, to);
            }
            Kind::CutOff => {
                let place = self.draw_place();
                self.cut_off(place, power);
            }
            Kind::SplitMasters => self.split_masters(),
            Kind::JoinLinks => self.network.join(),
            Kind::BadNetwork => {
                self.network.lost = self.dice.below(3_000);
                self.network.doubled = self.dice.below(2_000);
                self.network.least_us = self.dice.within(50..20 * MILLI);
                self.network.jitter_us = self.dice.below(200 * MILLI);
            }
            Kind::SlowDisk => {
                let sync_us = self.dice.within(100..400 * MILLI);
                self.masters[master].disk.set_sync_us(sync_us);
            }
            Kind::ClockJump => {
                // Forward by less than keys live, and not often: an hour at most.
                let by_ms = self.dice.below(20 * 60_000) as i64;
                let sign = if power { -3 } else { 1 };
                self.masters[master].clock.jump(sign * by_ms);
            }
            Kind::AddMaster => return self.bring_in(None),
            Kind::RemoveMaster => self.remove_one(),
            Kind::LoseDisk => return self.lose_disk(master),
            Kind::UseAgent => self.use_an_agent(),
            Kind::ThrowAway => return self.throw_away(agent, back),
            Kind::Transfer => {
                let to = node(self.dice.place(self.masters.len()));
                if let Some(running) = &mut self.masters[master].running {
                    running.transfer(to);
                    self.wake(master);
                }
            }
        }
        Ok(())
    }

    fn draw_place(&mut self) -> Place {
        let masters = self.masters.len();
        let place = self.dice.place(masters + self.agents.len());
        match place < masters {
            true => Place::Master(place),
            false => Place::Agent(place - masters),
        }
    }

    /// A place hears nothing any more; and says nothing, if both ways are cut.
    fn cut_off(&mut self, place: Place, both: bool) {
        let masters = (0..self.masters.len()).map(Place::Master);
        let agents = (0..self.agents.len()).map(Place::Agent);
        for other in masters.chain(agents).filter(|other| *other != place) {
            self.network.cut(other, place);
            if both {
                self.network.cut(place, other);
            }
        }
    }

    fn split_masters(&mut self) {
        let sides: Vec<bool> = self
            .masters
            .iter()
            .map(|_| self.dice.chance(5_000))
            .collect();
        for (one, side) in sides.iter().enumerate() {
            for (other, other_side) in sides.iter().enumerate() {
                if side != other_side {
                    self.network.cut(Place::Master(one), Place::Master(other));
                }
            }
        }
    }

    /// Everything is mended.
    pub(super) fn on_peace(&mut self) -> Result<(), Violation> {
        self.trace_with(|| "peace".into());
        self.is_peace = true;
        self.faults.peace_at = self.now;
        self.network.mend();
        for master in 0..self.masters.len() {
            let sync_us = self.dice.within(100..2_000);
            self.masters[master].disk.set_sync_us(sync_us);
            if !self.retired.contains(&master) {
                self.after(MILLI, Happening::StartMaster(master));
            }
        }
        for agent in 0..self.agents.len() {
            self.after(MILLI, Happening::StartAgent(agent));
        }
        Ok(())
    }
}
