//! What the tests of turns and of what waits for them share: a small cluster.

use std::sync::Arc;

use tepui_cluster::{Accepted, Command, Envelope, State, Turn, TurnKind};
use tepui_types::resources::ResourceRequest;
use tepui_types::{
    AgentId, AgentInfo, Bytes, ClusterId, Demand, Digest, FrameworkId, FrameworkInfo, MilliCpus,
    Offer, OfferId, Principal, Resources, Role, Roles, TaskSpec, Timestamp, Workload,
};

use super::offers::HeldOffers;
use super::turn::{OpenTurn, Seen, Special, TaskLaunch};

/// A cluster with one agent and one framework that has started.
pub struct Cluster {
    pub state: State,
    index: u64,
}

/// The framework.
pub const FRAMEWORK: FrameworkId = FrameworkId(1);

impl Cluster {
    /// Nothing runs yet.
    pub fn new() -> Self {
        let mut cluster = Self {
            state: State::new(ClusterId(1)),
            index: 0,
        };
        let artifact = Digest::of(b"framework");
        cluster.apply(Command::RecordArtifact {
            digest: artifact,
            size: 9,
        });
        cluster.apply(Command::DeployFramework(FrameworkInfo {
            name: "test".into(),
            roles: Roles::new(vec![Role::default(), "other".parse().unwrap()]).unwrap(),
            artifact,
            config: String::new(),
        }));
        cluster.apply(Command::RegisterAgent {
            nonce: 1,
            boot: 1,
            agent: None,
            info: AgentInfo {
                address: None,
                hostname: "one".into(),
                resources: resources(4000),
                attributes: Default::default(),
                version: "0".into(),
                full: None,
            },
            tasks: Vec::new(),
        });
        cluster.apply(Command::Turn(Turn::new(FRAMEWORK, 1, 0, TurnKind::Start)));
        cluster
    }

    /// Applies a command that is accepted.
    pub fn apply(&mut self, body: Command) -> Accepted {
        self.index += 1;
        let envelope = Envelope {
            request_id: 0,
            principal: Principal::loopback_operator(),
            idempotency_key: None,
            expected_revision: None,
            term: 1,
            time: Timestamp(1000),
            body,
        };
        self.state.apply(self.index, &envelope).outcome.unwrap()
    }

    /// Begins a turn with two offers.
    pub fn open(&self) -> OpenTurn {
        let framework = self.state.framework(FRAMEWORK).unwrap().clone();
        let mut offers = HeldOffers::default();
        offers.insert(offer(7));
        offers.insert(offer(8));
        offers.show(10);
        let seen = Seen::default();
        OpenTurn::new(
            Arc::new(self.state.clone()),
            framework,
            Timestamp(2000),
            seen,
            offers,
        )
    }

    /// Commits a turn that changes something.
    pub fn commit(&mut self, turn: OpenTurn) {
        let number = self.state.framework(FRAMEWORK).unwrap().turns;
        let closed = turn.close(1, number, TurnKind::Handle);
        assert!(closed.turn.is_durable());
        self.apply(Command::Turn(closed.turn));
    }
}

/// Cores in thousandths, and as many MiB.
pub fn resources(cpus: u64) -> Resources {
    Resources {
        cpus: MilliCpus(cpus),
        mem: Bytes::mib(cpus),
        ..Resources::default()
    }
}

/// Of the whole agent.
pub fn offer(id: u64) -> Offer {
    Offer {
        id: OfferId(id),
        agent: AgentId(1),
        hostname: "one".into(),
        resources: resources(4000),
        attributes: Default::default(),
        role: Role::default(),
        gang: None,
        until: None,
    }
}

/// A command with this argument.
pub fn spec(argument: &str) -> TaskSpec {
    TaskSpec {
        kill_grace_ms: 0,
        ..TaskSpec::new(Workload::Command(tepui_types::task::CommandWorkload::new(
            vec!["true".into(), argument.into()],
        )))
    }
}

/// A task of nothing special.
pub fn task(name: &str, cpus: u64) -> TaskLaunch {
    TaskLaunch {
        name: name.into(),
        resources: resources(cpus),
        array_index: None,
        special: Special::default(),
    }
}

/// For so many tasks.
pub fn wish(count: u32, cpus: u64) -> Demand {
    Demand::new(count, request(cpus))
}

/// For cores.
pub fn request(cpus: u64) -> ResourceRequest {
    ResourceRequest {
        cpus: MilliCpus(cpus),
        ..ResourceRequest::default()
    }
}
