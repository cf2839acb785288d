//! A state with the allocator that follows it, and the one who draws lots.

use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_cluster::{
    Accepted, Allocator, Changes, Command, Decision, Envelope, State, Turn, TurnKind,
};
use tepui_types::constraint::{Constraint, Constraints, Test};
use tepui_types::operation::{Launch, Operation};
use tepui_types::resources::{PortRanges, ResourceLimit, ResourceRequest};
use tepui_types::role::RoleSettings;
use tepui_types::task::{CommandWorkload, TaskSpec, Workload};
use tepui_types::{
    AgentId, AgentInfo, Bytes, ClusterId, Demand, Digest, FrameworkId, FrameworkInfo, MilliCpus,
    OfferId, Principal, Resources, Role, Roles, Timestamp,
};

/// Launches in one turn: as many as it may hold.
const LAUNCHES: usize = 2_000;

/// An offer as its framework keeps it.
#[derive(Debug, Clone)]
pub struct Held {
    pub framework: FrameworkId,
    pub id: OfferId,
    pub agent: AgentId,
    pub resources: Resources,
}

/// A state, its allocator, and what is offered.
pub struct World {
    pub state: State,
    pub allocator: Allocator,
    pub now: Timestamp,
    pub held: Vec<Held>,
    spec: Arc<TaskSpec>,
}

impl World {
    /// Without agents and frameworks.
    pub fn new() -> Self {
        let mut world = Self {
            state: State::new(ClusterId(7)),
            allocator: Allocator::new(),
            now: Timestamp(1_000),
            held: Vec::new(),
            spec: spec(),
        };
        let digest = Digest::of(b"component");
        world.apply(Command::RecordArtifact { digest, size: 9 });
        world
    }

    /// Applies a command that cannot be refused; answers what it changed.
    pub fn apply(&mut self, body: Command) -> (Accepted, Changes) {
        let envelope = Envelope {
            request_id: 0,
            principal: Principal::loopback_operator(),
            idempotency_key: None,
            expected_revision: None,
            term: 1,
            time: self.now,
            body,
        };
        let applied = self.state.apply(self.state.index + 1, &envelope);
        match applied.outcome {
            Ok(accepted) => (accepted, applied.changes),
            Err(refusal) => panic!("the load is refused: {refusal}"),
        }
    }

    /// Registers an agent, or takes its changed machine.
    pub fn register(&mut self, nonce: u128, agent: Option<AgentId>, info: AgentInfo) -> Changes {
        let tasks = Vec::new();
        let hello = Command::RegisterAgent {
            nonce,
            boot: 1,
            agent,
            info,
            tasks,
        };
        self.apply(hello).1
    }

    /// Deploys and starts a framework.
    pub fn framework(&mut self, name: String, role: &str) -> FrameworkId {
        let role: Role = role.parse().expect("roles of the load are roles");
        let info = FrameworkInfo {
            name,
            roles: Roles::from(role),
            artifact: Digest::of(b"component"),
            config: String::new(),
        };
        let (accepted, _) = self.apply(Command::DeployFramework(info));
        let Accepted::Framework { framework, .. } = accepted else {
            panic!("no framework came of it");
        };
        self.apply(Command::Turn(Turn::new(framework, 1, 0, TurnKind::Start)));
        framework
    }

    /// Guarantees a role so many cpus and GiB, and limits it to twice as much.
    pub fn quota(&mut self, role: &str, cpus: u64, gib: u64) {
        let guarantee = request(cpus, gib);
        let settings = RoleSettings {
            limit: ResourceLimit {
                cpus: Some(MilliCpus(2 * guarantee.cpus.0)),
                mem: Some(Bytes(2 * guarantee.mem.0)),
                ..ResourceLimit::default()
            },
            guarantee,
            ..RoleSettings::default()
        };
        let role = role.parse().expect("roles of the load are roles");
        self.apply(Command::SetRole {
            role,
            settings,
            force: false,
        });
    }

    /// The framework's next turn, with nothing in it.
    pub fn turn(&self, framework: FrameworkId) -> Turn {
        let record = self.state.framework(framework).expect("it is deployed");
        let mut turn = Turn::new(
            framework,
            record.incarnation,
            record.turns,
            TurnKind::Handle,
        );
        turn.first_attempt = record.next_attempt;
        turn.specs.push(self.spec.clone());
        turn
    }

    /// States a demand.
    pub fn demand(
        &mut self,
        framework: FrameworkId,
        key: &str,
        count: u32,
        request: &ResourceRequest,
    ) -> Changes {
        let mut turn = self.turn(framework);
        // Every other framework is kept out of one zone.
        let constraints = match framework.0 % 2 {
            0 => Constraints::default(),
            _ => outside_of(framework.0 % 6),
        };
        let demand = Demand {
            constraints,
            ..Demand::new(count, request.clone())
        };
        turn.demands.push((key.into(), demand));
        self.apply(Command::Turn(turn)).1
    }

    /// Launches tasks, each on an agent with its resources.
    pub fn launch(&mut self, framework: FrameworkId, tasks: &[(AgentId, Resources)]) -> Changes {
        let mut changes = Changes::default();
        for tasks in tasks.chunks(LAUNCHES) {
            let mut turn = self.turn(framework);
            let first = turn.first_attempt;
            for (number, (agent, resources)) in tasks.iter().enumerate() {
                let name = format!("t{}", first + number as u64);
                turn.operations.push(Operation::Launch(Launch {
                    agent: *agent,
                    name: name.parse().expect("names of the load are names"),
                    resources: resources.clone(),
                    spec: 0,
                    array_index: None,
                    role: None,
                    chosen: None,
                }));
            }
            changes.merge(self.apply(Command::Turn(turn)).1);
        }
        changes
    }

    /// One cycle; what it offers is held.
    pub fn cycle(&mut self) -> Vec<Decision> {
        self.allocator.allocate(&self.state, self.now)
    }

    /// Holds what was offered; lets go what was rescinded.
    pub fn hold(&mut self, decisions: Vec<Decision>) {
        for decision in decisions {
            match decision {
                Decision::Offer(framework, offer) => self.held.push(Held {
                    framework,
                    id: offer.id,
                    agent: offer.agent,
                    resources: offer.resources,
                }),
                Decision::Rescind(_, id) => self.held.retain(|held| held.id != id),
            }
        }
    }
}

/// A machine.
pub fn machine(cpus: u64, gib: u64, zone: u64) -> AgentInfo {
    AgentInfo {
        hostname: format!("machine-{zone}"),
        resources: Resources {
            ports: PortRanges::from_range(31000, 32000),
            disk: Bytes::gib(1_000),
            ..amounts(cpus, gib)
        },
        attributes: BTreeMap::from([
            ("zone".to_owned(), format!("z{}", zone % 6)),
            ("rack".to_owned(), format!("r{}", zone % 200)),
        ])
        .into(),
        version: "0.1.0".into(),
    }
}

/// In any zone but this.
fn outside_of(zone: u64) -> Constraints {
    Constraints(vec![vec![Constraint {
        attribute: "zone".into(),
        test: Test::NotEquals(format!("z{zone}")),
    }]])
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

fn spec() -> Arc<TaskSpec> {
    Arc::new(TaskSpec {
        workload: Workload::Command(CommandWorkload {
            argv: vec!["true".into()],
            env: BTreeMap::new(),
            pids: None,
        }),
        kill_grace_ms: 5_000,
        user: "operator".into(),
        labels: BTreeMap::new(),
        partition: Default::default(),
        priority: 0,
        time_limit_ms: None,
    })
}

/// Lots from a seed (splitmix64), so that every run has the same load.
pub struct Dice(pub u64);

impl Dice {
    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
