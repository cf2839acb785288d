//! What is put into the directory: tasks, agents and masters, as the cluster's state has them.
//!
//! Plain values, made by whoever follows the state. Names are those of people; the directory makes
//! labels of them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tepui_types::container::Protocol;
use tepui_types::{AgentId, TaskId};

/// A task that may be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which attempt of which task. Its framework's number and its attempt are its key.
    pub id: TaskId,
    /// What it is called: one label, or several with dots between them.
    pub name: String,
    /// Its framework's name.
    pub framework: String,
    /// The service that it is an instance of.
    pub service: Option<String>,
    /// Where it runs.
    pub agent: AgentId,
    /// What that agent's machine is called.
    pub hostname: String,
    /// Where it is reached: of its own, or its machine's. The first [`Entry::MAX_ADDRESSES`] count.
    pub addresses: Vec<IpAddr>,
    /// On which ports. The first [`Entry::MAX_PORTS`] count.
    pub ports: Vec<Port>,
    /// Whether it runs; only then it answers for its service.
    pub running: bool,
    /// Whether it is ready, as its readiness check says; true where it has none.
    pub ready: bool,
}

impl Entry {
    /// A task is in a few networks, with an address of each family in each.
    pub const MAX_ADDRESSES: usize = 16;
    /// More ports than programs have; it bounds the answer for one task.
    pub const MAX_PORTS: usize = 64;

    /// Whether it is given out for its service.
    pub fn in_service(&self) -> bool {
        self.running && self.ready && !self.addresses.is_empty()
    }
}

/// A port of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Port {
    /// Its number, where callers reach it.
    pub number: u16,
    /// What it is called, as in `_http._tcp.web.batch.tepui`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it speaks.
    pub protocol: Protocol,
}

/// An agent's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Which agent; `a3.agent.tepui` is a name of it, too.
    pub id: AgentId,
    /// What its machine is called.
    pub hostname: String,
    /// Where it is reached. The first [`Entry::MAX_ADDRESSES`] count.
    pub addresses: Vec<IpAddr>,
}

/// A master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    /// Where it is reached.
    pub addresses: Vec<IpAddr>,
    /// The port of its HTTP API.
    pub port: u16,
    /// Whether it leads.
    pub leads: bool,
}
