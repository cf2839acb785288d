//! What a name stands for: the tree of names, from the domain down. Pure.
//!
//! ```text
//! TASK.FRAMEWORK.tepui                     a task, its newest attempt that can answer
//! SERVICE.FRAMEWORK.tepui                  a service, its instances that are ready
//! _PORT._tcp.NAME.FRAMEWORK.tepui          a port by name, of a service or else of a task
//! AGENT.agent.tepui                        an agent's machine, by its host name or id
//! leader.tepui, master.tepui               the master that leads; all masters
//! ```
//!
//! Where a task and a service have one name, the task has it, for records of ports point to tasks;
//! the ports of that name are the service's. A name that has names below it exists, though it has
//! no records.

use hickory_proto::rr::Name;
use tepui_types::FrameworkId;
use tepui_types::container::Protocol;

use crate::directory::{Directory, Instance};
use crate::entry::Agent;
use crate::zone::{AGENT, LEADER, MASTER, Zone};

/// The one port that masters have a name for.
const MASTER_PORT: &str = "http";

/// What a name stands for.
pub(crate) enum Found<'a> {
    /// The domain itself.
    Apex,
    /// Masters; or only the one that leads.
    Masters {
        leader: bool,
    },
    /// The HTTP port of masters; or only of the one that leads.
    MasterPort {
        leader: bool,
    },
    Agent(&'a Agent),
    Task(&'a Instance),
    TaskPort(&'a Instance, PortName),
    Service(FrameworkId, String),
    ServicePort(FrameworkId, String, PortName),
    /// A name with nothing but names below it.
    Empty,
    /// No such name.
    Nothing,
}

/// `_http._tcp`.
pub(crate) struct PortName {
    pub label: String,
    pub protocol: Protocol,
}

impl PortName {
    /// Whether a port is called so.
    pub fn is(&self, port: &crate::entry::Port) -> bool {
        let named = port.name.as_deref().map(crate::label::label);
        port.protocol == self.protocol && named.as_ref() == Some(&self.label)
    }
}

/// Finds what a name stands for; none where it is not of this zone.
pub(crate) fn find<'a>(directory: &'a Directory, zone: &Zone, asked: &Name) -> Option<Found<'a>> {
    let labels = zone.below(asked)?;
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    Some(match labels.as_slice() {
        [] => Found::Apex,
        [LEADER] => Found::Masters { leader: true },
        [MASTER] => Found::Masters { leader: false },
        [LEADER | MASTER, "_tcp"] => Found::Empty,
        [LEADER, "_tcp", port] if is_master_port(port) => Found::MasterPort { leader: true },
        [MASTER, "_tcp", port] if is_master_port(port) => Found::MasterPort { leader: false },
        [AGENT] => exists(directory.has_agents()),
        [AGENT, name @ ..] => find_agent(directory, &name.join(".")),
        [framework, name @ ..] => match (directory.framework(framework), name) {
            (None, _) => Found::Nothing,
            (Some(_), []) => Found::Empty,
            (Some(id), name) => find_in(directory, id, name),
        },
    })
}

fn is_master_port(label: &str) -> bool {
    label.strip_prefix('_') == Some(MASTER_PORT)
}

fn exists(exists: bool) -> Found<'static> {
    match exists {
        true => Found::Empty,
        false => Found::Nothing,
    }
}

fn find_agent<'a>(directory: &'a Directory, name: &str) -> Found<'a> {
    match directory.agent(name) {
        Some(agent) => Found::Agent(agent),
        None => exists(directory.agents_below(name)),
    }
}

fn find_in<'a>(directory: &'a Directory, framework: FrameworkId, labels: &[&str]) -> Found<'a> {
    if let [name @ .., protocol, port] = labels
        && let Some(port) = port_name(protocol, port)
    {
        return find_port(directory, framework, &name.join("."), port);
    }
    match labels {
        [name @ .., protocol] if !name.is_empty() && protocol_of(protocol).is_some() => {
            let name = name.join(".");
            let task = directory.task(framework, &name).is_some();
            exists(task || directory.service(framework, &name).is_some())
        }
        name => find_named(directory, framework, name.join(".")),
    }
}

fn find_named(directory: &Directory, framework: FrameworkId, name: String) -> Found<'_> {
    if let Some(task) = directory.task(framework, &name) {
        return Found::Task(task);
    }
    if directory.service(framework, &name).is_some() {
        return Found::Service(framework, name);
    }
    exists(directory.names_below(framework, &name))
}

fn find_port<'a>(
    directory: &'a Directory,
    framework: FrameworkId,
    name: &str,
    port: PortName,
) -> Found<'a> {
    if directory.service(framework, name).is_some() {
        return Found::ServicePort(framework, name.to_string(), port);
    }
    match directory.task(framework, name) {
        Some(task) => Found::TaskPort(task, port),
        None => Found::Nothing,
    }
}

fn port_name(protocol: &str, port: &str) -> Option<PortName> {
    let protocol = protocol_of(protocol)?;
    let label = port.strip_prefix('_')?.to_string();
    Some(PortName { label, protocol })
}

fn protocol_of(label: &str) -> Option<Protocol> {
    match label {
        "_tcp" => Some(Protocol::Tcp),
        "_udp" => Some(Protocol::Udp),
        _ => None,
    }
}
