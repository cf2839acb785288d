//! Executors that hang up again and again.

use super::*;

fn why() -> Reason {
    Reason::new(reason::EXECUTOR_UNFIT, "of another release")
}

impl Bench {
    fn unfit(&mut self, executor: u64, given_up: bool) -> Vec<Action> {
        self.on(|agent, out| agent.on_unfit(out, ExecutorId(executor), &why(), given_up))
    }

    fn detach(&mut self, executor: u64) {
        self.agent.on_detached(ExecutorId(executor));
    }

    fn status(&self, name: &str) -> (TaskState, Option<Reason>) {
        let report = self.agent.statuses.get(&id(name)).unwrap();
        (report.state, report.reason.clone())
    }
}

#[test]
fn a_task_says_why_it_waits_and_is_dropped_when_its_executor_was_asked_once_more() {
    let mut bench = Bench::new();
    bench.launch(native("a"));
    bench.attach(0, Vec::new());
    bench.detach(0);
    assert_eq!(bench.unfit(0, false), []);
    assert_eq!(bench.status("a"), (TaskState::Starting, Some(why())));
    bench.attach(0, Vec::new());
    bench.detach(0);
    // It was sent: it may run by now.
    assert_eq!(bench.unfit(0, true), []);
    assert_eq!(bench.status("a").0, TaskState::Starting);
    let actions = bench.attach(0, Vec::new());
    let ended = Action::Ended(id("a"), TaskState::Dropped);
    assert!(actions.contains(&ended), "{actions:?}");
    assert!(actions.contains(&Action::End(ExecutorId(0))), "{actions:?}");
    let is_launch = |action: &Action| matches!(action, Action::Send(_, ToExecutor::Launch(_)));
    assert!(!actions.iter().any(is_launch), "{actions:?}");
    assert_eq!(bench.status("a"), (TaskState::Dropped, Some(why())));
    assert_eq!(
        bench.lost(0, Vec::new(), false),
        [Action::Clear(ExecutorId(0))]
    );
    assert_eq!(bench.status("a").0, TaskState::Dropped);
}

#[test]
fn a_task_that_was_never_sent_is_dropped_at_once() {
    let mut bench = Bench::new();
    bench.launch(native("a"));
    bench.unfit(0, false);
    assert_eq!(bench.status("a"), (TaskState::Starting, Some(why())));
    let actions = bench.unfit(0, true);
    let ended = Action::Ended(id("a"), TaskState::Dropped);
    assert_eq!(actions, [Action::End(ExecutorId(0)), ended]);
}

#[test]
fn what_runs_in_an_executor_that_is_given_up_goes_on() {
    let mut bench = Bench::new();
    bench.launch(native("a"));
    bench.attach(0, Vec::new());
    bench.detach(0);
    bench.unfit(0, true);
    // It has begun meanwhile.
    let actions = bench.attach(0, vec![update("a", TaskState::Running)]);
    assert!(
        !actions.contains(&Action::End(ExecutorId(0))),
        "{actions:?}"
    );
    assert_eq!(bench.status("a"), (TaskState::Running, None));
    bench.detach(0);
    bench.unfit(0, true);
    assert_eq!(bench.status("a"), (TaskState::Running, None));
    // It understands the agent again, and nobody else would end it.
    bench.attach(0, vec![update("a", TaskState::Running)]);
    let actions = bench.update(0, "a", TaskState::Finished);
    assert!(actions.contains(&Action::End(ExecutorId(0))), "{actions:?}");
    assert_eq!(bench.unfit(0, true), [Action::End(ExecutorId(0))]);
}

#[test]
fn a_task_that_is_killed_meanwhile_is_killed() {
    let mut bench = Bench::new();
    bench.launch(native("a"));
    bench.attach(0, Vec::new());
    bench.kill("a");
    bench.detach(0);
    bench.unfit(0, true);
    let actions = bench.attach(0, Vec::new());
    let ended = Action::Ended(id("a"), TaskState::Killed);
    assert!(actions.contains(&ended), "{actions:?}");
}

#[test]
fn an_executor_that_is_given_up_gets_no_new_task() {
    let mut bench = Bench::new();
    bench.launch(native("a"));
    bench.attach(0, Vec::new());
    bench.update(0, "a", TaskState::Running);
    bench.update(0, "a", TaskState::Finished);
    bench.unfit(0, true);
    let actions = bench.launch(native("b"));
    assert!(
        matches!(actions[..], [Action::Start(ExecutorId(1), _)]),
        "{actions:?}"
    );
}
