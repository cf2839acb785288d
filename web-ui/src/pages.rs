//! What one can see, one page a file.

pub mod agent;
pub mod agents;
pub mod framework;
pub mod frameworks;
pub mod job;
pub mod jobs;
pub mod masters;
pub mod overview;
pub mod role;
pub mod roles;
pub mod settings;
pub mod submit;
pub mod task;
pub mod tasks;
