//! The master in one process.

mod artifacts;
mod env;
mod folder;
mod frameworks;
mod master;
mod raft;
mod storage;
