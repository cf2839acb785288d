//! Folders with a size: persistent volumes and sandboxes that cannot take more of a disk than was
//! lent to them.
//!
//! [`Bounds`] keeps those of one disk. A folder is asked for by name, place and size, and is bounded
//! in the best way that the machine has ([`Way`]): a project quota of its file system; a file system
//! of its own in a file of that size (a loop image); or by being measured now and then: many by
//! [`Rounds`], one by a [`Measurement`] that a [`Watch`] judges.
//!
//! Everything here blocks: callers are on threads that may. What is on disk is always ahead of what
//! the kernel was told, so whoever is killed between two steps leaves what [`Bounds::sweep`] mends.

mod bounds;
mod busy;
mod error;
mod health;
mod image;
mod limit;
mod loop_device;
mod measure;
mod mounts;
mod places;
mod program;
mod project;
mod record;
mod rounds;
mod turn;
mod wanted;

pub use bounds::{Bounds, Kept};
pub use error::BoundsError;
pub use health::Mounts;
pub use limit::{Limit, Policy, Verdict, Watch};
pub use measure::{Measured, Measurement, Progress, Usage};
pub use record::set_aside;
pub use rounds::{Finding, Rounds};
pub use wanted::{Bounded, Enforce, Life, Room, Settings, Support, Wanted, Way};
