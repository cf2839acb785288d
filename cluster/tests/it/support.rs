//! A state with its log: every command that a test applies is checked against
//! the invariants.

use std::sync::Arc;

use tepui_cluster::{
    Accepted, Applied, Command, Effect, Envelope, HttpAnswer, Outcome, State, Turn,
};
use tepui_types::resources::PortRanges;
use tepui_types::wire::agent::{AgentEffect, StatusReport};
use tepui_types::*;

pub use crate::makers::{amounts, launch, register, request, spec};

use crate::makers;

/// A state and what was done to it.
pub struct Log {
    pub state: State,
    pub time: u64,
    pub term: u64,
}

impl Log {
    pub fn new() -> Self {
        Self {
            state: State::new(ClusterId(7)),
            time: 1_000,
            term: 1,
        }
    }

    pub fn envelope(&self, body: Command) -> Envelope {
        makers::envelope(self.term, Timestamp(self.time), body)
    }

    pub fn apply(&mut self, body: Command) -> Applied {
        let envelope = self.envelope(body);
        self.apply_envelope(&envelope)
    }

    pub fn apply_envelope(&mut self, envelope: &Envelope) -> Applied {
        let applied = self.state.apply(self.state.index + 1, envelope);
        self.state.check_invariants().unwrap();
        applied
    }

    pub fn accept(&mut self, body: Command) -> Accepted {
        self.apply(body).outcome.unwrap()
    }

    /// An agent with this many cpus and GiB.
    pub fn agent(&mut self, cpus: u64, gib: u64) -> AgentId {
        let nonce = self.state.agents.len() as u128 + 1;
        match self.accept(register(nonce, None, machine(cpus, gib), Vec::new())) {
            Accepted::Agent { agent } => agent,
            other => panic!("{other:?}"),
        }
    }

    /// In a role, or in several with commas between them.
    pub fn framework(&mut self, name: &str, role: &str) -> FrameworkId {
        let digest = Digest::of(b"component");
        self.accept(Command::RecordArtifact { digest, size: 9 });
        let info = FrameworkInfo {
            name: name.into(),
            roles: roles(role),
            artifact: digest,
            config: String::new(),
        };
        let Accepted::Framework { framework, .. } = self.accept(Command::DeployFramework(info))
        else {
            panic!("not deployed");
        };
        self.start(framework);
        framework
    }

    pub fn start(&mut self, framework: FrameworkId) {
        let turn = makers::start_turn(&self.state, framework);
        self.accept(Command::Turn(turn));
    }

    /// The next turn of a framework, with nothing in it yet.
    pub fn next_turn(&self, framework: FrameworkId) -> Turn {
        makers::next_turn(&self.state, framework, spec())
    }

    /// Launches one task; answers its id, whatever became of it.
    pub fn launch(&mut self, framework: FrameworkId, agent: AgentId, name: &str) -> TaskId {
        self.launch_with(framework, agent, name, amounts(1, 1))
    }

    pub fn launch_with(
        &mut self,
        framework: FrameworkId,
        agent: AgentId,
        name: &str,
        resources: Resources,
    ) -> TaskId {
        let mut turn = self.next_turn(framework);
        let attempt = turn.first_attempt;
        turn.operations.push(launch(agent, name, resources));
        self.accept(Command::Turn(turn));
        TaskId {
            framework,
            name: name.parse().unwrap(),
            attempt,
        }
    }

    pub fn report(&mut self, agent: AgentId, task: &TaskId, state: TaskState) -> Applied {
        self.apply(Command::ReportTasks {
            agent,
            reports: vec![report(task, state)],
        })
    }

    pub fn acknowledge(&mut self, task: &TaskId) {
        let sequence = self.state.task(task).unwrap().sequence;
        let mut turn = self.next_turn(task.framework);
        turn.acknowledged.push((task.clone(), sequence));
        self.accept(Command::Turn(turn));
    }

    pub fn task_state(&self, task: &TaskId) -> TaskState {
        self.state.task(task).unwrap().status.state
    }

    pub fn pending(&self, framework: FrameworkId) -> usize {
        self.state.framework(framework).unwrap().pending.len()
    }
}

pub fn machine(cpus: u64, gib: u64) -> AgentInfo {
    AgentInfo {
        address: None,
        hostname: "machine".into(),
        resources: Resources {
            ports: PortRanges::from_range(31000, 31099),
            ..amounts(cpus, gib)
        },
        attributes: Default::default(),
        version: "0.1.0".into(),
        full: None,
    }
}

pub fn roles(names: &str) -> Roles {
    let roles = names.split(',').map(|name| name.parse().unwrap());
    Roles::new(roles.collect()).unwrap()
}

/// All of a framework's roles, suppressed or revived.
pub fn all_roles(state: &State, framework: FrameworkId, suppressed: bool) -> Vec<(Role, bool)> {
    let roles = state.framework(framework).unwrap().info.roles.iter();
    roles.map(|role| (role.clone(), suppressed)).collect()
}

/// A task that is not waited for for ever.
pub fn impatient(partition: PartitionPolicy) -> Arc<TaskSpec> {
    let spec = TaskSpec::clone(&spec());
    Arc::new(TaskSpec { partition, ..spec })
}

/// A task that is ended after so many milliseconds.
pub fn limited(millis: u64) -> Arc<TaskSpec> {
    let spec = TaskSpec::clone(&spec());
    let time_limit_ms = Some(millis);
    Arc::new(TaskSpec {
        time_limit_ms,
        ..spec
    })
}

pub fn report(task: &TaskId, state: TaskState) -> StatusReport {
    StatusReport {
        task: task.clone(),
        state,
        reason: None,
        exit_code: None,
        usage: None,
        signs: None,
    }
}

pub fn answer(body: &str) -> HttpAnswer {
    HttpAnswer {
        status: 201,
        headers: Vec::new(),
        body: body.into(),
    }
}

/// The effects on agents, in order.
pub fn on_agents(applied: &Applied) -> Vec<&AgentEffect> {
    let effects = applied.effects.iter();
    effects
        .filter_map(|effect| match effect {
            Effect::Agent(_, effect) => Some(effect),
            _ => None,
        })
        .collect()
}

pub fn refused(outcome: Outcome) -> String {
    outcome.unwrap_err().to_string()
}
