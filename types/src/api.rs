//! JSON bodies of the HTTP API under `/v1/`, one noun a file.
//!
//! Requests refuse unknown fields; answers may grow fields within a version.
//! Amounts are integers with their unit in the name. Errors are problem
//! documents (RFC 9457) of [`problem::Problem`].

pub mod agent;
pub mod artifact;
pub mod backup;
pub mod cluster;
pub mod demand;
pub mod event;
pub mod file;
pub mod framework;
pub mod job;
pub mod list;
pub mod log;
pub mod maintenance;
pub mod master;
pub mod problem;
pub mod reach;
pub mod reservation;
pub mod role;
pub mod stale;
pub mod task;
pub mod usage;
