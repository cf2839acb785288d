//! Whole clusters of real processes, for tests and benchmarks.
//!
//! A cluster is a sentence: `Cluster::new().agents(3).start().await`. Its parts
//! are the binaries that people deploy, in a folder of their own, on ports that
//! the system chose. Whatever happens, dropping it leaves no process, no cgroup
//! and no file; after a failed test it prints the parts' logs first.

pub mod bench;
pub mod browser;
pub mod client;
pub mod clocks;
pub mod cluster;
pub mod disk;
pub mod eventually;
pub mod history;
pub mod hung;
pub mod job;
pub mod net;
pub mod process;
pub mod proxy;
pub mod registry;
pub mod sim;
pub mod site;
pub mod watchdog;

pub use client::{Answer, Client};
pub use cluster::Cluster;
pub use eventually::eventually;
pub use job::Job;
