//! The pure core against scripts and against random histories.

use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_pressure::Launches;
use tepui_types::task::{CommandWorkload, TaskSpec, TaskUsage, WasmWorkload};
use tepui_types::{FrameworkId, OperationId, Resources, Role, TaskName, Workload};

use super::tasks::MAX_PLACEMENTS;
use super::*;

mod artifacts;
mod checks;
mod containers;
mod forgotten;
mod histories;
mod lines;
mod native;
mod stops;
mod unfit;

fn layout() -> Layout {
    Layout::new("/agent".into()).with_cgroup(Some("tepui/a".into()))
}

fn launch(name: &str, workload: Workload) -> TaskLaunch {
    let spec = TaskSpec {
        kill_grace_ms: 1,
        ..TaskSpec::new(workload)
    };
    TaskLaunch {
        operation: OperationId {
            index: 1,
            ordinal: 0,
        },
        task: TaskId {
            framework: FrameworkId(1),
            name: TaskName::new(name).unwrap(),
            attempt: 0,
        },
        framework_name: "batch".into(),
        role: Role::default(),
        spec: Arc::new(spec),
        resources: Resources::default(),
        revocable: Resources::default(),
        volumes: Vec::new(),
        array_index: None,
        after: None,
    }
}

fn native(name: &str) -> TaskLaunch {
    let argv = vec!["true".into()];
    launch(name, Workload::Command(CommandWorkload::new(argv)))
}

fn wasm(name: &str) -> TaskLaunch {
    let artifact = Digest::of(b"program");
    launch(name, Workload::Wasm(WasmWorkload::new(artifact)))
}

fn id(name: &str) -> TaskId {
    native(name).task
}

fn identity() -> ProcessIdentity {
    ProcessIdentity {
        boot_id: "boot".into(),
        pid: 7,
        start_time: 9,
    }
}

fn update(name: &str, state: TaskState) -> TaskUpdate {
    TaskUpdate {
        task: id(name),
        state,
        reason: None,
        exit_code: None,
        usage: None,
        members: Vec::new(),
    }
}

/// An agent, its journal, and the actions that came out last.
#[derive(Clone)]
struct Bench {
    agent: Agent,
    journal: Vec<Record>,
    out: Vec<Action>,
}

impl Bench {
    fn new() -> Self {
        let agent = Agent::new(layout());
        let journal = agent.records("boot");
        Self {
            agent,
            journal,
            out: Vec::new(),
        }
    }

    /// Calls a handler and takes the actions that are not records.
    fn on(&mut self, call: impl FnOnce(&mut Agent, &mut Vec<Action>)) -> Vec<Action> {
        call(&mut self.agent, &mut self.out);
        let mut rest = Vec::new();
        for action in self.out.drain(..) {
            match action {
                Action::Record(record) => self.journal.push(record),
                action => rest.push(action),
            }
        }
        self.agent.assert_consistent();
        rest
    }

    fn launch(&mut self, launch: TaskLaunch) -> Vec<Action> {
        let effects = vec![AgentEffect::Launch(Box::new(launch))];
        self.on(|agent, out| agent.on_effects(out, 1, effects).unwrap())
    }

    fn kill(&mut self, name: &str) -> Vec<Action> {
        let effects = vec![AgentEffect::Kill {
            task: id(name),
            grace_ms: 5,
        }];
        self.on(|agent, out| agent.on_effects(out, 1, effects).unwrap())
    }

    fn attach(&mut self, executor: u64, updates: Vec<TaskUpdate>) -> Vec<Action> {
        self.on(|agent, out| agent.on_attached(out, ExecutorId(executor), identity(), updates))
    }

    fn update(&mut self, executor: u64, name: &str, state: TaskState) -> Vec<Action> {
        let updates = vec![update(name, state)];
        self.on(|agent, out| agent.on_updates(out, ExecutorId(executor), updates))
    }

    fn lost(&mut self, executor: u64, exits: Vec<TaskUpdate>, left: bool) -> Vec<Action> {
        let death = Death {
            exits,
            left,
            last_words: "out of luck".into(),
            used: Default::default(),
        };
        self.on(|agent, out| agent.on_executor_lost(out, ExecutorId(executor), death))
    }

    fn unwell(&mut self, name: &str) -> Vec<Action> {
        let why = Reason::new(reason::HEALTH_CHECK_FAILED, "its probe exited with 4");
        self.on(|agent, out| agent.on_unwell(out, id(name), why))
    }

    fn recorded(&mut self, name: &str, state: TaskState) -> Vec<Action> {
        self.on(|agent, out| agent.on_recorded(out, vec![(id(name), state)]))
    }

    fn fetched(&mut self) -> Vec<Action> {
        self.on(|agent, out| agent.on_fetched(out, Digest::of(b"program"), Ok(())))
    }

    fn restart(&mut self) -> Vec<Action> {
        self.agent = Agent::restore(layout(), self.journal.clone()).0;
        self.journal = self.agent.records("boot");
        self.on(|agent, out| agent.on_restart(out))
    }

    fn take_statuses(&mut self) -> Vec<StatusReport> {
        let mut reports = self.agent.take_statuses(Urgency::End, 100);
        reports.extend(self.agent.take_statuses(Urgency::Progress, 100));
        reports
    }

    fn statuses(&mut self) -> Vec<(String, TaskState)> {
        let reports = self.take_statuses();
        reports
            .into_iter()
            .map(|r| (r.task.name.to_string(), r.state))
            .collect()
    }
}

impl Agent {
    /// What holds after every event.
    fn assert_consistent(&self) {
        let mut living = 0;
        for (id, task) in self.tasks.iter() {
            living += usize::from(!matches!(task.stage, Stage::Ended(_)));
            assert_eq!(
                task.launch.is_some(),
                !matches!(task.stage, Stage::Ended(_)),
                "{id}"
            );
            let before = self.tasks.waits_for(id);
            assert_eq!(before.is_some(), task.stage == Stage::InLine, "{id}");
            let is_living = |before| self.tasks.life(before) == Life::Living;
            assert!(before.is_none_or(is_living), "{id} waits for {before:?}");
            if let Stage::Placed(executor) | Stage::Handed { executor, .. } = task.stage {
                let known = self
                    .executors
                    .get(executor)
                    .unwrap_or_else(|| panic!("{id}: gone"));
                assert!(known.living.contains(id), "{id} is not on {executor}");
            }
        }
        assert_eq!(living, self.tasks.living());
        self.assert_waiting();
        for (id, executor) in self.executors.iter() {
            for task in &executor.living {
                let stage = self.tasks.get(task).map(|task| task.stage);
                let is_here = matches!(
                    stage,
                    Some(Stage::Placed(there) | Stage::Handed { executor: there, .. }) if there == id
                );
                assert!(is_here, "{task} is {stage:?}, not on {id}");
            }
        }
    }
}

fn is_launch_of(action: &Action, name: &str) -> bool {
    matches!(action, Action::Send(_, ToExecutor::Launch(launch)) if launch.launch.task == id(name))
}

#[test]
fn native_task_goes_from_launch_to_forgotten() {
    let mut bench = Bench::new();
    let kind = ExecutorKind::Native(TrustDomain::of(&native("a")));
    assert_eq!(
        bench.launch(native("a")),
        [Action::Start(ExecutorId(0), kind)]
    );
    assert!(
        matches!(bench.journal[3], Record::Launched(_)),
        "recorded before it is started"
    );
    let out = bench.attach(0, vec![]);
    assert!(is_launch_of(&out[0], "a"), "{out:?}");
    bench.update(0, "a", TaskState::Running);
    assert_eq!(bench.statuses(), [("a".into(), TaskState::Running)]);
    let out = bench.update(0, "a", TaskState::Finished);
    assert_eq!(out, [Action::Ended(id("a"), TaskState::Finished)]);
    assert_eq!(bench.statuses(), [("a".into(), TaskState::Finished)]);
    assert!(
        bench.recorded("a", TaskState::Running).is_empty(),
        "an older state"
    );
    let executor = ExecutorId(0);
    assert_eq!(
        bench.recorded("a", TaskState::Finished),
        [Action::Send(executor, ToExecutor::Forget(id("a")))]
    );
    assert!(bench.agent.hello_tasks().is_empty());
    assert_eq!(bench.lost(0, vec![], true), [Action::Clear(executor)]);
    assert!(
        bench.launch(native("a")).is_empty(),
        "an ended task never runs again"
    );
}

#[test]
fn wasm_tasks_of_a_domain_share_a_process_and_a_fetch() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.launch(wasm("a")),
        [Action::Fetch(Digest::of(b"program"))]
    );
    assert!(bench.launch(wasm("b")).is_empty(), "one fetch serves both");
    let starting = TaskState::Starting;
    assert_eq!(
        bench.statuses(),
        [("a".into(), starting), ("b".into(), starting)]
    );
    let out = bench.fetched();
    assert_eq!(out.len(), 1, "{out:?}");
    let out = bench.attach(0, vec![]);
    assert!(
        is_launch_of(&out[0], "a") && is_launch_of(&out[1], "b"),
        "{out:?}"
    );
    let out = bench.launch(wasm("c"));
    assert!(is_launch_of(&out[0], "c"), "no fetch and no start: {out:?}");
}

#[test]
fn processes_are_sharded() {
    let mut bench = Bench::new();
    bench.launch(wasm("first"));
    bench.fetched();
    for number in 1..=executors::MAX_TASKS {
        bench.launch(wasm(&format!("t{number}")));
    }
    assert_eq!(bench.agent.executor_count(), 2);
}

#[test]
fn kill_before_the_executor_has_it_ends_it() {
    let mut bench = Bench::new();
    bench.launch(wasm("a"));
    assert_eq!(bench.kill("a"), [Action::Ended(id("a"), TaskState::Killed)]);
    assert!(bench.fetched().is_empty(), "nothing waits any more");
    bench.launch(native("b"));
    assert_eq!(bench.kill("b"), [Action::Ended(id("b"), TaskState::Killed)]);
    let out = bench.attach(0, vec![]);
    assert_eq!(out, [Action::Send(ExecutorId(0), ToExecutor::Retire)]);
    assert!(bench.kill("stranger").is_empty());
}

#[test]
fn kill_while_the_executor_is_away_is_said_when_it_is_back() {
    let mut bench = Bench::new();
    bench.launch(native("a"));
    bench.attach(0, vec![]);
    bench.on(|agent, _| agent.on_detached(ExecutorId(0)));
    assert!(bench.kill("a").is_empty());
    let out = bench.attach(0, vec![update("a", TaskState::Running)]);
    let kill = ToExecutor::Kill {
        task: id("a"),
        grace_ms: 5,
    };
    assert_eq!(out, [Action::Send(ExecutorId(0), kill)]);
}

#[test]
fn exit_records_of_a_dead_executor_are_the_truth() {
    let mut bench = Bench::new();
    for name in ["a", "b"] {
        bench.launch(wasm(name));
    }
    bench.fetched();
    bench.attach(0, vec![]);
    bench.update(0, "a", TaskState::Running);
    bench.statuses();
    let out = bench.lost(0, vec![update("a", TaskState::Finished)], false);
    assert!(out.contains(&Action::Clear(ExecutorId(0))), "{out:?}");
    assert_eq!(
        bench.statuses(),
        [
            ("a".into(), TaskState::Finished),
            ("b".into(), TaskState::Failed)
        ]
    );
    let reports = bench.agent.hello_tasks();
    let why = reports[1].reason.as_ref().unwrap();
    assert_eq!(why.code, reason::EXECUTOR_TERMINATED);
    assert!(why.message.contains("out of luck"), "{why}");
}

#[test]
fn what_was_ended_with_its_agent_has_not_failed() {
    let mut bench = Bench::new();
    bench.launch(native("a"));
    bench.attach(0, vec![]);
    bench.update(0, "a", TaskState::Running);
    bench.restart();
    bench.agent.on_stopped();
    bench.lost(0, vec![], false);
    let why = |bench: &Bench, at: usize| bench.agent.hello_tasks()[at].reason.clone().unwrap();
    assert_eq!(bench.agent.hello_tasks()[0].state, TaskState::Killed);
    assert_eq!(why(&bench, 0).code, reason::KILL_REQUESTED);
    // What runs from now on was not.
    bench.launch(native("b"));
    bench.attach(1, vec![]);
    bench.update(1, "b", TaskState::Running);
    bench.lost(1, vec![], false);
    assert_eq!(why(&bench, 1).code, reason::EXECUTOR_TERMINATED);
}

#[test]
fn launch_to_an_executor_that_had_left_goes_to_a_new_one() {
    let mut bench = Bench::new();
    bench.launch(wasm("a"));
    bench.fetched();
    bench.attach(0, vec![]);
    let out = bench.lost(0, vec![], true);
    assert!(matches!(out[1], Action::Start(ExecutorId(1), _)), "{out:?}");
    assert!(is_launch_of(&bench.attach(1, vec![])[0], "a"));
    bench.update(1, "a", TaskState::Running);
    bench.lost(1, vec![], true);
    assert_eq!(
        bench.statuses().last().unwrap().1,
        TaskState::Failed,
        "it may have run"
    );
}

#[test]
fn executor_that_dies_at_each_start_is_given_up() {
    let mut bench = Bench::new();
    bench.launch(native("a"));
    for executor in 0..u64::from(MAX_PLACEMENTS) {
        bench.lost(executor, vec![], false);
    }
    let report = &bench.agent.hello_tasks()[0];
    assert_eq!(report.state, TaskState::Dropped, "it may run elsewhere");
    assert_eq!(
        report.reason.as_ref().unwrap().code,
        reason::EXECUTOR_FAILED
    );
    assert_eq!(bench.agent.executor_count(), 0);
}

#[test]
fn a_full_agent_refuses_what_is_new_and_goes_on_with_what_it_has() {
    let mut bench = Bench::new();
    bench.launch(native("held"));
    bench.on(|agent, _| agent.on_room(false));
    let journal = bench.journal.len();
    assert_eq!(bench.launch(native("new")), []);
    assert_eq!(bench.journal.len(), journal, "nothing of it is recorded");
    assert_eq!(bench.statuses(), [("new".to_owned(), TaskState::Dropped)]);
    // A launch that the log still owed when it was refused does not run once there is room.
    bench.on(|agent, _| agent.on_room(true));
    assert_eq!(bench.launch(native("new")), []);
    bench.recorded("new", TaskState::Dropped);
    assert_eq!(bench.launch(native("new")), []);
    assert!(!bench.launch(native("later")).is_empty());
    bench.attach(0, vec![update("held", TaskState::Running)]);
    bench.on(|agent, _| agent.on_room(false));
    bench.update(0, "held", TaskState::Finished);
    let statuses = bench.statuses();
    let held = ("held".to_owned(), TaskState::Finished);
    assert!(statuses.contains(&held), "{statuses:?}");
}

#[test]
fn an_agent_that_lends_nothing_more_refuses_what_would_run_on_it() {
    let mut bench = Bench::new();
    let mut cheap = native("cheap");
    cheap.revocable.cpus = tepui_types::MilliCpus(100);
    bench.on(|agent, _| agent.on_may_launch(Launches::FirmOnly));
    assert_eq!(bench.launch(cheap), []);
    let told = &bench.take_statuses()[0];
    let code = told.reason.as_ref().map(|why| why.code.as_str());
    assert_eq!(code, Some(reason::UNDER_PRESSURE));
    assert!(!bench.launch(native("firm")).is_empty());
    bench.on(|agent, _| agent.on_may_launch(Launches::Nothing));
    assert_eq!(bench.launch(native("firm-too")), []);
    bench.on(|agent, _| agent.on_may_launch(Launches::All));
    assert!(!bench.launch(native("later")).is_empty());
}

#[test]
fn what_may_be_taken_back_is_held_and_given_back_and_what_is_firm_is_not() {
    let mut bench = Bench::new();
    let mut cheap = native("cheap");
    cheap.resources.cpus = tepui_types::MilliCpus(1_000);
    cheap.revocable.cpus = tepui_types::MilliCpus(400);
    bench.launch(cheap);
    bench.launch(native("firm"));
    bench.attach(0, vec![]);
    bench.attach(1, vec![]);
    let throttle = |most: Option<u64>| {
        let (task, most) = (id("cheap"), most.map(tepui_types::MilliCpus));
        Action::Send(ExecutorId(0), ToExecutor::Throttle { task, most })
    };
    assert_eq!(
        bench.on(|agent, out| agent.on_share(out, 25)),
        [throttle(Some(700))]
    );
    assert_eq!(bench.on(|agent, out| agent.on_share(out, 25)), []);
    // One that was away may have missed it.
    let told = bench.attach(0, vec![update("cheap", TaskState::Running)]);
    assert_eq!(told, [throttle(Some(700))]);
    assert_eq!(
        bench.on(|agent, out| agent.on_share(out, 100)),
        [throttle(None)]
    );
    bench.restart();
    let told = bench.attach(0, vec![update("cheap", TaskState::Running)]);
    assert_eq!(told, [throttle(None)]);
}

#[test]
fn older_terms_are_refused() {
    let mut bench = Bench::new();
    bench.on(|agent, out| agent.on_registered(out, 7).unwrap());
    bench.restart();
    let effects = vec![AgentEffect::Launch(Box::new(native("a")))];
    let refused = bench.agent.on_effects(&mut Vec::new(), 6, effects.clone());
    assert_eq!(
        refused,
        Err(StaleTerm {
            found: 6,
            newest: 7
        })
    );
    assert!(bench.agent.on_registered(&mut Vec::new(), 6).is_err());
    assert_eq!(bench.agent.living_tasks(), 0);
}

#[test]
fn restart_finds_executors_and_hands_over_what_was_not() {
    let mut bench = Bench::new();
    bench.launch(native("handed"));
    bench.attach(0, vec![]);
    bench.launch(native("started"));
    bench.launch(wasm("fetching"));
    let out = bench.restart();
    let kind = ExecutorKind::Native(TrustDomain::of(&native("a")));
    let find = |number| Action::Find(ExecutorId(number));
    assert!(out.contains(&find(0)) && out.contains(&find(1)), "{out:?}");
    assert!(
        out.contains(&Action::Start(ExecutorId(2), kind.clone())),
        "what may not have been started is started anew: {out:?}"
    );
    assert!(
        out.contains(&Action::Fetch(Digest::of(b"program"))),
        "{out:?}"
    );
    assert_eq!(out.len(), 4, "{out:?}");
    let out = bench.attach(0, vec![]);
    assert!(
        is_launch_of(&out[0], "handed"),
        "it may have been lost on the way: {out:?}"
    );
    assert_eq!(
        bench.attach(1, vec![]),
        [Action::Send(ExecutorId(1), ToExecutor::Retire)],
        "it is of an earlier agent, and has no task"
    );
    assert!(is_launch_of(&bench.attach(2, vec![])[0], "started"));
    bench.restart();
    let out = bench.attach(0, vec![update("handed", TaskState::Running)]);
    assert!(out.is_empty(), "the executor has it: {out:?}");
    bench.restart();
    let out = bench.lost(2, vec![], false);
    assert!(
        out.contains(&Action::Ended(id("started"), TaskState::Failed)),
        "{out:?}"
    );
}

#[test]
fn ends_that_the_log_may_not_have_survive_a_restart() {
    let mut bench = Bench::new();
    bench.launch(native("a"));
    bench.attach(0, vec![]);
    bench.update(0, "a", TaskState::Failed);
    bench.restart();
    assert_eq!(bench.statuses(), [("a".into(), TaskState::Failed)]);
    bench.attach(0, vec![update("a", TaskState::Failed)]);
    let out = bench.recorded("a", TaskState::Failed);
    assert_eq!(
        out[0],
        Action::Send(ExecutorId(0), ToExecutor::Forget(id("a")))
    );
    bench.restart();
    assert!(bench.agent.hello_tasks().is_empty());
    assert_eq!(bench.agent.life(&id("a")), Life::Ended);
    assert!(bench.launch(native("a")).is_empty());
}

#[test]
fn reboot_ends_what_left_no_record() {
    let mut bench = Bench::new();
    for name in ["a", "b"] {
        bench.launch(native(name));
    }
    bench.attach(0, vec![]);
    bench.attach(1, vec![]);
    let (agent, boot) = Agent::restore(layout(), bench.journal.clone());
    assert_eq!(boot.as_deref(), Some("boot"));
    bench.agent = agent;
    let exits = vec![(ExecutorId(0), vec![update("a", TaskState::Finished)])];
    bench.on(|agent, out| agent.on_reboot(out, exits));
    let states: Vec<_> = bench
        .agent
        .hello_tasks()
        .iter()
        .map(|report| report.state)
        .collect();
    assert_eq!(states, [TaskState::Finished, TaskState::Gone]);
    assert_eq!(bench.agent.executor_count(), 0);
}

#[test]
fn strangers_on_an_executor_are_ended_and_forgotten() {
    let mut bench = Bench::new();
    bench.launch(wasm("a"));
    bench.fetched();
    let out = bench.attach(
        0,
        vec![
            update("old", TaskState::Finished),
            update("lost", TaskState::Running),
        ],
    );
    assert_eq!(
        out[0],
        Action::Send(ExecutorId(0), ToExecutor::Forget(id("old")))
    );
    let kill = ToExecutor::Kill {
        task: id("lost"),
        grace_ms: 0,
    };
    assert_eq!(out[1], Action::Send(ExecutorId(0), kill));
}
