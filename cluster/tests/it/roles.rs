//! Roles: quotas that fit into each other, and launches that keep to them.

use tepui_cluster::{Command, Outcome, State};
use tepui_types::resources::{ResourceLimit, ResourceRequest};
use tepui_types::role::RoleSettings;
use tepui_types::*;

use crate::support::*;

fn cpus(guarantee: u64, limit: Option<u64>) -> RoleSettings {
    RoleSettings {
        guarantee: ResourceRequest {
            cpus: MilliCpus(guarantee * 1000),
            ..ResourceRequest::default()
        },
        limit: ResourceLimit {
            cpus: limit.map(|cpus| MilliCpus(cpus * 1000)),
            ..ResourceLimit::default()
        },
        ..RoleSettings::default()
    }
}

fn set(log: &mut Log, role: &str, settings: RoleSettings, force: bool) -> Outcome {
    let role = role.parse().unwrap();
    let set = Command::SetRole {
        role,
        settings,
        force,
    };
    log.apply(set).outcome
}

fn role(name: &str) -> Role {
    name.parse().unwrap()
}

#[test]
fn a_role_is_set_shown_and_forgotten() {
    let mut log = Log::new();
    log.agent(8, 8);
    set(&mut log, "eng", cpus(2, Some(4)), false).unwrap();
    assert_eq!(log.state.role_settings(&role("eng")), cpus(2, Some(4)));
    let kept = State::decode(&log.state.encode()).unwrap();
    assert_eq!(kept.role_settings(&role("eng")), cpus(2, Some(4)));
    let role = role("eng");
    log.accept(Command::RemoveRole { role: role.clone() });
    assert_eq!(log.state.role_settings(&role), RoleSettings::default());
    let again = log.apply(Command::RemoveRole { role }).outcome;
    assert!(refused(again).contains("nothing is set of role `eng`"));
}

#[test]
fn settings_that_cannot_be_are_refused_with_what_would_mend_them() {
    let mut log = Log::new();
    log.agent(8, 8);
    let weightless = RoleSettings {
        weight_milli: 0,
        ..RoleSettings::default()
    };
    let mut endless = cpus(0, None);
    endless.guarantee.mem = Bytes(u64::MAX);
    let mut log_with = |role: &str, settings| refused(set(&mut log, role, settings, false));
    assert!(log_with("a", weightless).contains("a weight is from 0.001"));
    assert!(
        log_with("a", cpus(3, Some(2))).contains("the limit of 2 cpus is below the guarantee of 3")
    );
    let above = log_with("a", cpus(9, None));
    assert!(
        above.contains("guaranteed 9 cpus, and the cluster's agents have 8"),
        "{above}"
    );
    assert!(above.contains("force it"), "{above}");
    assert!(log_with("a/b", cpus(1, None)).contains("raise the guarantee of `a` first"));
    let sum = refused(set(&mut log, "a", endless, true));
    assert!(sum.contains("the most that is counted"), "{sum}");
}

#[test]
fn guarantees_above_the_cluster_can_be_forced() {
    let mut log = Log::new();
    log.agent(8, 8);
    set(&mut log, "a", cpus(6, None), false).unwrap();
    let sum = refused(set(&mut log, "b", cpus(4, None), false));
    assert!(
        sum.contains("guaranteed 10 cpus, and the cluster's agents have 8"),
        "{sum}"
    );
    set(&mut log, "b", cpus(4, None), true).unwrap();
}

#[test]
fn quotas_of_children_fit_into_their_parents() {
    let mut log = Log::new();
    log.agent(8, 8);
    set(&mut log, "a", cpus(4, Some(6)), false).unwrap();
    set(&mut log, "a/x", cpus(3, None), false).unwrap();
    let above = refused(set(&mut log, "a/y", cpus(2, None), false));
    assert!(
        above.contains("guaranteed 5 cpus together, and it is guaranteed 4"),
        "{above}"
    );
    let limit = refused(set(&mut log, "a/x/deep", cpus(0, Some(7)), false));
    assert!(limit.contains("above that of role `a`"), "{limit}");
    let lowered = refused(set(&mut log, "a", cpus(2, Some(6)), false));
    assert!(lowered.contains("lower theirs first"), "{lowered}");
    set(&mut log, "a/x", cpus(3, Some(5)), false).unwrap();
    let lowered = refused(set(&mut log, "a", cpus(4, Some(4)), false));
    assert!(lowered.contains("below that of role `a/x`"), "{lowered}");
    let removed = log.apply(Command::RemoveRole { role: role("a") }).outcome;
    assert!(refused(removed).contains("lower theirs first"));
    // Another that only begins alike is no child.
    set(&mut log, "a-x", cpus(0, Some(8)), false).unwrap();
}

#[test]
fn no_launch_passes_a_limit_at_any_level() {
    let mut log = Log::new();
    let agent = log.agent(8, 8);
    let (web, db) = (
        log.framework("web", "eng/web"),
        log.framework("db", "eng/db"),
    );
    set(&mut log, "eng", cpus(0, Some(3)), false).unwrap();
    set(&mut log, "eng/web", cpus(0, Some(2)), false).unwrap();
    let launch =
        |log: &mut Log, framework, name| log.launch_with(framework, agent, name, amounts(1, 1));
    let tasks = ["a", "b", "c"].map(|name| launch(&mut log, web, name));
    assert_eq!(log.task_state(&tasks[1]), TaskState::Staging);
    let dropped = log.state.task(&tasks[2]).unwrap();
    let why = dropped.status.reason.as_ref().unwrap();
    assert_eq!(why.code, task::reason::QUOTA_REACHED);
    assert!(
        why.message
            .contains("role `eng/web` would have 3 cpus, and its limit is 2"),
        "{why}"
    );
    let kept = launch(&mut log, db, "a");
    let over = launch(&mut log, db, "b");
    assert_eq!(log.task_state(&kept), TaskState::Staging);
    assert_eq!(log.task_state(&over), TaskState::Dropped);
    log.report(agent, &tasks[0], TaskState::Finished);
    let again = launch(&mut log, db, "c");
    assert_eq!(
        log.task_state(&again),
        TaskState::Staging,
        "what ended counts no more"
    );
    assert_eq!(log.state.role_use(&role("eng")).cpus, MilliCpus(3000));
}

#[test]
fn a_limit_below_what_a_role_has_is_forced_and_ends_nothing() {
    let mut log = Log::new();
    let agent = log.agent(8, 8);
    let framework = log.framework("web", "eng");
    let task = log.launch_with(framework, agent, "a", amounts(4, 1));
    let low = refused(set(&mut log, "eng", cpus(0, Some(2)), false));
    assert!(
        low.contains("has 4 cpus now, and the limit would be 2"),
        "{low}"
    );
    set(&mut log, "eng", cpus(0, Some(2)), true).unwrap();
    assert_eq!(log.task_state(&task), TaskState::Staging);
    let none = Resources {
        cpus: MilliCpus(0),
        ..amounts(0, 1)
    };
    let free_of_it = log.launch_with(framework, agent, "b", none);
    assert_eq!(
        log.task_state(&free_of_it),
        TaskState::Staging,
        "it takes no cpus"
    );
}
