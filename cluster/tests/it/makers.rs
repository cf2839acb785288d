//! What tests and benchmarks make states of: commands, turns, and what they carry.
//!
//! Named by path in this crate's benchmark of the allocator and in that of large states, so that a
//! field that is new is said once.

use std::sync::Arc;

use tepui_cluster::{Command, Envelope, State, Turn, TurnKind};
use tepui_types::operation::{Launch, Operation};
use tepui_types::resources::ResourceRequest;
use tepui_types::task::{CommandWorkload, TaskSpec, Workload};
use tepui_types::wire::agent::StatusReport;
use tepui_types::*;

/// An operator's command.
pub fn envelope(term: u64, time: Timestamp, body: Command) -> Envelope {
    Envelope {
        request_id: 0,
        principal: Principal::loopback_operator(),
        idempotency_key: None,
        expected_revision: None,
        term,
        time,
        body,
    }
}

/// An agent's hello, from a machine that was booted once.
pub fn register(
    nonce: u128,
    agent: Option<AgentId>,
    info: AgentInfo,
    tasks: Vec<StatusReport>,
) -> Command {
    Command::RegisterAgent {
        nonce,
        boot: 1,
        agent,
        info,
        tasks,
    }
}

/// The first turn of a framework's next incarnation.
pub fn start_turn(state: &State, framework: FrameworkId) -> Turn {
    let record = state.framework(framework).expect("it is deployed");
    let mut turn = Turn::new(framework, record.incarnation + 1, 0, TurnKind::Start);
    turn.first_attempt = record.next_attempt;
    turn
}

/// A framework's next turn, with nothing in it but a specification.
pub fn next_turn(state: &State, framework: FrameworkId, spec: Arc<TaskSpec>) -> Turn {
    let record = state.framework(framework).expect("it is deployed");
    let kind = TurnKind::Handle;
    let mut turn = Turn::new(framework, record.incarnation, record.turns, kind);
    turn.first_attempt = record.next_attempt;
    turn.specs.push(spec);
    turn
}

/// A launch of the turn's first specification.
pub fn launch(agent: AgentId, name: &str, resources: Resources) -> Operation {
    Operation::Launch(Launch {
        agent,
        name: name.parse().expect("a task's name"),
        resources,
        spec: 0,
        array_index: None,
        role: None,
        chosen: None,
        after: None,
    })
}

/// A command that ends at once.
pub fn spec() -> Arc<TaskSpec> {
    Arc::new(TaskSpec {
        kill_grace_ms: 5_000,
        user: "operator".into(),
        ..TaskSpec::new(Workload::Command(CommandWorkload::new(vec!["true".into()])))
    })
}

/// Cpus and GiB.
pub fn amounts(cpus: u64, gib: u64) -> Resources {
    Resources {
        cpus: MilliCpus(cpus * 1000),
        mem: Bytes::gib(gib),
        ..Resources::default()
    }
}

/// A wish for cpus and GiB.
pub fn request(cpus: u64, gib: u64) -> ResourceRequest {
    ResourceRequest::from(&amounts(cpus, gib))
}
