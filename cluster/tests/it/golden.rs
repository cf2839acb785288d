//! Golden bytes: what a release has written, every later one reads.
//!
//! The files are made once a release with `UPDATE_GOLDEN=1`, which leaves those
//! that are there alone; a difference means that stored or sent bytes have
//! changed, which needs a new version.

use std::path::Path;

use tepui_cluster::{Command, Envelope, State, TurnKind};
use tepui_types::constraint::{Constraint, Constraints, Test};
use tepui_types::operation::{Kill, Operation};
use tepui_types::wire::agent::{AgentEffect, AgentFrame, Hello, MasterFrame, Welcome};
use tepui_types::wire::executor::{FromExecutor, ProcessIdentity, TaskUpdate, ToExecutor};
use tepui_types::wire::peer::{PeerAnswer, PeerFrame, PeerHello};
use tepui_types::*;

use crate::support::*;

fn check(name: &str, bytes: &[u8]) {
    // Tests run in their package's folder.
    let path = Path::new("../tests/golden/0.1").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() && !path.exists() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    let golden = std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; UPDATE_GOLDEN=1 makes it", path.display()));
    assert!(
        golden == bytes,
        "the bytes of {name} have changed: they need a new version"
    );
}

fn peer_hello() -> PeerFrame {
    PeerFrame::Hello(PeerHello {
        cluster: ClusterId(7),
        from: NodeId(1),
        to: NodeId(2),
        process: 8,
        url: "http://10.0.0.1:5050".into(),
        index: 9,
    })
}

fn busy() -> Log {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 4), log.framework("batch", "eng/web"));
    let tasks = ["a", "b", "c"].map(|name| log.launch(framework, agent, name));
    log.report(agent, &tasks[0], TaskState::Running);
    log.report(agent, &tasks[1], TaskState::Finished);
    log.acknowledge(&tasks[1]);
    log.accept(Command::AddMaster {
        master: NodeId(1),
        url: "http://10.0.0.1:5050".into(),
    });
    log
}

fn zone_a() -> Constraints {
    Constraints(vec![vec![Constraint {
        attribute: "zone".into(),
        test: Test::Equals("a".into()),
    }]])
}

fn turn(log: &Log) -> Command {
    let mut turn = log.next_turn(FrameworkId(1));
    turn.kind = TurnKind::Request(answer("{}"));
    turn.acknowledged.push(("f1.a.0".parse().unwrap(), 1));
    turn.writes.push(("key".into(), Some(b"value".to_vec())));
    turn.timers.push(("later".into(), Some(Timestamp(9_000))));
    turn.demands.push((
        "d".into(),
        Demand {
            constraints: zone_a(),
            role: Some("eng/web".parse().unwrap()),
            ..Demand::new(3, request(1, 1))
        },
    ));
    turn.operations.push(launch(AgentId(1), "d", amounts(1, 1)));
    let task = "f1.a.0".parse().unwrap();
    turn.operations.push(Operation::Kill(Kill {
        task,
        grace_ms: Some(5),
    }));
    Command::Turn(turn)
}

#[test]
fn log_entries_keep_their_bytes() {
    let log = busy();
    let mut envelope = log.envelope(turn(&log));
    envelope.idempotency_key = Some("key".into());
    let bytes = envelope.encode();
    assert_eq!(Envelope::decode(&bytes).unwrap(), envelope);
    check("log-entry.bin", &bytes);
}

#[test]
fn snapshots_keep_their_bytes() {
    let mut log = busy();
    let command = turn(&log);
    log.accept(command);
    let bytes = log.state.encode();
    assert_eq!(State::decode(&bytes).unwrap().hash(), log.state.hash());
    check("snapshot.bin", &bytes);
}

#[test]
fn frames_keep_their_bytes() {
    let log = busy();
    let task: TaskId = "f1.a.0".parse().unwrap();
    let effects = log.state.owed_to(AgentId(1));
    let hello = AgentFrame::Hello(Hello {
        cluster: Some(ClusterId(7)),
        agent: Some(AgentId(1)),
        nonce: 1,
        process: 2,
        boot: 3,
        info: machine(4, 4),
        tasks: vec![report(&task, TaskState::Running)],
    });
    let welcome = MasterFrame::Welcome(Welcome {
        cluster: ClusterId(7),
        agent: AgentId(1),
        term: 1,
        heartbeat_ms: 1_000,
        timeout_ms: 15_000,
        masters: vec!["http://10.0.0.1:5050".into()],
    });
    let AgentEffect::Launch(launch) = effects[0].clone() else {
        panic!("no launch is owed")
    };
    let frames: [(&str, Vec<u8>); 9] = [
        ("peer-hello.bin", wire::frame(1, &peer_hello()).unwrap()),
        (
            "peer-messages.bin",
            wire::frame(1, &PeerFrame::Messages(vec![vec![1, 2], vec![3]])).unwrap(),
        ),
        (
            "peer-refused.bin",
            wire::frame(1, &PeerAnswer::Refused(Reason::new("not-a-member", "no"))).unwrap(),
        ),
        ("agent-hello.bin", wire::frame(1, &hello).unwrap()),
        ("master-welcome.bin", wire::frame(1, &welcome).unwrap()),
        (
            "master-effects.bin",
            wire::frame(1, &MasterFrame::Effects { term: 1, effects }).unwrap(),
        ),
        (
            "executor-attach.bin",
            wire::frame(1, &ToExecutor::Attach { token: 9 }).unwrap(),
        ),
        (
            "executor-launch.bin",
            wire::frame(
                1,
                &ToExecutor::Launch(Box::new(wire::executor::ExecutorLaunch {
                    launch: *launch,
                    sandbox: "/sandbox".into(),
                    volumes: Vec::new(),
                    program: None,
                    stdin: None,
                    cgroup: None,
                    image: None,
                    images: Default::default(),
                    secrets: Default::default(),
                    devices: None,
                    network: None,
                    users: None,
                })),
            )
            .unwrap(),
        ),
        (
            "executor-attached.bin",
            wire::frame(
                1,
                &FromExecutor::Attached {
                    identity: ProcessIdentity {
                        boot_id: "b".into(),
                        pid: 2,
                        start_time: 3,
                    },
                    version: "0.1.0".into(),
                    tasks: vec![TaskUpdate {
                        task,
                        state: TaskState::Failed,
                        reason: Some(Reason::new("exit-code", "exited with 3")),
                        exit_code: Some(3),
                        usage: Some(task::TaskUsage {
                            cpu_micros: 1,
                            mem_peak_bytes: 2,
                            instances: None,
                        }),
                        members: Vec::new(),
                    }],
                },
            )
            .unwrap(),
        ),
    ];
    frames.iter().for_each(|(name, bytes)| check(name, bytes));
}
