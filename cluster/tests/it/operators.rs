//! What operators do with agents, and what follows when its time has come.

use tepui_cluster::state::claims::Taker;
use tepui_cluster::state::drains::Mode;
use tepui_cluster::state::limits;
use tepui_cluster::state::maintenance::WindowPlan;
use tepui_cluster::{Accepted, Command, Rejection, feasibility};
use tepui_types::operation::Kill;
use tepui_types::task::reason;
use tepui_types::wire::agent::AgentEffect;
use tepui_types::*;

use crate::support::*;

/// An agent with two tasks that run, of one framework.
fn busy() -> (Log, FrameworkId, AgentId, [TaskId; 2]) {
    let mut log = Log::new();
    let (agent, framework) = (log.agent(4, 4), log.framework("batch", "eng"));
    let tasks = ["a", "b"].map(|name| log.launch(framework, agent, name));
    for task in &tasks {
        log.report(agent, task, TaskState::Running);
    }
    (log, framework, agent, tasks)
}

fn drain(agent: AgentId) -> Command {
    Command::DrainAgent {
        agent,
        deadline_ms: None,
        grace_ms: None,
        mark_gone: false,
    }
}

fn standing(log: &Log, agent: AgentId) -> AgentStatus {
    log.state.agent(agent).unwrap().standing()
}

fn graces(effects: &[&AgentEffect]) -> Vec<u64> {
    let kills = effects.iter().filter_map(|effect| match effect {
        AgentEffect::Kill { grace_ms, .. } => Some(*grace_ms),
        _ => None,
    });
    kills.collect()
}

fn reason_of(log: &Log, task: &TaskId) -> String {
    let status = &log.state.task(task).unwrap().status;
    status.reason.clone().unwrap().code
}

#[test]
fn a_deactivated_agent_keeps_its_tasks_and_gets_no_more() {
    let (mut log, framework, agent, tasks) = busy();
    log.accept(Command::DeactivateAgent { agent });
    assert_eq!(standing(&log, agent), AgentStatus::Deactivated);
    assert_eq!(log.task_state(&tasks[0]), TaskState::Running);
    let refused = log.launch(framework, agent, "c");
    assert_eq!(log.task_state(&refused), TaskState::Dropped);
    assert_eq!(reason_of(&log, &refused), reason::AGENT_UNAVAILABLE);
    log.accept(Command::ReactivateAgent { agent });
    assert!(
        feasibility::check(
            &log.state,
            agent,
            Taker::single(&Role::default()),
            &amounts(1, 1)
        )
        .is_ok()
    );
}

#[test]
fn a_drain_ends_every_task_with_its_grace_and_then_itself() {
    let (mut log, framework, agent, tasks) = busy();
    let applied = log.apply(drain(agent));
    assert_eq!(graces(&on_agents(&applied)), [5_000, 5_000]);
    assert_eq!(standing(&log, agent), AgentStatus::Draining);
    assert_eq!(log.task_state(&tasks[0]), TaskState::Killing);
    log.report(agent, &tasks[0], TaskState::Killed);
    assert_eq!(standing(&log, agent), AgentStatus::Draining);
    log.report(agent, &tasks[1], TaskState::Finished);
    assert_eq!(standing(&log, agent), AgentStatus::Drained);
    let refused = log.launch(framework, agent, "c");
    assert_eq!(log.task_state(&refused), TaskState::Dropped);
    log.accept(Command::ReactivateAgent { agent });
    assert_eq!(standing(&log, agent), AgentStatus::Active);
}

#[test]
fn a_drained_task_is_lost_without_blame_unless_someone_wanted_its_end() {
    let (mut log, _, agent, tasks) = busy();
    log.accept(drain(agent));
    log.accept(Command::KillTask(Kill {
        task: tasks[1].clone(),
        grace_ms: Some(60_000),
    }));
    for task in &tasks {
        log.report(agent, task, TaskState::Killed);
    }
    let status = |task| &log.state.task(task).unwrap().status;
    assert_eq!(reason_of(&log, &tasks[0]), reason::AGENT_DRAINED);
    assert!(status(&tasks[0]).is_lost());
    assert!(!status(&tasks[1]).is_lost(), "{:?}", status(&tasks[1]));
}

#[test]
fn a_task_that_was_killed_before_the_drain_stays_killed() {
    let (mut log, _, agent, tasks) = busy();
    log.accept(Command::KillTask(Kill {
        task: tasks[0].clone(),
        grace_ms: None,
    }));
    log.accept(drain(agent));
    log.report(agent, &tasks[0], TaskState::Killed);
    assert!(!log.state.task(&tasks[0]).unwrap().status.is_lost());
}

#[test]
fn a_drain_s_deadline_bounds_every_grace_and_takes_it_when_it_comes() {
    let (mut log, _, agent, _) = busy();
    let applied = log.apply(Command::DrainAgent {
        agent,
        deadline_ms: Some(2_000),
        grace_ms: Some(60_000),
        mark_gone: false,
    });
    assert_eq!(graces(&on_agents(&applied)), [2_000, 2_000]);
    let due = log.state.next_deadline().unwrap();
    assert_eq!(due, Timestamp(log.time + 2_000));
    log.time = due.0 - 1;
    assert!(on_agents(&log.apply(Command::MeetDeadlines)).is_empty());
    log.time = due.0;
    let applied = log.apply(Command::MeetDeadlines);
    assert_eq!(graces(&on_agents(&applied)), [0, 0]);
    assert_eq!(log.state.next_deadline(), None, "it is met once");
    assert_eq!(standing(&log, agent), AgentStatus::Draining);
}

#[test]
fn a_drain_that_is_taken_back_has_no_deadline_left() {
    let (mut log, framework, agent, tasks) = busy();
    log.accept(Command::DrainAgent {
        agent,
        deadline_ms: Some(2_000),
        grace_ms: None,
        mark_gone: true,
    });
    log.report(agent, &tasks[0], TaskState::Killed);
    log.accept(Command::ReactivateAgent { agent });
    assert_eq!(log.state.next_deadline(), None);
    let task = log.launch(framework, agent, "c");
    assert_eq!(log.task_state(&task), TaskState::Staging);
}

#[test]
fn a_drain_may_end_in_the_agent_s_removal() {
    let (mut log, _, agent, tasks) = busy();
    log.accept(Command::DrainAgent {
        agent,
        deadline_ms: Some(2_000),
        grace_ms: None,
        mark_gone: true,
    });
    log.report(agent, &tasks[0], TaskState::Killed);
    log.time += 2_000;
    log.accept(Command::MeetDeadlines);
    assert!(log.state.agent(agent).is_none());
    assert_eq!(reason_of(&log, &tasks[0]), reason::AGENT_DRAINED);
    assert_eq!(log.task_state(&tasks[1]), TaskState::Gone);
    assert_eq!(reason_of(&log, &tasks[1]), reason::AGENT_GONE);

    let other = log.agent(4, 4);
    log.accept(Command::DrainAgent {
        agent: other,
        deadline_ms: None,
        grace_ms: None,
        mark_gone: true,
    });
    assert!(log.state.agent(other).is_none(), "it had no task");
}

#[test]
fn an_agent_that_is_gone_ends_its_tasks_and_never_comes_back() {
    let (mut log, framework, agent, tasks) = busy();
    log.accept(Command::MarkAgentUnreachable { agent });
    let applied = log.apply(Command::MarkAgentGone { agent });
    assert_eq!(graces(&on_agents(&applied)), [0, 0], "should it be there");
    for task in &tasks {
        assert_eq!(log.task_state(task), TaskState::Gone);
    }
    assert_eq!(log.pending(framework), 2, "the framework learns of it");
    let back = register(1, Some(agent), machine(4, 4), Vec::new());
    let refusal = log.apply(back).outcome.unwrap_err();
    assert!(matches!(refusal, Rejection::Gone(_)), "{refusal}");
    assert!(refusal.to_string().contains("empty folder"));
    let revision = log.state.gone_agent(agent).unwrap().agent.revision;
    let again = log.accept(Command::MarkAgentGone { agent });
    assert_eq!(again, Accepted::AgentChanged { agent, revision });
    let late = log.apply(Command::DeactivateAgent { agent }).outcome;
    assert!(refused(late).contains("gone for good"));
    assert_ne!(log.agent(1, 1), agent, "ids are used once");
}

#[test]
fn a_framework_s_removal_does_not_wait_for_an_agent_that_is_gone() {
    let (mut log, framework, agent, _) = busy();
    log.accept(Command::MarkAgentUnreachable { agent });
    log.accept(Command::RemoveFramework { framework });
    assert!(log.state.framework(framework).is_some());
    log.accept(Command::MarkAgentGone { agent });
    assert!(log.state.framework(framework).is_none());
}

#[test]
fn agents_that_are_gone_are_remembered_up_to_a_bound() {
    let mut log = Log::new();
    let mut first = None;
    for nonce in 0..=limits::GONE_AGENTS as u128 {
        let command = register(nonce, None, machine(1, 1), Vec::new());
        let envelope = log.envelope(command);
        // Not through `accept`: the invariants of so many states take long.
        let applied = log.state.apply(log.state.index + 1, &envelope);
        let Ok(Accepted::Agent { agent }) = applied.outcome else {
            panic!("{:?}", applied.outcome)
        };
        first.get_or_insert(agent);
        let envelope = log.envelope(Command::MarkAgentGone { agent });
        log.state.apply(log.state.index + 1, &envelope);
    }
    log.state.check_invariants().unwrap();
    assert_eq!(log.state.gone.len(), limits::GONE_AGENTS);
    let first = first.unwrap();
    assert!(log.state.gone_agent(first).is_none());
    let back = register(0, Some(first), machine(1, 1), Vec::new());
    let refusal = log.apply(back).outcome.unwrap_err();
    assert!(matches!(refusal, Rejection::Gone(_)), "{refusal}");
}

fn plan(agents: &[AgentId], start: u64) -> WindowPlan {
    WindowPlan {
        agents: agents.to_vec(),
        start: Timestamp(start),
        duration_ms: 10_000,
        lead_ms: 1_000,
        note: String::new(),
    }
}

#[test]
fn a_window_empties_its_agents_before_it_and_opens_them_after_it() {
    let (mut log, _, agent, tasks) = busy();
    let start = log.time + 5_000;
    log.accept(Command::ScheduleMaintenance(plan(&[agent], start)));
    log.time = start - 1_001;
    log.accept(Command::MeetDeadlines);
    assert_eq!(standing(&log, agent), AgentStatus::Active);
    log.time = start - 1_000;
    let applied = log.apply(Command::MeetDeadlines);
    assert_eq!(graces(&on_agents(&applied)), [1_000, 1_000], "by its start");
    for task in &tasks {
        log.report(agent, task, TaskState::Killed);
    }
    assert_eq!(standing(&log, agent), AgentStatus::Drained);
    log.accept(Command::MarkAgentUnreachable { agent });
    log.time = start + 10_000;
    log.accept(Command::MeetDeadlines);
    assert!(log.state.windows.is_empty());
    assert_eq!(standing(&log, agent), AgentStatus::Unreachable);
    log.accept(register(1, Some(agent), machine(4, 4), Vec::new()));
    assert_eq!(standing(&log, agent), AgentStatus::Active, "it is back");
}

#[test]
fn a_cancelled_window_gives_agents_back_as_they_were() {
    let mut log = Log::new();
    let agents = [log.agent(1, 1), log.agent(1, 1), log.agent(1, 1)];
    log.accept(Command::DeactivateAgent { agent: agents[1] });
    let start = log.time + 500;
    let plan = plan(&agents, start);
    let Accepted::Window { window, .. } = log.accept(Command::ScheduleMaintenance(plan)) else {
        panic!("no window");
    };
    log.accept(drain(agents[2]));
    log.accept(Command::MeetDeadlines);
    let drained = agents.map(|agent| standing(&log, agent));
    assert_eq!(drained, [AgentStatus::Drained; 3]);
    log.accept(Command::CancelMaintenance { window });
    let after = agents.map(|agent| standing(&log, agent));
    use AgentStatus::{Active, Deactivated, Drained};
    assert_eq!(after, [Active, Deactivated, Drained], "the last is not its");
    let again = log.apply(Command::CancelMaintenance { window }).outcome;
    assert!(refused(again).contains("over or was cancelled"));
}

#[test]
fn windows_that_overlap_hand_their_agents_on() {
    let mut log = Log::new();
    let agent = log.agent(1, 1);
    let start = log.time;
    log.accept(Command::ScheduleMaintenance(plan(&[agent], start)));
    log.accept(Command::ScheduleMaintenance(plan(&[agent], start + 5_000)));
    log.time = start + 9_000;
    log.accept(Command::MeetDeadlines);
    log.time = start + 10_000;
    log.accept(Command::MeetDeadlines);
    assert!(matches!(
        log.state.agent(agent).unwrap().mode,
        Mode::Drained(_)
    ));
    log.time = start + 15_000;
    log.accept(Command::MeetDeadlines);
    assert_eq!(standing(&log, agent), AgentStatus::Active);
}

#[test]
fn windows_that_cannot_be_are_refused() {
    let mut log = Log::new();
    let agent = log.agent(1, 1);
    log.time = 100_000;
    let unknown = log.apply(Command::ScheduleMaintenance(plan(
        &[agent, AgentId(9)],
        200_000,
    )));
    assert!(refused(unknown.outcome).contains("no agent a9"));
    let past = log.apply(Command::ScheduleMaintenance(plan(&[agent], 90_000)));
    assert!(refused(past.outcome).contains("over already"));
}
