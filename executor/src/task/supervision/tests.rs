//! Tasks in simulated time: the rules by example, and whatever may happen.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const GRACE: Duration = Duration::from_millis(100);

/// A task in simulated time, and what was done in it.
struct World {
    supervision: Supervision,
    now: Instant,
    running: BTreeSet<usize>,
    log: Vec<String>,
    /// Those that cannot be started.
    refused: BTreeSet<usize>,
    /// Those whose start takes a while.
    slow: BTreeSet<usize>,
    /// Those that are being started.
    starting: BTreeSet<usize>,
}

fn member(name: &str, part: Part, restart: Option<Restart>) -> Member {
    Member {
        name: name.to_owned(),
        part,
        restart,
    }
}

fn restart(after: RestartAfter, most: Option<u32>) -> Option<Restart> {
    Some(Restart {
        after,
        most,
        backoff_ms: 1_000,
        max_backoff_ms: 4_000,
    })
}

/// Main, a sidecar, two that prepare, another sidecar, a peer.
fn pod() -> Vec<Member> {
    vec![
        member("main", Part::Main, None),
        member("log", Part::Sidecar, restart(RestartAfter::Any, None)),
        member("fill", Part::Init, None),
        member("check", Part::Init, None),
        member("proxy", Part::Sidecar, restart(RestartAfter::Any, None)),
        member("other", Part::Peer, None),
    ]
}

impl World {
    fn new(members: Vec<Member>) -> Self {
        let mut world = Self {
            supervision: Supervision::new(members, GRACE),
            now: Instant::now(),
            running: BTreeSet::new(),
            log: Vec::new(),
            refused: BTreeSet::new(),
            slow: BTreeSet::new(),
            starting: BTreeSet::new(),
        };
        world.act();
        world
    }

    fn act(&mut self) {
        while let Some(action) = self.supervision.next(self.now) {
            let (word, number) = match action {
                Action::Start(number) => ("start", number),
                Action::Stop(number) => ("stop", number),
                Action::Force(number) => ("force", number),
            };
            let name = self.supervision.name(number).to_owned();
            self.log.push(format!("{word} {name}"));
            match action {
                Action::Start(_) if self.slow.contains(&number) => {
                    assert!(self.starting.insert(number), "{name} is being started");
                    self.supervision.on_starting(number);
                }
                Action::Stop(_) if self.starting.remove(&number) => {
                    let reason = Reason::new("executor-failed", "the command did not run");
                    self.supervision.on_refused(number, reason, self.now);
                }
                Action::Start(_) if self.refused.contains(&number) => {
                    let reason = Reason::new("command-failed", "`x` was not found");
                    self.supervision.on_refused(number, reason, self.now);
                }
                Action::Start(_) => {
                    assert!(self.running.insert(number), "{name} runs already");
                    self.supervision.on_started(number, self.now);
                }
                Action::Stop(_) | Action::Force(_) => {
                    assert!(self.running.contains(&number), "{name} does not run");
                }
            }
        }
    }

    /// One that was being started runs, or cannot.
    fn begin(&mut self, number: usize) {
        assert!(self.starting.remove(&number));
        if self.refused.contains(&number) {
            let reason = Reason::new("command-failed", "`x` was not found");
            self.supervision.on_refused(number, reason, self.now);
        } else {
            self.running.insert(number);
            self.supervision.on_started(number, self.now);
        }
        self.act();
    }

    fn number(&self, name: &str) -> usize {
        self.supervision.number_of(name).unwrap()
    }

    /// A member ends with that code; below 0, by a signal.
    fn exit(&mut self, name: &str, code: i32) {
        let number = self.number(name);
        assert!(self.running.remove(&number), "{name} does not run");
        self.supervision.on_ended(number, end(code), self.now);
        self.act();
    }

    /// Its first process ends, and what it left behind is not gone yet.
    fn begin_exit(&mut self, name: &str) {
        let number = self.number(name);
        self.supervision.on_exited(number);
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        self.act();
    }

    fn kill(&mut self, grace_ms: u64) {
        let grace = Duration::from_millis(grace_ms);
        self.supervision.kill("kill-requested", grace, self.now);
        self.act();
    }

    /// What was done since that was last asked.
    fn done(&mut self) -> String {
        std::mem::take(&mut self.log).join(", ")
    }

    #[track_caller]
    fn verdict(&self) -> (TaskState, String, Option<i32>) {
        let verdict = self.supervision.verdict().expect("it has ended");
        let message = verdict.reason.map(|reason| reason.message);
        (
            verdict.state,
            message.unwrap_or_default(),
            verdict.exit_code,
        )
    }

    fn state(&self, name: &str) -> (MemberState, u32) {
        let status = &self.supervision.statuses()[self.number(name)];
        (status.state, status.restarts)
    }
}

fn end(code: i32) -> End {
    let how = format!("the command exited with code {code}");
    End {
        reason: (code != 0).then(|| Reason::new("exit-code", how.clone())),
        how,
        exit_code: (code >= 0).then_some(code),
    }
}

fn alone(restart: Option<Restart>) -> World {
    World::new(vec![member("main", Part::Main, restart)])
}

#[test]
fn a_command_alone_is_its_task() {
    let mut world = alone(None);
    assert_eq!(world.done(), "start main");
    assert_eq!(world.supervision.deadline(world.now), None);
    world.exit("main", 0);
    assert_eq!(
        world.verdict(),
        (TaskState::Finished, String::new(), Some(0))
    );
    assert_eq!(world.supervision.statuses(), []);
    let mut world = alone(None);
    world.exit("main", 3);
    let why = "the command exited with code 3".to_owned();
    assert_eq!(world.verdict(), (TaskState::Failed, why, Some(3)));
    let mut world = alone(None);
    world.kill(50);
    world.pass(50);
    assert_eq!(world.done(), "start main, stop main, force main");
    world.exit("main", 0);
    let why = "its end was asked for; the command exited with code 0".to_owned();
    assert_eq!(world.verdict(), (TaskState::Killed, why, Some(0)));
}

#[test]
fn a_command_that_ended_by_itself_is_not_told_as_killed_while_its_rest_goes() {
    let mut world = alone(None);
    world.begin_exit("main");
    world.kill(50);
    world.exit("main", 0);
    assert_eq!(
        world.verdict(),
        (TaskState::Finished, String::new(), Some(0))
    );
    let mut world = alone(restart(RestartAfter::Any, Some(0)));
    world.begin_exit("main");
    world.kill(50);
    world.exit("main", 3);
    let why = "the command exited with code 3".to_owned();
    assert_eq!(world.verdict(), (TaskState::Failed, why, Some(3)));
    // It would have come back: that it does not is the kill's doing.
    let mut world = alone(restart(RestartAfter::Any, None));
    world.begin_exit("main");
    world.kill(50);
    world.exit("main", 3);
    assert_eq!(world.verdict().0, TaskState::Killed);
    // Who exits after the kill does so because of it.
    let mut world = alone(None);
    world.kill(50);
    world.begin_exit("main");
    world.exit("main", 0);
    assert_eq!(world.verdict().0, TaskState::Killed);
}

#[test]
fn an_end_that_needs_others_which_a_kill_ends_is_the_kills() {
    let both = || {
        World::new(vec![
            member("main", Part::Main, None),
            member("other", Part::Peer, None),
        ])
    };
    let mut world = both();
    world.begin_exit("main");
    world.kill(50);
    world.exit("main", 0);
    world.exit("other", -15);
    assert_eq!(world.verdict().0, TaskState::Killed);
    let mut world = both();
    world.begin_exit("main");
    world.kill(50);
    world.exit("other", -15);
    world.exit("main", 0);
    assert_eq!(world.verdict().0, TaskState::Killed);
    let mut world = both();
    world.begin_exit("other");
    world.kill(50);
    world.exit("main", -15);
    world.exit("other", 4);
    let why = "peer `other`: the command exited with code 4".to_owned();
    assert_eq!(world.verdict().1, why);
}

#[test]
fn those_that_prepare_run_one_by_one_then_sidecars_then_all_others() {
    let mut world = World::new(pod());
    assert_eq!(world.done(), "start fill");
    world.exit("fill", 0);
    assert_eq!(world.done(), "start check");
    assert_eq!(world.state("main"), (MemberState::Waiting, 0));
    world.exit("check", 0);
    assert_eq!(
        world.done(),
        "start log, start proxy, start main, start other"
    );
    world.exit("main", 0);
    assert_eq!(world.done(), "");
    world.exit("other", 0);
    assert_eq!(world.done(), "stop proxy");
    world.exit("proxy", 15);
    assert_eq!(world.done(), "stop log");
    assert_eq!(world.supervision.verdict(), None);
    world.exit("log", 15);
    assert_eq!(
        world.verdict(),
        (TaskState::Finished, String::new(), Some(0))
    );
    assert_eq!(world.state("log"), (MemberState::Finished, 0));
}

#[test]
fn a_task_whose_preparation_fails_fails_with_its_name() {
    let mut members = pod();
    members[2].restart = restart(RestartAfter::Failure, Some(1));
    let mut world = World::new(members);
    world.exit("fill", 4);
    assert_eq!(world.state("fill"), (MemberState::Pausing, 0));
    world.pass(1_000);
    assert_eq!(world.done(), "start fill, start fill");
    world.exit("fill", 5);
    let why = "init `fill`: the command exited with code 5".to_owned();
    assert_eq!(world.verdict(), (TaskState::Failed, why, Some(5)));
    assert_eq!(world.state("main"), (MemberState::Waiting, 0));
    assert_eq!(world.done(), "");
}

#[test]
fn what_cannot_be_started_is_an_error_the_first_time_and_an_end_after_that() {
    let mut world = alone(restart(RestartAfter::Failure, Some(1)));
    world.refused.insert(0);
    world.exit("main", 3);
    world.pass(1_000);
    let why = "`x` was not found".to_owned();
    assert_eq!(world.verdict(), (TaskState::Failed, why.clone(), None));
    let mut world = World::new(vec![
        member("main", Part::Main, None),
        member("a", Part::Sidecar, restart(RestartAfter::Any, None)),
        member("wait", Part::Init, None),
    ]);
    world.refused.insert(1);
    world.exit("wait", 0);
    let why = format!("sidecar `a`: {why}");
    assert_eq!(world.verdict(), (TaskState::Error, why, None));
}

#[test]
fn one_is_started_after_another_and_an_end_gives_up_what_is_being_started() {
    let mut members = pod();
    members.retain(|member| member.part != Part::Init);
    let mut world = World::new(Vec::new());
    world.supervision = Supervision::new(members, GRACE);
    world.slow.extend(0..4);
    world.act();
    assert_eq!(world.done(), "start log");
    assert_eq!(world.supervision.deadline(world.now), None);
    assert_eq!(world.state("log"), (MemberState::Waiting, 0));
    world.begin(1);
    assert_eq!(world.state("log"), (MemberState::Running, 0));
    world.begin(2);
    assert_eq!(world.done(), "start proxy, start main");
    // One that comes back waits for its turn.
    world.exit("log", 1);
    world.pass(1_000);
    assert_eq!(world.done(), "");
    world.begin(0);
    assert_eq!(world.done(), "start log");
    assert_eq!(world.state("log"), (MemberState::Pausing, 0));
    world.begin(1);
    assert_eq!(world.state("log"), (MemberState::Running, 1));
    assert_eq!(world.done(), "start other");
    world.kill(1_000);
    assert_eq!(world.done(), "stop main, stop other");
    assert_eq!(world.supervision.verdict(), None);
    world.exit("main", 0);
    world.exit("proxy", 0);
    world.exit("log", 0);
    let why = "its end was asked for; the command exited with code 0".to_owned();
    assert_eq!(world.verdict(), (TaskState::Killed, why, Some(0)));
    let mut world = World::new(Vec::new());
    world.supervision = Supervision::new(vec![member("main", Part::Main, None)], GRACE);
    world.slow.insert(0);
    world.act();
    world.kill(1_000);
    let why = "its end was asked for; the command did not run".to_owned();
    assert_eq!(world.verdict(), (TaskState::Killed, why, None));
    // One that runs before it is given up is asked to end as any other.
    let mut supervision = Supervision::new(vec![member("main", Part::Main, None)], GRACE);
    let now = Instant::now();
    assert_eq!(supervision.next(now), Some(Action::Start(0)));
    supervision.on_starting(0);
    supervision.kill("kill-requested", GRACE, now);
    assert_eq!(supervision.next(now), Some(Action::Stop(0)));
    assert_eq!(supervision.next(now + GRACE), None);
    supervision.on_started(0, now);
    assert_eq!(supervision.next(now), Some(Action::Stop(0)));
    assert_eq!(supervision.next(now), None);
    assert_eq!(supervision.next(now + GRACE), Some(Action::Force(0)));
}

#[test]
fn sidecars_come_back_whatever_they_end_with_and_their_end_is_not_the_tasks() {
    let mut world = World::new(pod());
    world.exit("fill", 0);
    world.exit("check", 0);
    world.done();
    world.exit("log", 0);
    world.exit("proxy", 1);
    assert_eq!(world.state("proxy"), (MemberState::Pausing, 0));
    world.pass(999);
    assert_eq!(world.done(), "");
    world.pass(1);
    assert_eq!(world.done(), "start log, start proxy");
    assert_eq!(world.state("proxy"), (MemberState::Running, 1));
}

#[test]
fn pauses_double_up_to_the_longest_and_begin_anew_after_a_long_run() {
    let mut world = alone(restart(RestartAfter::Failure, None));
    for pause in [1_000, 2_000, 4_000, 4_000] {
        world.exit("main", 1);
        let due = world.supervision.deadline(world.now).unwrap();
        assert_eq!(due - world.now, Duration::from_millis(pause));
        world.pass(pause);
    }
    world.pass(4_000);
    world.exit("main", 1);
    world.pass(1_000);
    assert_eq!(world.state("main"), (MemberState::Running, 5));
    world.exit("main", 0);
    assert_eq!(
        world.verdict(),
        (TaskState::Finished, String::new(), Some(0))
    );
}

#[test]
fn a_command_returns_as_often_as_it_may_and_its_last_end_counts() {
    let mut world = alone(restart(RestartAfter::Any, Some(2)));
    for code in [0, 1] {
        world.exit("main", code);
        world.pass(4_000);
    }
    world.exit("main", 7);
    let why = "the command exited with code 7".to_owned();
    assert_eq!(world.verdict(), (TaskState::Failed, why, Some(7)));
    assert_eq!(world.state("main"), (MemberState::Failed, 2));
    let now = Restart {
        backoff_ms: 0,
        max_backoff_ms: 0,
        ..Restart::default()
    };
    let mut world = alone(Some(now));
    world.exit("main", 1);
    assert_eq!(world.done(), "start main");
    world.pass(10);
    assert_eq!(world.done(), "start main");
}

#[test]
fn a_peer_that_fails_ends_the_others_then_the_sidecars() {
    let mut world = World::new(pod());
    world.exit("fill", 0);
    world.exit("check", 0);
    world.done();
    world.exit("log", 1);
    world.exit("other", 9);
    assert_eq!(world.done(), "stop main");
    world.pass(GRACE.as_millis() as u64);
    assert_eq!(world.done(), "force main");
    world.pass(1);
    assert_eq!(world.done(), "");
    world.pass(1);
    assert_eq!(world.done(), "force main");
    world.exit("main", -9);
    // The one that pauses does not come back.
    assert_eq!(world.done(), "stop proxy");
    world.pass(GRACE.as_millis() as u64);
    assert_eq!(world.done(), "force proxy");
    world.exit("proxy", -9);
    let why = "peer `other`: the command exited with code 9".to_owned();
    assert_eq!(world.verdict(), (TaskState::Failed, why, Some(9)));
    // Where the command itself has finished, its code stays the task's.
    let mut world = World::new(vec![
        member("main", Part::Main, None),
        member("other", Part::Peer, None),
    ]);
    world.exit("main", 0);
    world.exit("other", 9);
    assert_eq!(world.verdict().2, Some(0));
}

#[test]
fn a_kill_ends_sidecars_last_and_all_by_the_end_of_its_grace() {
    let mut world = World::new(pod());
    world.exit("fill", 0);
    world.exit("check", 0);
    world.done();
    world.kill(1_000);
    assert_eq!(world.done(), "stop main, stop other");
    world.exit("main", 0);
    world.exit("other", 0);
    assert_eq!(world.done(), "stop proxy");
    world.pass(999);
    assert_eq!(world.done(), "");
    world.pass(1);
    assert_eq!(world.done(), "stop log, force log, force proxy");
    world.exit("log", -9);
    world.exit("proxy", -9);
    assert_eq!(world.verdict().0, TaskState::Killed);
    // Asked again, the earlier end counts; a decided end stays.
    let mut world = World::new(pod());
    world.kill(3_600_000);
    world.kill(10);
    world.kill(3_600_000);
    world.pass(10);
    assert_eq!(world.done(), "start fill, stop fill, force fill");
    let mut world = alone(restart(RestartAfter::Any, None));
    world.exit("main", 2);
    world.kill(10);
    let why = "its end was asked for; the command exited with code 2".to_owned();
    assert_eq!(world.verdict(), (TaskState::Killed, why, Some(2)));
}

#[derive(Debug, Clone)]
enum Step {
    Exit(usize, i32),
    Pass(u64),
    Kill(u64),
    Refuse(usize),
    Slow(usize),
    Begin(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..6_usize, 0..2_i32).prop_map(|(number, code)| Step::Exit(number, code)),
        4 => (0..3_000_u64).prop_map(Step::Pass),
        1 => (0..2_000_u64).prop_map(Step::Kill),
        1 => (0..6_usize).prop_map(Step::Refuse),
        2 => (0..6_usize).prop_map(Step::Slow),
        6 => (0..6_usize).prop_map(Step::Begin),
    ];
    prop::collection::vec(step, 0..60)
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    let parts = prop::collection::vec((0..3_u8, any::<bool>(), 0..3_u32), 0..5);
    parts.prop_map(|parts| {
        let mut members = vec![member("main", Part::Main, None)];
        for (number, (part, returns, most)) in parts.into_iter().enumerate() {
            let part = [Part::Init, Part::Sidecar, Part::Peer][usize::from(part)];
            let again = restart(RestartAfter::Failure, Some(most)).filter(|_| returns);
            members.push(member(&format!("m{number}"), part, again));
        }
        members
    })
}

proptest! {
    #[test]
    fn whatever_happens_order_holds_and_a_kill_comes_to_an_end(
        members in members(),
        steps in steps(),
    ) {
        let parts: Vec<_> = members.iter().map(|member| member.part).collect();
        let mut world = World::new(members);
        for step in steps {
            match step {
                Step::Exit(number, code) if world.running.contains(&number) => {
                    let name = world.supervision.name(number).to_owned();
                    world.exit(&name, code);
                }
                Step::Exit(..) => {}
                Step::Pass(millis) => world.pass(millis),
                Step::Kill(grace) => world.kill(grace),
                Step::Refuse(number) => drop(world.refused.insert(number)),
                Step::Slow(number) => drop(world.slow.insert(number)),
                Step::Begin(number) if world.starting.contains(&number) => world.begin(number),
                Step::Begin(_) => {}
            }
            let runs = |wanted: &dyn Fn(Part) -> bool| {
                world.running.iter().any(|number| wanted(parts[*number]))
            };
            // What prepares runs alone.
            if runs(&|part| part == Part::Init) {
                prop_assert!(world.starting.is_empty());
                prop_assert_eq!(world.running.len(), 1);
            }
            // A decided end is decided for ever, and comes with the last process.
            let has_ended = world.supervision.verdict().is_some();
            let is_empty = world.running.is_empty() && world.starting.is_empty();
            prop_assert_eq!(has_ended, world.supervision.is_ending() && is_empty);
            prop_assert!(world.starting.len() <= 1);
            if !has_ended && is_empty {
                prop_assert!(world.supervision.deadline(world.now).is_some(), "it is stuck");
            }
            for status in world.supervision.statuses() {
                prop_assert!(status.restarts <= 2);
            }
        }
        world.kill(500);
        world.pass(500);
        world.done();
        world.pass(2);
        let forced = world.done();
        for number in world.running.clone() {
            let name = world.supervision.name(number).to_owned();
            prop_assert!(forced.contains(&format!("force {name}")), "{forced}");
            world.exit(&name, -9);
        }
        prop_assert!(world.supervision.verdict().is_some());
    }
}
