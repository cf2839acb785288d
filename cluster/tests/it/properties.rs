//! Random commands: the invariants hold after each, every master comes to the
//! same state, and a snapshot anywhere changes nothing.

use proptest::prelude::*;
use tepui_cluster::state::agents::Agent;
use tepui_cluster::state::maintenance::WindowPlan;
use tepui_cluster::state::preemption::{Place, Preemption};
use tepui_cluster::{Command, State};
use tepui_types::operation::{Convert, Kill, Operation};
use tepui_types::resources::{Conversion, Pool, Reservation, ResourceLimit, Volume};
use tepui_types::role::RoleSettings;
use tepui_types::setting::Settings;
use tepui_types::*;

use crate::support::*;

/// A step, with numbers that are made to fit the state when it is taken.
#[derive(Debug, Clone)]
enum Step {
    Register {
        nonce: u128,
        cpus: u64,
        forget: bool,
    },
    Silence {
        agent: u64,
    },
    Deploy {
        name: u8,
        role: bool,
    },
    Remove {
        framework: u64,
    },
    Restart {
        framework: u64,
    },
    Stop {
        framework: u64,
    },
    Start {
        framework: u64,
    },
    Launch {
        framework: u64,
        agent: u64,
        name: u8,
        cpus: u64,
    },
    Kill {
        framework: u64,
        task: usize,
    },
    UserKill {
        task: usize,
    },
    Report {
        task: usize,
        state: usize,
    },
    Acknowledge {
        framework: u64,
    },
    Write {
        framework: u64,
        key: u8,
        value: Option<u8>,
    },
    Demand {
        framework: u64,
        key: u8,
        count: u32,
    },
    Operate {
        agent: u64,
        what: u8,
        deadline_ms: Option<u64>,
    },
    Maintain {
        agent: u64,
        start: u64,
        cancel: bool,
    },
    SetRole {
        child: bool,
        guarantee: u64,
        limit: Option<u64>,
    },
    RemoveRole {
        child: bool,
    },
    SetSettings {
        millis: u64,
    },
    Preempt {
        agent: u64,
        cpus: u64,
    },
    Convert {
        agent: u64,
        framework: Option<u64>,
        what: u8,
        which: usize,
        amount: u64,
    },
    LaunchOnPool {
        framework: u64,
        agent: u64,
        name: u8,
        which: usize,
    },
    Gang {
        framework: u64,
        agent: u64,
        wait_ms: Option<u64>,
    },
    Pass {
        millis: u64,
    },
}

/// Mostly this number.
fn with_most(most: u64, all: std::ops::Range<u64>) -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(most), 1 => all]
}

fn step() -> impl Strategy<Value = Step> {
    let framework = 1u64..5;
    let agent = 1u64..4;
    prop_oneof![
        1 => (1u128..4, 1u64..6, any::<bool>())
            .prop_map(|(nonce, cpus, forget)| Step::Register { nonce, cpus, forget }),
        1 => agent.clone().prop_map(|agent| Step::Silence { agent }),
        1 => (0u8..3, any::<bool>()).prop_map(|(name, role)| Step::Deploy { name, role }),
        1 => framework.clone().prop_map(|framework| Step::Remove { framework }),
        1 => framework.clone().prop_map(|framework| Step::Restart { framework }),
        1 => framework.clone().prop_map(|framework| Step::Stop { framework }),
        4 => framework.clone().prop_map(|framework| Step::Start { framework }),
        8 => (framework.clone(), agent, 0u8..4, 1u64..4).prop_map(
            |(framework, agent, name, cpus)| Step::Launch { framework, agent, name, cpus }
        ),
        2 => (framework.clone(), 0usize..20)
            .prop_map(|(framework, task)| Step::Kill { framework, task }),
        1 => (0usize..20).prop_map(|task| Step::UserKill { task }),
        10 => (0usize..20, 0usize..12).prop_map(|(task, state)| Step::Report { task, state }),
        4 => framework.clone().prop_map(|framework| Step::Acknowledge { framework }),
        2 => (framework.clone(), 0u8..4, proptest::option::of(any::<u8>()))
            .prop_map(|(framework, key, value)| Step::Write { framework, key, value }),
        2 => (framework, 0u8..3, 0u32..4)
            .prop_map(|(framework, key, count)| Step::Demand { framework, key, count }),
        2 => (1u64..4, 0u8..12, proptest::option::of(0u64..50))
            .prop_map(|(agent, what, deadline_ms)| Step::Operate { agent, what, deadline_ms }),
        1 => (1u64..4, 0u64..100, any::<bool>())
            .prop_map(|(agent, start, cancel)| Step::Maintain { agent, start, cancel }),
        2 => (any::<bool>(), 0u64..6, proptest::option::of(0u64..6))
            .prop_map(|(child, guarantee, limit)| Step::SetRole { child, guarantee, limit }),
        1 => any::<bool>().prop_map(|child| Step::RemoveRole { child }),
        3 => (1u64..4, 1u64..4).prop_map(|(agent, cpus)| Step::Preempt { agent, cpus }),
        2 => (1u64..5, 1u64..4, proptest::option::of(1u64..60)).prop_map(
            |(framework, agent, wait_ms)| Step::Gang { framework, agent, wait_ms }
        ),
        1 => (0u64..3_000).prop_map(|millis| Step::SetSettings { millis }),
        30 => (with_most(1, 1u64..4), proptest::option::weighted(0.4, 1u64..5), 0u8..8, 0usize..6, 1u64..4).prop_map(
            |(agent, framework, what, which, amount)| {
                Step::Convert { agent, framework, what, which, amount }
            }
        ),
        8 => (with_most(1, 1u64..5), with_most(1, 1u64..4), 0u8..4, 0usize..6).prop_map(
            |(framework, agent, name, which)| Step::LaunchOnPool { framework, agent, name, which }
        ),
        2 => (0u64..40).prop_map(|millis| Step::Pass { millis }),
    ]
}

/// The command of a step, if the state has what it is about.
fn command(log: &Log, step: &Step) -> Option<Command> {
    let state = &log.state;
    let task = |number: usize| {
        let tasks: Vec<_> = state.tasks.values().collect();
        (!tasks.is_empty()).then(|| tasks[number % tasks.len()].clone())
    };
    let running = |id: u64| {
        let framework = state.framework(FrameworkId(id))?;
        (framework.phase == FrameworkPhase::Running).then(|| log.next_turn(framework.id))
    };
    Some(match step {
        Step::Register {
            nonce,
            cpus,
            forget,
        } => {
            let known = state.agents.values().find(|agent| agent.nonce == *nonce);
            let tasks = known.filter(|_| !forget).map(|agent| {
                let tasks = agent
                    .tasks
                    .iter()
                    .filter_map(|operation| state.tasks.get(operation));
                tasks
                    .map(|task| report(&task.id, TaskState::Running))
                    .collect()
            });
            let id = known.map(|agent| agent.id);
            let mut info = machine(*cpus, 8);
            info.resources.disk = Bytes::gib(4 * cpus);
            register(*nonce, id, info, tasks.unwrap_or_default())
        }
        Step::Silence { agent } => Command::MarkAgentUnreachable {
            agent: AgentId(*agent),
        },
        Step::Deploy { name, role } => Command::DeployFramework(FrameworkInfo {
            name: format!("f{name}"),
            roles: if *role {
                roles("eng/web,*")
            } else {
                Role::default().into()
            },
            artifact: Digest::of(b"component"),
            config: String::new(),
        }),
        Step::Remove { framework } => Command::RemoveFramework {
            framework: FrameworkId(*framework),
        },
        Step::Restart { framework } => Command::RestartFramework {
            framework: FrameworkId(*framework),
        },
        Step::Stop { framework } => Command::StopFramework {
            framework: FrameworkId(*framework),
            incarnation: state.framework(FrameworkId(*framework))?.incarnation,
            reason: Reason::new("trap", "x"),
        },
        Step::Start { framework } => {
            let framework = state.framework(FrameworkId(*framework))?;
            let mut turn = log.next_turn(framework.id);
            turn.kind = tepui_cluster::TurnKind::Start;
            (turn.incarnation, turn.number) = (framework.incarnation + 1, 0);
            Command::Turn(turn)
        }
        Step::Launch {
            framework,
            agent,
            name,
            cpus,
        } => {
            let mut turn = running(*framework)?;
            let resources = amounts(*cpus, 1);
            if cpus % 2 == 0 {
                turn.specs = vec![impatient(PartitionPolicy::ReplaceAfter(9))];
            }
            if cpus % 3 == 0 {
                turn.specs = vec![limited(30)];
            }
            turn.operations
                .push(launch(AgentId(*agent), &format!("t{name}"), resources));
            Command::Turn(turn)
        }
        Step::Kill {
            framework,
            task: number,
        } => {
            let mut turn = running(*framework)?;
            let task = task(*number)?.id.clone();
            turn.operations.push(Operation::Kill(Kill {
                task,
                grace_ms: None,
            }));
            Command::Turn(turn)
        }
        Step::UserKill { task: number } => Command::KillTask(Kill {
            task: task(*number)?.id.clone(),
            grace_ms: Some(1),
        }),
        Step::Report {
            task: number,
            state,
        } => {
            let task = task(*number)?;
            let reports = vec![report(&task.id, TaskState::ALL[*state])];
            Command::ReportTasks {
                agent: task.agent,
                reports,
            }
        }
        Step::Acknowledge { framework } => {
            let mut turn = running(*framework)?;
            let record = state.framework(FrameworkId(*framework))?;
            let tasks = record
                .pending
                .iter()
                .filter_map(|operation| state.tasks.get(operation));
            turn.notices_seen = record.notices.keys().copied().collect();
            turn.acknowledged = tasks.map(|task| (task.id.clone(), task.sequence)).collect();
            Command::Turn(turn)
        }
        Step::Write {
            framework,
            key,
            value,
        } => {
            let mut turn = running(*framework)?;
            turn.writes.push((
                format!("k{key}"),
                value.map(|value| vec![value; value.into()]),
            ));
            Command::Turn(turn)
        }
        Step::Operate {
            agent,
            what,
            deadline_ms,
        } => operate(AgentId(*agent), *what, *deadline_ms),
        Step::Maintain { cancel: true, .. } => Command::CancelMaintenance {
            window: *state.windows.keys().next()?,
        },
        Step::Maintain { agent, start, .. } => Command::ScheduleMaintenance(WindowPlan {
            agents: vec![AgentId(*agent)],
            start: Timestamp(log.time + start),
            duration_ms: 30,
            lead_ms: 10,
            note: String::new(),
        }),
        Step::SetRole {
            child,
            guarantee,
            limit,
        } => Command::SetRole {
            role: role(*child),
            settings: RoleSettings {
                guarantee: request(*guarantee, 0),
                limit: ResourceLimit {
                    cpus: limit.map(|cpus| MilliCpus(cpus * 1000)),
                    ..ResourceLimit::default()
                },
                preemptible: Some(guarantee % 3 == 0),
                ..RoleSettings::default()
            },
            force: guarantee % 2 == 0,
        },
        Step::RemoveRole { child } => Command::RemoveRole { role: role(*child) },
        Step::Gang {
            framework,
            agent,
            wait_ms,
        } => {
            let mut turn = running(*framework)?;
            let gang = Gang {
                wait_ms: *wait_ms,
                ..Gang::of(2, request(1, 1))
            };
            let key = format!("g{agent}");
            if framework % 2 == 0 {
                turn.gangs.push((key, Some(gang)));
            } else {
                turn.gangs.push((key, None));
                let tasks = ["g0", "g1"].map(|name| launch(AgentId(*agent), name, amounts(2, 1)));
                let launches = tasks.map(|task| task.launches()[0].clone());
                turn.operations.push(Operation::LaunchGang(launches.into()));
            }
            Command::Turn(turn)
        }
        Step::Preempt { agent, cpus } => {
            let agent = AgentId(*agent);
            let tasks = state.tasks.values().filter(|task| task.agent == agent);
            Command::Preempt(Preemption {
                role: role(true),
                guaranteed: role(cpus % 2 == 0),
                gang: None,
                places: vec![Place {
                    agent,
                    request: request(*cpus, 1),
                    parts: Vec::new(),
                    victims: tasks
                        .take(*cpus as usize)
                        .map(|task| task.id.clone())
                        .collect(),
                }],
            })
        }
        Step::SetSettings { millis } => Command::SetSettings(Settings {
            offer_timeout_ms: *millis,
            allowed_hosts: (millis % 2 == 0).then(|| vec!["m*".to_owned()]),
            ..Settings::default()
        }),
        Step::Convert {
            agent,
            framework,
            what,
            which,
            amount,
        } => {
            let agent = state.agent(AgentId(*agent))?;
            let conversion = conversion(agent, *what, *which, *amount)?;
            let agent = agent.id;
            match framework {
                None => Command::Operate {
                    agent,
                    wish: Wish::Exactly(conversion),
                },
                Some(framework) => {
                    let mut turn = running(*framework)?;
                    turn.operations.push(Operation::Convert(Convert {
                        agent,
                        name: "c".into(),
                        conversion,
                        role: None,
                    }));
                    Command::Turn(turn)
                }
            }
        }
        Step::LaunchOnPool {
            framework,
            agent,
            name,
            which,
        } => {
            let mut turn = running(*framework)?;
            let agent = state.agent(AgentId(*agent))?;
            let resources = Resources {
                pools: pool(agent, *which)?.into(),
                ..amounts(1, 1)
            };
            turn.operations
                .push(launch(agent.id, &format!("t{name}"), resources));
            Command::Turn(turn)
        }
        Step::Pass { millis } if millis % 2 == 0 => Command::MeetDeadlines,
        Step::Pass { millis } => Command::ReplaceTasks {
            agent: AgentId(1),
            unreachable_ms: *millis,
        },
        Step::Demand {
            framework,
            key,
            count,
        } => {
            let mut turn = running(*framework)?;
            let demand = Demand::new(*count, request(1, 1));
            turn.demands.push((format!("d{key}"), demand));
            Command::Turn(turn)
        }
    })
}

/// One of an agent's pools.
fn pool(agent: &Agent, which: usize) -> Option<Pool> {
    let pools = agent.total().pools.as_slice();
    pools.get(which % pools.len().max(1)).cloned()
}

/// Something that may be done with an agent's resources: mostly possible.
fn conversion(agent: &Agent, what: u8, which: usize, amount: u64) -> Option<Conversion> {
    let of_pool = || {
        Some(Resources {
            pools: pool(agent, which)?.into(),
            ..Resources::default()
        })
    };
    let volumes = agent.total().pools.iter();
    let volumes: Vec<_> = volumes
        .filter_map(|pool| pool.kind.volume.clone())
        .collect();
    let volume = || Some(volumes.get(which % volumes.len().max(1))?.id.clone());
    let reserve = |resources, child| Conversion::Reserve {
        resources,
        reservation: Reservation::dynamic(role(child)),
    };
    let disk = |gib| Resources {
        disk: Bytes::gib(gib),
        ..amounts(amount, 0)
    };
    Some(match what {
        0 => reserve(disk(2 * amount), false),
        1 => reserve(disk(amount), true),
        2 => reserve(of_pool()?, true),
        3 => Conversion::Unreserve {
            resources: of_pool()?,
        },
        4 => {
            let id = format!("v{which}");
            let disk = Pool::disk(pool(agent, which)?.kind, Bytes::gib(amount));
            let (path, shared) = ("data".into(), amount == 1);
            Conversion::Create {
                disk,
                volume: Volume { id, path, shared },
            }
        }
        5 => Conversion::Destroy { volume: volume()? },
        6 => Conversion::Grow {
            volume: volume()?,
            by: Bytes::gib(amount),
        },
        _ => Conversion::Shrink {
            volume: volume()?,
            by: Bytes::gib(amount),
        },
    })
}

/// The role of some frameworks, or the one above it.
fn role(child: bool) -> Role {
    let name = if child { "eng/web" } else { "eng" };
    name.parse().unwrap()
}

/// One of an operator's wishes; an agent is seldom given up.
fn operate(agent: AgentId, what: u8, deadline_ms: Option<u64>) -> Command {
    match what {
        0..3 => Command::DeactivateAgent { agent },
        3..7 => Command::ReactivateAgent { agent },
        7..11 => Command::DrainAgent {
            agent,
            deadline_ms,
            grace_ms: None,
            mark_gone: what == 10,
        },
        _ => Command::MarkAgentGone { agent },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn random_commands_keep_the_invariants_and_every_master_agrees(
        steps in proptest::collection::vec(step(), 1..120),
        snapshot_at in 0usize..120,
    ) {
        let mut log = Log::new();
        log.accept(Command::RecordArtifact { digest: Digest::of(b"component"), size: 9 });
        // Something to work with, so that most steps find what they are about.
        let mut info = machine(8, 8);
        info.resources.disk = Bytes::gib(40);
        log.accept(register(1, None, info, Vec::new()));
        log.framework("first", "eng");
        let mut other = log.state.clone();
        for (number, step) in steps.iter().enumerate() {
            if let Step::Pass { millis } = step {
                log.time += millis;
            }
            let Some(command) = command(&log, step) else { continue };
            let envelope = log.envelope(command);
            let applied = log.apply_envelope(&envelope);
            let elsewhere = other.apply(other.index + 1, &envelope);
            prop_assert_eq!(&applied.outcome, &elsewhere.outcome);
            prop_assert_eq!(&applied.events, &elsewhere.events);
            prop_assert_eq!(&applied.effects, &elsewhere.effects);
            if number == snapshot_at {
                other = State::decode(&other.encode()).unwrap();
            }
        }
        prop_assert_eq!(log.state.hash(), other.hash());
    }
}
