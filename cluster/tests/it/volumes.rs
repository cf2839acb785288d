//! What agents are told of their volumes.

use tepui_cluster::{Accepted, Command, Effect, State};
use tepui_types::resources::{Conversion, PoolKind};
use tepui_types::wire::agent::{AgentEffect, TaskLaunch, VolumeList};
use tepui_types::wish::VolumeRequest;
use tepui_types::*;

use crate::support::*;

/// An agent with 20 GiB reserved for `eng`, and a framework of that role.
fn reserved() -> (Log, AgentId, FrameworkId) {
    let mut log = Log::new();
    let mut info = machine(4, 4);
    info.resources.disk = Bytes::gib(40);
    log.accept(register(1, None, info, Vec::new()));
    let agent = AgentId(1);
    let disk = resources::ResourceRequest {
        disk: Bytes::gib(20),
        ..Default::default()
    };
    let reserve = wish::ReserveRequest::new("eng".parse().unwrap(), disk);
    operate(&mut log, agent, Wish::Reserve(reserve));
    let framework = log.framework("db", "eng");
    (log, agent, framework)
}

fn operate(log: &mut Log, agent: AgentId, wish: Wish) -> OperationId {
    match log.accept(Command::Operate { agent, wish }) {
        Accepted::Converted { operation, .. } => operation,
        other => panic!("{other:?}"),
    }
}

fn create(log: &mut Log, agent: AgentId) -> OperationId {
    let volume = VolumeRequest::new("data", "eng".parse().unwrap(), Bytes::gib(5));
    operate(log, agent, Wish::Create(volume))
}

fn destroy(log: &mut Log, agent: AgentId) -> Vec<Effect> {
    let volume = "data".into();
    let wish = Wish::Exactly(Conversion::Destroy { volume });
    log.apply(Command::Operate { agent, wish }).effects
}

/// Launches a task on the volume, and half of it on what is reserved.
fn launch_on_volume(log: &mut Log, framework: FrameworkId, agent: AgentId) -> TaskId {
    let total = log.state.agent(agent).unwrap().total().clone();
    let volume = total.pools.volume("data").unwrap().clone();
    let mut taken = amounts(1, 1);
    let kind = PoolKind {
        volume: None,
        ..volume.kind.clone()
    };
    let some = resources::Pool::disk(kind, Bytes::gib(2));
    taken.pools = vec![volume, some].try_into().unwrap();
    log.launch_with(framework, agent, "db", taken)
}

fn launches(log: &Log, agent: AgentId) -> Vec<TaskLaunch> {
    let owed = log.state.owed_to(agent).into_iter();
    owed.filter_map(|effect| match effect {
        AgentEffect::Launch(launch) => Some(*launch),
        _ => None,
    })
    .collect()
}

fn list(effects: &[AgentEffect]) -> Option<&VolumeList> {
    effects.iter().find_map(|effect| match effect {
        AgentEffect::Volumes(list) => Some(list),
        _ => None,
    })
}

#[test]
fn a_launch_says_which_volume_it_uses_and_its_resources_are_one_sum() {
    let (mut log, agent, framework) = reserved();
    let made_by = create(&mut log, agent);
    let task = launch_on_volume(&mut log, framework, agent);
    assert_eq!(log.task_state(&task), TaskState::Staging);
    let launch = &launches(&log, agent)[0];
    assert_eq!(
        launch.resources.to_string(),
        "1 cpus, 1 GiB mem, 2 GiB disk"
    );
    let volume = &launch.volumes[0];
    assert_eq!((volume.made_by, volume.path.as_str()), (made_by, "data"));
    assert_eq!(volume.bytes, Some(Bytes::gib(5)));
}

#[test]
fn a_volume_of_the_same_name_is_another() {
    let (mut log, agent, framework) = reserved();
    let first = create(&mut log, agent);
    let effects = destroy(&mut log, agent);
    let told = effects.iter().find_map(|effect| match effect {
        Effect::Agent(_, AgentEffect::Volumes(list)) => Some(list),
        _ => None,
    });
    let told = told.expect("the agent is told at once");
    assert!(told.kept.is_empty() && (told.from..=told.to).contains(&first.index));
    let second = create(&mut log, agent);
    assert_ne!(first, second);
    launch_on_volume(&mut log, framework, agent);
    assert_eq!(launches(&log, agent)[0].volumes[0].made_by, second);
}

#[test]
fn an_agent_that_was_away_is_told_which_volumes_are_left_before_anything_else() {
    let (mut log, agent, framework) = reserved();
    assert_eq!(list(&log.state.owed_to(agent)), None, "it never had one");
    create(&mut log, agent);
    destroy(&mut log, agent);
    let second = create(&mut log, agent);
    launch_on_volume(&mut log, framework, agent);
    let owed = log.state.owed_to(agent);
    assert!(matches!(&owed[0], AgentEffect::Volumes(list) if list.kept == [second]));
    let decoded = State::decode(&log.state.encode()).unwrap();
    assert_eq!(decoded.owed_to(agent), owed);
}

#[test]
fn after_a_restore_nothing_is_removed_that_the_backup_may_not_know() {
    let (mut log, agent, _) = reserved();
    create(&mut log, agent);
    let backup = log.state.clone();
    destroy(&mut log, agent);
    let lost = create(&mut log, agent);
    let restored = backup.restored(NodeId(9), "http://10.0.0.9:5050".into());
    let owed = restored.owed_to(agent);
    let list = list(&owed).expect("it has a volume");
    assert!(!list.kept.contains(&lost) && !(list.from..=list.to).contains(&lost.index));
}
