//! The pure core of Tepui: what the cluster is, and what it decides.
//!
//! [`State::apply`] is a function of a state and a command, the same on every
//! master, byte for byte; [`Allocator::allocate`] is a function of a state and
//! the leader's outstanding offers. Neither does I/O, reads a clock, draws
//! randomness, uses floats or iterates in hash order: time, ids and seeds
//! arrive as arguments.

pub mod allocator;
pub mod charge;
pub mod command;
pub mod effect;
pub mod envelope;
pub mod explain;
pub mod feasibility;
pub mod outcome;
pub mod state;
pub mod version;

pub use allocator::{Allocator, Decision};
pub use command::{Command, Turn, TurnKind};
pub use effect::{Applied, Changes, Effect};
pub use envelope::Envelope;
pub use outcome::{Accepted, HttpAnswer, Outcome, Rejection};
pub use state::State;
