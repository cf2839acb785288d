//! The master in one process.

mod artifacts;
mod env;
mod folder;
mod frameworks;
mod golden;
mod master;
mod raft;
mod storage;
