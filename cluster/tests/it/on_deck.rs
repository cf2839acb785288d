//! Tasks on deck: the next of a line of short ones, which its agent begins without waiting for the log.

use std::sync::Arc;

use tepui_cluster::state::preemption::{Place, Preemption};
use tepui_cluster::{Accepted, Applied, Command};
use tepui_types::command::CommandWorkload;
use tepui_types::operation::Kill;
use tepui_types::role::RoleSettings;
use tepui_types::wire::agent::{AgentEffect, StatusReport};
use tepui_types::*;

use crate::makers::spec;
use crate::successors::{busy, demand, launched, line_up, line_up_with, reason_of};
use crate::support::*;

/// Four tasks, of which the first has ended: the second runs, the third is on deck, and the fourth in line.
struct Line {
    log: Log,
    agent: AgentId,
    framework: FrameworkId,
    tasks: [TaskId; 4],
}

impl Line {
    fn new() -> Self {
        let (mut log, agent, framework, first) = busy();
        let [second, third, fourth] =
            ["second", "third", "fourth"].map(|name| line_up(&mut log, agent, name, &first));
        log.time += 100;
        log.report(agent, &first, TaskState::Finished);
        Self {
            log,
            agent,
            framework,
            tasks: [first, second, third, fourth],
        }
    }

    fn end(&mut self, place: usize) -> Applied {
        let task = self.tasks[place].clone();
        self.log.report(self.agent, &task, TaskState::Finished)
    }

    fn states(&self) -> [TaskState; 3] {
        [1, 2, 3].map(|place| self.log.task_state(&self.tasks[place]))
    }

    /// What is known of the agent's use.
    fn used(&self) -> MilliCpus {
        self.log.state.agent(self.agent).unwrap().used.cpus
    }

    fn on_deck(&self) -> Vec<&TaskId> {
        let tasks = self.tasks.iter();
        let is_on_deck = |task: &&TaskId| {
            let task = self.log.state.task(task).unwrap();
            task.is_told() && !task.has_place()
        };
        tasks.filter(is_on_deck).collect()
    }

    /// The agent comes back after it was not heard of, and says this of its tasks.
    fn come_back(&mut self, says: Vec<StatusReport>) -> Applied {
        let agent = self.agent;
        self.log.accept(Command::MarkAgentUnreachable { agent });
        register_again(&mut self.log, agent, 1, says)
    }
}

/// An agent comes back in this boot of its machine, and says this of its tasks.
fn register_again(log: &mut Log, agent: AgentId, boot: u128, says: Vec<StatusReport>) -> Applied {
    let record = log.state.agent(agent).unwrap();
    let info = (*record.info).clone();
    log.apply(Command::RegisterAgent {
        nonce: record.nonce,
        boot,
        agent: Some(agent),
        info,
        tasks: says,
    })
}

/// Who is launched after whom.
fn afters(effects: &[&AgentEffect]) -> Vec<(TaskId, Option<TaskId>)> {
    let launches = effects.iter().filter_map(|effect| match effect {
        AgentEffect::Launch(launch) => Some((launch.task.clone(), launch.after.clone())),
        _ => None,
    });
    launches.collect()
}

#[test]
fn the_next_of_a_place_that_was_held_briefly_is_told_ahead() {
    let (mut log, agent, _, first) = busy();
    let second = line_up(&mut log, agent, "second", &first);
    let third = line_up(&mut log, agent, "third", &first);
    let fourth = line_up(&mut log, agent, "fourth", &first);
    log.time += 100;
    let applied = log.report(agent, &first, TaskState::Finished);
    let told = [
        (second.clone(), None),
        (third.clone(), Some(second.clone())),
    ];
    assert_eq!(afters(&on_agents(&applied)), told);
    let owed = log.state.owed_to(agent);
    assert_eq!(afters(&owed.iter().collect::<Vec<_>>()), told, "and again");
    assert_eq!(log.state.agent(agent).unwrap().used.cpus, MilliCpus(1_000));
    log.time += 5;
    let applied = log.report(agent, &second, TaskState::Finished);
    let told = [(fourth.clone(), Some(third.clone()))];
    assert_eq!(afters(&on_agents(&applied)), told, "the third was");
    assert_eq!(log.state.task(&third).unwrap().waits_for(), None);
    log.time += 101;
    line_up(&mut log, agent, "fifth", &first);
    let applied = log.report(agent, &third, TaskState::Finished);
    assert!(launched(&applied).is_empty(), "the place was held for long");
    assert!(log.state.task(&fourth).unwrap().has_place());
}

/// Who is told to begin when the first of a line of eight has ended after so many milliseconds; the log, the
/// agent and all of the line.
fn told_after(held_ms: u64) -> (usize, Log, AgentId, Vec<TaskId>) {
    let (mut log, agent, _, first) = busy();
    let rest = (1..8).map(|number| line_up(&mut log, agent, &format!("t{number}"), &first));
    let rest: Vec<_> = rest.collect();
    log.time += held_ms;
    let applied = log.report(agent, &first, TaskState::Finished);
    let told = launched(&applied).len();
    let tasks = std::iter::once(first).chain(rest);
    (told, log, agent, tasks.collect())
}

#[test]
fn as_many_are_on_deck_as_take_a_brief_time_together() {
    for (held_ms, on_deck) in [(0, 4), (25, 4), (26, 3), (50, 2), (100, 1), (101, 0)] {
        let (told, ..) = told_after(held_ms);
        assert_eq!(told, 1 + on_deck, "{held_ms} ms");
    }
}

#[test]
fn what_fails_fast_says_nothing_of_the_next() {
    let (mut log, agent, _, first) = busy();
    for name in ["second", "third"] {
        line_up(&mut log, agent, name, &first);
    }
    let applied = log.report(agent, &first, TaskState::Failed);
    assert_eq!(launched(&applied).len(), 1, "nobody is on deck");
}

#[test]
fn ends_in_one_report_say_how_long_the_first_took() {
    let (told, mut log, agent, tasks) = told_after(100);
    assert_eq!(told, 2);
    log.time += 40;
    let reports = [1, 2].map(|place| report(&tasks[place], TaskState::Finished));
    let applied = log.apply(Command::ReportTasks {
        agent,
        reports: reports.to_vec(),
    });
    let told = [(3, 2), (4, 3), (5, 4)].map(|(next, before): (usize, usize)| {
        let before = tasks[before].clone();
        (tasks[next].clone(), Some(before))
    });
    assert_eq!(afters(&on_agents(&applied)), told, "two for 40 ms each");
}

#[test]
fn who_gets_a_place_by_what_a_restarted_machine_says_runs_there() {
    let (_, mut log, agent, tasks) = told_after(1);
    let gone = tasks[1..6].iter().map(|task| report(task, TaskState::Gone));
    let gone: Vec<_> = gone.collect();
    let applied = register_again(&mut log, agent, 2, gone);
    assert!(launched(&applied).contains(&&tasks[6]), "{applied:?}");
    assert_eq!(log.task_state(&tasks[6]), TaskState::Staging);
    assert!(log.state.task(&tasks[6]).unwrap().has_place());
}

#[test]
fn a_launch_of_a_task_that_has_ended_is_wanted_no_more() {
    let mut log = Log::new();
    let agent = log.agent(1, 8);
    let framework = log.framework("batch", "*");
    let task = log.launch_with(framework, agent, "first", amounts(1, 1));
    let owed = log.state.owed_to(agent);
    assert!(owed.iter().all(|effect| log.state.is_wanted(effect)));
    // Its machine was restarted before it heard of it.
    register_again(&mut log, agent, 2, Vec::new());
    assert_eq!(log.task_state(&task), TaskState::Gone);
    assert!(!owed.iter().any(|effect| log.state.is_wanted(effect)));
}

#[test]
fn several_ends_of_a_line_may_come_in_one_report() {
    let (_, mut log, agent, tasks) = told_after(1);
    let reports = [1, 2, 3].map(|place| report(&tasks[place], TaskState::Finished));
    let applied = log.apply(Command::ReportTasks {
        agent,
        reports: reports.to_vec(),
    });
    let told = [(6, 5), (7, 6)].map(|(next, before): (usize, usize)| {
        let before = tasks[before].clone();
        (tasks[next].clone(), Some(before))
    });
    assert_eq!(afters(&on_agents(&applied)), told);
    assert!(log.state.task(&tasks[4]).unwrap().has_place());
    assert_eq!(log.state.agent(agent).unwrap().used.cpus, MilliCpus(1_000));
}

#[test]
fn all_on_deck_keep_their_promise_and_are_taken_with_the_place() {
    let (_, mut log, agent, tasks) = told_after(1);
    let other = log.framework("other", "*");
    demand(&mut log, other, 1);
    let states = |log: &Log| -> Vec<_> {
        let tasks = tasks.iter().skip(2);
        tasks.map(|task| log.task_state(task)).collect()
    };
    log.report(agent, &tasks[1], TaskState::Finished);
    let mut expected = [TaskState::Staging; 4].to_vec();
    expected.extend([TaskState::Dropped; 2]);
    assert_eq!(states(&log), expected);
    // One that is killed where it stands leaves the others in their order.
    log.report(agent, &tasks[3], TaskState::Killed);
    let fourth = log.state.task(&tasks[4]).unwrap();
    let second = log.state.task(&tasks[2]).unwrap();
    assert_eq!(fourth.waits_for(), Some(second.operation));
    log.accept(Command::DrainAgent {
        agent,
        deadline_ms: None,
        grace_ms: None,
        mark_gone: false,
    });
    for place in [2, 4, 5] {
        assert_eq!(log.task_state(&tasks[place]), TaskState::Killing);
        log.report(agent, &tasks[place], TaskState::Killed);
    }
    assert_eq!(log.state.agent(agent).unwrap().used.cpus, MilliCpus(0));
}

#[test]
fn one_on_deck_keeps_its_promise_where_the_rest_of_the_line_is_dropped() {
    let mut line = Line::new();
    let other = line.log.framework("other", "*");
    demand(&mut line.log, other, 1);
    let applied = line.end(1);
    assert!(launched(&applied).is_empty(), "its agent has it");
    let states = [TaskState::Finished, TaskState::Staging, TaskState::Dropped];
    assert_eq!(line.states(), states);
    assert_eq!(reason_of(&line.log, &line.tasks[3]), "place-wanted");
    assert_eq!(line.used(), MilliCpus(1_000));
    line.end(2);
    assert_eq!(line.used(), MilliCpus(0), "others get it");
}

#[test]
fn ends_may_come_in_any_order() {
    let mut line = Line::new();
    line.end(2);
    assert_eq!(line.used(), MilliCpus(1_000));
    assert_eq!(line.on_deck(), Vec::<&TaskId>::new());
    let applied = line.end(1);
    assert_eq!(launched(&applied), [&line.tasks[3]]);
    line.end(3);
    assert_eq!(line.states(), [TaskState::Finished; 3]);
    assert_eq!(line.used(), MilliCpus(0));
}

#[test]
fn one_on_deck_that_is_killed_is_ended_by_its_agent() {
    let mut line = Line::new();
    let kill = Kill {
        task: line.tasks[2].clone(),
        grace_ms: Some(7),
    };
    let applied = line.log.apply(Command::KillTask(kill));
    let [AgentEffect::Kill { task, grace_ms: 7 }] = on_agents(&applied)[..] else {
        panic!("{applied:?}");
    };
    assert_eq!(*task, line.tasks[2]);
    assert_eq!(line.states()[1], TaskState::Killing);
    // It may have begun before it heard that.
    line.end(1);
    assert_eq!(line.used(), MilliCpus(1_000));
    assert_eq!(
        line.on_deck(),
        Vec::<&TaskId>::new(),
        "its end was asked for"
    );
    let third = line.tasks[2].clone();
    line.log.report(line.agent, &third, TaskState::Killed);
    assert_eq!(line.states()[1..], [TaskState::Killed, TaskState::Staging]);
    let fourth = line.log.state.task(&line.tasks[3]).unwrap();
    assert!(fourth.has_place());
}

#[test]
fn one_that_is_killed_on_deck_leaves_its_line() {
    let mut line = Line::new();
    let third = line.tasks[2].clone();
    line.log.apply(Command::KillTask(Kill {
        task: third.clone(),
        grace_ms: None,
    }));
    line.log.report(line.agent, &third, TaskState::Killed);
    assert_eq!(line.on_deck(), Vec::<&TaskId>::new());
    let applied = line.end(1);
    assert_eq!(launched(&applied), [&line.tasks[3]], "it has moved up");
}

#[test]
fn a_drain_waits_for_one_on_deck() {
    let mut line = Line::new();
    let agent = line.agent;
    line.log.accept(Command::DrainAgent {
        agent,
        deadline_ms: None,
        grace_ms: None,
        mark_gone: true,
    });
    let states = [TaskState::Killing, TaskState::Killing, TaskState::Dropped];
    assert_eq!(line.states(), states);
    for place in [1, 2] {
        assert!(line.log.state.agent(agent).is_some(), "before {place}");
        let task = line.tasks[place].clone();
        line.log.report(agent, &task, TaskState::Killed);
    }
    assert!(line.log.state.agent(agent).is_none(), "it is gone");
}

#[test]
fn an_agent_that_comes_back_tells_what_became_of_one_on_deck() {
    let mut line = Line::new();
    let [_, second, third, _] = line.tasks.clone();
    // It began and ended while nobody heard.
    line.come_back(vec![
        report(&third, TaskState::Running),
        report(&second, TaskState::Finished),
    ]);
    let states = [TaskState::Finished, TaskState::Running, TaskState::Dropped];
    assert_eq!(line.states(), states);
    assert_eq!(line.used(), MilliCpus(1_000));
    // It has not heard of it.
    let mut line = Line::new();
    let [_, second, third, _] = line.tasks.clone();
    let applied = line.come_back(vec![report(&second, TaskState::Running)]);
    let told = afters(&on_agents(&applied));
    assert!(told.is_empty(), "it was seen unreachable: {told:?}");
    assert_eq!(reason_of(&line.log, &third), "agent-forgot");
}

#[test]
fn one_on_deck_of_an_agent_that_is_gone_is_gone() {
    let mut line = Line::new();
    let agent = line.agent;
    line.log.accept(Command::MarkAgentGone { agent });
    let states = [TaskState::Gone, TaskState::Gone, TaskState::Dropped];
    assert_eq!(line.states(), states);
    let record = line.log.state.framework(line.framework).unwrap();
    assert!(record.tasks.is_empty());
}

#[test]
fn what_is_given_back_only_after_an_end_is_waited_for() {
    let command = |container| {
        let command = CommandWorkload {
            container,
            ..CommandWorkload::new(vec!["true".into()])
        };
        Arc::new(TaskSpec::new(Workload::Command(command)))
    };
    let disk = Resources {
        disk: Bytes::gib(1),
        ..amounts(1, 1)
    };
    let container = command(Some(Box::default()));
    let cases = [
        (amounts(1, 1), command(None), 2),
        (amounts(1, 1), container, 1),
        (disk, command(None), 1),
    ];
    for (resources, spec, told) in cases {
        let mut log = Log::new();
        let mut info = machine(1, 8);
        info.resources.disk = Bytes::gib(8);
        let registered = log.accept(register(1, None, info, Vec::new()));
        let Accepted::Agent { agent } = registered else {
            panic!("{registered:?}");
        };
        let framework = log.framework("batch", "*");
        let first = log.launch_with(framework, agent, "first", resources);
        for name in ["second", "third"] {
            line_up_with(&mut log, agent, name, &first, &spec);
        }
        let applied = log.report(agent, &first, TaskState::Finished);
        assert_eq!(launched(&applied).len(), told, "{spec:?}");
    }
}

/// Two roles, of which `prod` is owed so many cpus, and `dev` gives them.
fn dev_and_prod(log: &mut Log, owed: u64) -> [FrameworkId; 2] {
    let frameworks = ["dev", "prod"].map(|role| log.framework(role, role));
    for (role, cpus, preemptible) in [("dev", 0, Some(true)), ("prod", owed, None)] {
        log.accept(Command::SetRole {
            role: role.parse().unwrap(),
            settings: RoleSettings {
                guarantee: request(cpus, 0),
                preemptible,
                ..RoleSettings::default()
            },
            force: true,
        });
    }
    frameworks
}

/// `prod` takes a place of one cpu from these.
fn take_from(log: &mut Log, agent: AgentId, victims: Vec<TaskId>) -> Applied {
    let role: Role = "prod".parse().unwrap();
    log.apply(Command::Preempt(Preemption {
        role: role.clone(),
        guaranteed: role,
        gang: None,
        places: vec![Place {
            agent,
            request: request(1, 1),
            parts: Vec::new(),
            victims,
        }],
    }))
}

/// How many milliseconds from now on the only claim on an agent is kept.
fn claimed_for(log: &Log, agent: AgentId) -> u64 {
    let [claim] = &log.state.agent(agent).unwrap().claims[..] else {
        panic!("one claim is wanted");
    };
    claim.until.millis_since(log.state.now)
}

#[test]
fn who_is_taken_a_place_from_hands_it_to_nobody_on_deck() {
    let mut log = Log::new();
    let agent = log.agent(1, 8);
    let [dev, prod] = dev_and_prod(&mut log, 1);
    let first = log.launch_with(dev, agent, "first", amounts(1, 1));
    let second = line_up(&mut log, agent, "second", &first);
    let patient = TaskSpec {
        kill_grace_ms: 60_000,
        ..(*spec()).clone()
    };
    let third = line_up_with(&mut log, agent, "third", &first, &Arc::new(patient));
    log.report(agent, &first, TaskState::Finished);
    demand(&mut log, prod, 1);
    let left = |log: &Log| log.state.preemptions_left(log.state.now);
    let before = left(&log);
    take_from(&mut log, agent, vec![second.clone()])
        .outcome
        .unwrap();
    assert_eq!(left(&log), before - 2, "the one on deck counts, too");
    let claimed = claimed_for(&log, agent);
    assert!(claimed > 60_000, "{claimed}: it may have begun");
    for task in [&third, &second] {
        assert_eq!(log.task_state(task), TaskState::Killing);
        log.report(agent, task, TaskState::Killed);
        assert_eq!(reason_of(&log, task), "preempted");
    }
    assert_eq!(log.state.agent(agent).unwrap().used.cpus, MilliCpus(0));
}

#[test]
fn a_place_that_goes_to_one_on_deck_does_not_come_free() {
    let mut log = Log::new();
    let agent = log.agent(1, 8);
    let [dev, prod] = dev_and_prod(&mut log, 1);
    let first = log.launch_with(dev, agent, "first", amounts(1, 1));
    let [second, third] = ["second", "third"].map(|name| line_up(&mut log, agent, name, &first));
    log.report(agent, &first, TaskState::Finished);
    demand(&mut log, prod, 1);
    let kill = |log: &mut Log, task: &TaskId| {
        log.accept(Command::KillTask(Kill {
            task: task.clone(),
            grace_ms: None,
        }));
    };
    kill(&mut log, &second);
    let free = |log: &Log| {
        let record = log.state.agent(agent).unwrap();
        log.state.coming_free(record).cpus
    };
    assert_eq!(free(&log), MilliCpus(0), "the third gets it");
    let refusal = refused(take_from(&mut log, agent, Vec::new()).outcome);
    assert!(refusal.contains("not free enough cpus"), "{refusal}");
    kill(&mut log, &third);
    assert_eq!(free(&log), MilliCpus(1_000));
    take_from(&mut log, agent, Vec::new()).outcome.unwrap();
}

#[test]
fn a_place_that_is_handed_on_uses_up_no_claim() {
    let mut log = Log::new();
    let agent = log.agent(2, 8);
    let [dev, prod] = dev_and_prod(&mut log, 2);
    let first = log.launch_with(prod, agent, "first", amounts(1, 1));
    let victim = log.launch_with(dev, agent, "victim", amounts(1, 1));
    line_up(&mut log, agent, "second", &first);
    demand(&mut log, prod, 1);
    take_from(&mut log, agent, vec![victim.clone()])
        .outcome
        .unwrap();
    let applied = log.report(agent, &first, TaskState::Finished);
    assert_eq!(launched(&applied).len(), 1, "the second");
    assert!(claimed_for(&log, agent) > 0);
    log.report(agent, &victim, TaskState::Killed);
    log.launch_with(prod, agent, "third", amounts(1, 1));
    assert_eq!(log.state.claims().count(), 0, "it was for this one");
}
