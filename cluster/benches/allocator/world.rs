//! A state with the allocator that follows it, and the one who draws lots.

use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_cluster::{Accepted, Allocator, Changes, Command, Decision, State, Turn};
use tepui_types::constraint::{Constraint, Constraints, Test};
use tepui_types::resources::{PortRanges, ResourceLimit, ResourceRequest};
use tepui_types::role::RoleSettings;
use tepui_types::task::TaskSpec;
use tepui_types::{
    AgentId, AgentInfo, Bytes, ClusterId, Demand, Digest, FrameworkId, FrameworkInfo, MilliCpus,
    OfferId, Resources, Role, Roles, Timestamp,
};

pub use makers::{amounts, request};

// Shared with the tests.
#[allow(dead_code)]
#[path = "../../tests/it/makers.rs"]
mod makers;

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
            spec: makers::spec(),
        };
        let digest = Digest::of(b"component");
        world.apply(Command::RecordArtifact { digest, size: 9 });
        world
    }

    /// Applies a command that cannot be refused; answers what it changed.
    pub fn apply(&mut self, body: Command) -> (Accepted, Changes) {
        let envelope = makers::envelope(1, self.now, body);
        let applied = self.state.apply(self.state.index + 1, &envelope);
        match applied.outcome {
            Ok(accepted) => (accepted, applied.changes),
            Err(refusal) => panic!("the load is refused: {refusal}"),
        }
    }

    /// Registers an agent, or takes its changed machine.
    pub fn register(&mut self, nonce: u128, agent: Option<AgentId>, info: AgentInfo) -> Changes {
        let hello = makers::register(nonce, agent, info, Vec::new());
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
        let turn = makers::start_turn(&self.state, framework);
        self.apply(Command::Turn(turn));
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
        makers::next_turn(&self.state, framework, self.spec.clone())
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
                let resources = resources.clone();
                turn.operations
                    .push(makers::launch(*agent, &name, resources));
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
        address: None,
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
        full: None,
    }
}

/// In any zone but this.
fn outside_of(zone: u64) -> Constraints {
    Constraints(vec![vec![Constraint {
        attribute: "zone".into(),
        test: Test::NotEquals(format!("z{zone}")),
    }]])
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
