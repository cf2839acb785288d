//! The network: how long a message takes, whether it comes, and how often.

use std::collections::BTreeSet;

use super::dice::Dice;

/// A place on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A master, by its number.
    Master(usize),
    /// An agent, by its number.
    Agent(usize),
}

/// How links are now.
#[derive(Debug)]
pub struct Network {
    /// Links that carry nothing, each in one direction.
    cut: BTreeSet<(Place, Place)>,
    /// Of ten thousand messages between masters.
    pub lost: u64,
    /// Of ten thousand messages between masters.
    pub doubled: u64,
    /// Microseconds that a message takes at least.
    pub least_us: u64,
    /// Microseconds that it may take more: later ones overtake it.
    pub jitter_us: u64,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            cut: BTreeSet::new(),
            lost: 0,
            doubled: 0,
            least_us: 100,
            jitter_us: 200,
        }
    }
}

impl Network {
    /// Cuts one direction.
    pub fn cut(&mut self, from: Place, to: Place) {
        self.cut.insert((from, to));
    }

    /// Whether a message gets through there now.
    pub fn carries(&self, from: Place, to: Place) -> bool {
        from == to || !self.cut.contains(&(from, to))
    }

    /// All links are whole and quick again.
    pub fn mend(&mut self) {
        *self = Self::default();
    }

    /// Cut links carry again.
    pub fn join(&mut self) {
        self.cut.clear();
    }

    /// How long a message takes.
    pub fn delay_us(&self, dice: &mut Dice) -> u64 {
        self.least_us + dice.below(self.jitter_us + 1)
    }

    /// How long each copy of a message takes that goes from one master to another; none if it is
    /// lost.
    pub fn copies(&self, dice: &mut Dice, from: Place, to: Place) -> Vec<u64> {
        if !self.carries(from, to) || dice.chance(self.lost) {
            return Vec::new();
        }
        let count = 1 + usize::from(dice.chance(self.doubled));
        (0..count).map(|_| self.delay_us(dice)).collect()
    }
}
