//! `tepui` against a master that speaks the wire's frames and nothing else, and breaks off where that
//! is to be shown: whole clusters are tested elsewhere.

/// The other side.
mod master;
/// What a command line does that goes on for a while.
mod process;

/// A cluster of this machine, and what a killed one leaves.
mod dev;
/// What comes of a job that has ended, or was left.
mod endings;
/// Input of a task, over connections that break and attempts that fail.
mod inputs;
/// Jobs that are written down.
mod jobs;
/// Several tasks that are to end.
mod kills;
/// A task's output.
mod logs;
/// Masters that do not answer, or cannot.
mod masters;
/// Ports that lead to those of a task.
mod ports;
/// What tasks use.
mod usage;
