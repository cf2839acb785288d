//! Benchmarks: what is measured, and how it is reported.
//!
//! They use the binaries and the harness of the tests. Every benchmark gives a
//! [`Report`], printed as a table for people and written as JSON for programs.

pub mod agent;
pub mod failover;
pub mod path;
pub mod report;
pub mod samples;
pub mod state;

pub use report::{Report, Row};
pub use samples::Samples;
