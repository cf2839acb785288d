//! The master in one process.

mod artifacts;
mod env;
mod folder;
mod raft;
mod storage;
