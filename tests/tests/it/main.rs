//! Whole clusters of real processes, each test with one of its own.
//!
//! They want everything built beside them (`cargo xtask test` does that), and
//! root, for control groups. A module is a subject; `rules` has a test for each
//! of the design's rules that one master can show.

/// What operators do with agents.
mod agents_operations;
/// Where a task has been.
mod artifacts;
mod attempts;
/// All masters are lost, and there is a backup.
mod backup;
/// What others send that cannot be: refused clearly, and nothing else suffers.
mod bad_input;
/// Bodies that are too large.
mod bodies;
/// The dashboard in a browser.
mod browser;
/// The command line.
mod cli;
/// Clocks that are wrong.
mod clocks;
/// Images and containers.
mod containers;
/// What was synced is damaged.
mod damage;
/// Disks that are full.
mod disks;
/// Groups of masters: the lead moves, members come and go.
mod events;
mod failover;
/// Frameworks: deployed, restarted, removed, and what they may not do.
mod frameworks;
/// Jobs whose tasks start together.
mod gangs;
mod hangs;
/// What clients saw while masters failed, checked afterwards.
mod histories;
/// Each kind of program that people run.
mod inputs;
/// Masters that are added, that move, and what they say of themselves.
mod links;
mod masters;
/// Machines with addresses of their own, and links that break.
mod network;
/// Packets that are lost, late, or heard on one side only.
mod packets;
/// Agents that are not heard of.
mod partitions;
/// A task's way from the request to its record.
mod path;
/// Looking into tasks, and finding them.
mod reach;
/// `kill -9` of every part.
mod recovery;
/// What is reserved for roles, and volumes.
mod reservations;
/// Roles: what is laid away, what may not be passed, and where jobs may run.
mod roles;
/// The design's rules by number.
mod rules;
/// A whole cluster on one thread, under a seed.
mod sim;
/// Short tasks, one after another in one place.
mod successors;

/// What tests return. An error ends a test as a panic does, so that its cluster
/// prints its logs.
type Result = std::result::Result<(), Failure>;

/// Never made: an error that is converted into it panics.
#[derive(Debug)]
enum Failure {}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        panic!("{:?}", error.into())
    }
}
