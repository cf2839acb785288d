//! The vocabulary of Tepui: what masters, agents, executors, the command line
//! and the dashboard say to each other.
//!
//! Only data and its arithmetic live here. Nothing in this crate does I/O,
//! reads a clock or draws randomness, and all of it builds for wasm32.

pub mod agent;
pub mod api;
pub mod check;
pub mod command;
pub mod constraint;
pub mod container;
pub mod envelope;
pub mod fetch;
pub mod framework;
pub mod gang;
pub mod ids;
pub mod image;
pub mod offer;
pub mod operation;
pub mod principal;
pub mod resources;
pub mod role;
pub mod setting;
pub mod task;
pub mod time;
pub mod wasm;
pub mod wire;
pub mod wish;

pub use agent::{AgentInfo, AgentStatus, Attributes};
pub use check::{Check, CheckRole, CheckState, CheckStatus, Checks, Probe};
pub use command::CommandOptions;
pub use container::Container;
pub use fetch::Fetch;
pub use framework::{FrameworkInfo, FrameworkPhase};
pub use gang::{Gang, GangPart, GangShare};
pub use ids::{
    AgentId, ClusterId, Digest, FrameworkId, NodeId, OfferId, OperationId, TaskId, TaskName,
    WindowId,
};
pub use image::{ImageRef, ImageSource, PullPolicy, RegistryImage};
pub use offer::{Demand, Filters, Offer};
pub use principal::Principal;
pub use resources::{Bytes, MilliCpus, Resources};
pub use role::{Role, Roles};
pub use task::{PartitionPolicy, Reason, TaskSpec, TaskState, TaskStatus, Workload};
pub use time::Timestamp;
pub use wasm::WasmOptions;
pub use wish::Wish;
