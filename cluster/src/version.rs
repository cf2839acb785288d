//! The cluster's version: which behaviour of `apply` is in force.
//!
//! Behaviour that changes between releases is gated on
//! [`State::cluster_version`](crate::State), which is raised by command once
//! every master supports it; so two masters of different releases never come to
//! different states from one log.

/// The newest behaviour that this release knows.
pub const NEWEST: u32 = 1;
