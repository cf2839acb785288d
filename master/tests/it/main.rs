//! The master in one process.

mod artifacts;
mod env;
mod folder;
mod frameworks;
mod raft;
mod storage;
