//! The master in one process.

mod artifacts;
mod compiler;
mod env;
mod folder;
mod frameworks;
mod golden;
mod host;
mod raft;
mod storage;
