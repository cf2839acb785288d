//! A task's life, step by step.

use serde::{Deserialize, Serialize};

use super::{Reason, TaskState};
use crate::ids::OfferId;
use crate::time::Timestamp;

/// The offer that a launch took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Chosen {
    /// Which, of the leader of that time.
    pub offer: OfferId,
    /// Among how many that the framework had at hand.
    pub among: u32,
}

/// A state that a task came to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Step {
    /// Which.
    pub state: TaskState,
    /// Why, where that is not plain.
    pub reason: Option<Reason>,
    /// When the log learned of it.
    pub time: Timestamp,
}
