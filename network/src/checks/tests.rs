//! What checks decide: scenes, and invariants under random events.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tepui_types::check::TcpProbe;

use super::*;

fn check() -> Check {
    Check {
        interval_ms: 1000,
        grace_ms: 0,
        failures: 2,
        ..Check::new(Probe::Tcp(TcpProbe { port: 1 }))
    }
}

/// A task whose probes are answered by hand.
struct Scene {
    task: TaskChecks,
    now: u64,
    under_way: BTreeMap<CheckRole, ProbeId>,
    log: Vec<String>,
}

impl Scene {
    fn new(checks: Checks) -> Self {
        let (task, actions) = TaskChecks::start(checks, 5000);
        let mut scene = Self {
            task,
            now: 5000,
            under_way: BTreeMap::new(),
            log: Vec::new(),
        };
        scene.note(actions);
        scene
    }

    fn note(&mut self, actions: Vec<Action>) {
        for action in actions {
            let line = match action {
                Action::Run { id, check, .. } => {
                    self.under_way.insert(check, id);
                    format!("run {check}")
                }
                Action::Cancel(id) => {
                    self.under_way.retain(|_, own| *own != id);
                    "cancel".into()
                }
                Action::Report(status) => format!(
                    "{} {:?} {} {}",
                    status.check, status.state, status.consecutive_failures, status.message
                ),
                Action::Kill(reason) => format!("kill {reason}"),
            };
            self.log.push(line.trim_end().to_owned());
        }
    }

    fn answer(&mut self, check: CheckRole, outcome: Result<(), &str>) {
        let id = self.under_way.remove(&check).unwrap();
        let event = Event::Probed(id, outcome.map_err(str::to_owned));
        let actions = self.task.on_event(self.now, event);
        self.note(actions);
    }

    fn wait(&mut self, millis: u64) {
        self.now += millis;
        let actions = self.task.on_event(self.now, Event::Time);
        self.note(actions);
    }

    fn log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }
}

#[test]
fn a_probe_that_could_not_be_made_counts_for_nothing() {
    let mut scene = Scene::new(Checks {
        health: Some(check()),
        ..Checks::default()
    });
    scene.answer(CheckRole::Health, Err("gone"));
    scene.log();
    for _ in 0..5 {
        scene.wait(1000);
        let id = scene.under_way.remove(&CheckRole::Health).unwrap();
        let actions = scene.task.on_event(scene.now, Event::Skipped(id));
        assert_eq!(actions, []);
    }
    // The one before it still does.
    scene.wait(1000);
    scene.answer(CheckRole::Health, Err("gone"));
    let log = scene.log();
    assert!(log.last().unwrap().starts_with("kill"), "{log:?}");
}

#[test]
fn an_unhealthy_task_is_killed_with_the_last_message() {
    let health = Some(check());
    let mut scene = Scene::new(Checks {
        health,
        ..Checks::default()
    });
    assert_eq!(scene.log(), ["health Pending 0", "run health"]);
    scene.answer(CheckRole::Health, Ok(()));
    assert_eq!(scene.log(), ["health Passing 0"]);
    scene.wait(999);
    assert_eq!(scene.log(), [""; 0]);
    scene.wait(1);
    scene.answer(CheckRole::Health, Err("refused"));
    assert_eq!(scene.log(), ["run health", "health Passing 1 refused"]);
    scene.wait(1000);
    scene.answer(CheckRole::Health, Err("slow"));
    assert_eq!(
        scene.log(),
        [
            "run health",
            "health Failing 2 slow",
            "kill its health check failed 2 times in a row, the last time because slow \
             (health-check-failed)",
        ]
    );
    assert_eq!(scene.task.wake_at(), None);
}

#[test]
fn failures_within_the_grace_period_do_not_count_until_a_success() {
    let health = Some(Check {
        grace_ms: 3000,
        failures: 1,
        ..check()
    });
    let mut scene = Scene::new(Checks {
        health,
        ..Checks::default()
    });
    scene.log();
    for _ in 0..3 {
        scene.answer(CheckRole::Health, Err("not yet"));
        scene.wait(1000);
    }
    assert_eq!(scene.log(), ["run health"; 3]);
    scene.answer(CheckRole::Health, Err("too late"));
    assert!(scene.log().last().unwrap().starts_with("kill"));

    let health = Some(Check {
        grace_ms: 60_000,
        failures: 1,
        ..check()
    });
    let mut scene = Scene::new(Checks {
        health,
        ..Checks::default()
    });
    scene.answer(CheckRole::Health, Ok(()));
    scene.wait(1000);
    scene.answer(CheckRole::Health, Err("gone"));
    assert!(scene.log().last().unwrap().starts_with("kill"));
}

#[test]
fn readiness_comes_and_goes_and_kills_nothing() {
    let readiness = Some(Check {
        successes: 2,
        ..check()
    });
    let mut scene = Scene::new(Checks {
        readiness,
        ..Checks::default()
    });
    scene.log();
    let outcomes = [
        Ok(()),
        Ok(()),
        Ok(()),
        Err("a"),
        Err("b"),
        Err("c"),
        Ok(()),
        Ok(()),
    ];
    for outcome in outcomes {
        scene.answer(CheckRole::Readiness, outcome);
        scene.wait(1000);
    }
    let mut log = scene.log();
    log.retain(|line| line != "run readiness");
    assert_eq!(
        log,
        [
            "readiness Passing 0",
            "readiness Passing 1 a",
            "readiness Failing 2 b",
            "readiness Failing 0",
            "readiness Passing 0",
        ]
    );
}

#[test]
fn the_others_begin_when_the_task_has_come_up() {
    let mut scene = Scene::new(Checks {
        startup: Some(Check {
            delay_ms: 500,
            ..check()
        }),
        readiness: Some(check()),
        health: Some(check()),
    });
    assert_eq!(scene.log(), ["start-up Pending 0"]);
    scene.wait(500);
    scene.answer(CheckRole::Startup, Err("no"));
    scene.wait(1000);
    scene.answer(CheckRole::Startup, Ok(()));
    assert_eq!(
        scene.log(),
        [
            "run start-up",
            "start-up Pending 1 no",
            "run start-up",
            "start-up Passing 0",
            "readiness Pending 0",
            "health Pending 0",
            "run readiness",
            "run health",
        ]
    );
}

#[test]
fn a_lost_probe_has_failed_and_its_late_outcome_is_not_heard() {
    let mut scene = Scene::new(Checks {
        readiness: Some(check()),
        ..Checks::default()
    });
    let lost = scene.under_way[&CheckRole::Readiness];
    scene.log();
    let until = scene.task.wake_at().unwrap();
    scene.wait(until - scene.now);
    assert_eq!(
        scene.log(),
        [
            "cancel",
            "readiness Pending 1 the probe was lost: nobody said how it ended"
        ]
    );
    let late = scene.task.on_event(scene.now, Event::Probed(lost, Ok(())));
    assert_eq!(late, []);
}

#[test]
fn an_agent_that_comes_back_goes_on_where_it_was() {
    let mut scene = Scene::new(Checks {
        health: Some(check()),
        readiness: Some(check()),
        ..Checks::default()
    });
    scene.answer(CheckRole::Health, Err("a"));
    let stored = postcard::to_allocvec(&scene.task).unwrap();
    scene.task = postcard::from_bytes(&stored).unwrap();
    scene.log();
    scene.now += 10;
    let actions = scene.task.on_event(scene.now, Event::Resumed);
    scene.note(actions);
    // The one under way is made again at once, the other when it is due.
    assert_eq!(scene.log(), ["run readiness"]);
    scene.wait(990);
    scene.answer(CheckRole::Health, Err("b"));
    assert!(scene.log().last().unwrap().starts_with("kill"));
}

#[test]
fn a_clock_that_began_anew_stops_no_check() {
    let (mut task, _) = TaskChecks::start(
        Checks {
            readiness: Some(check()),
            ..Checks::default()
        },
        1 << 40,
    );
    task.on_event(1 << 40, Event::Probed(ProbeId(0), Ok(())));
    task.on_event(7, Event::Resumed);
    assert!(task.wake_at().unwrap() <= 1007);
}

fn any_check() -> impl Strategy<Value = Option<Check>> {
    let numbers = (
        0..3000u64,
        100..2000u64,
        1..2000u64,
        1..4u32,
        1..3u32,
        0..9000u64,
    );
    let check = numbers.prop_map(
        |(delay, interval, timeout, failures, successes, grace)| Check {
            delay_ms: delay,
            interval_ms: interval,
            timeout_ms: timeout,
            failures,
            successes,
            grace_ms: grace,
            ..check()
        },
    );
    proptest::option::of(check)
}

fn any_checks() -> impl Strategy<Value = Checks> {
    (any_check(), any_check(), any_check()).prop_map(|(startup, readiness, health)| Checks {
        startup,
        readiness,
        health,
    })
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    /// Waits until it wants to be woken.
    Sleep,
    /// Answers the probe of one of the checks under way.
    Answer(usize, bool),
    /// With a number that may be anyone's.
    Stray(u64, bool),
    Resume,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..3000u64).prop_map(Step::Wait),
        4 => Just(Step::Sleep),
        8 => (0..3usize, any::<bool>()).prop_map(|(place, well)| Step::Answer(place, well)),
        1 => (1000..2000u64, any::<bool>()).prop_map(|(id, well)| Step::Stray(id, well)),
        1 => Just(Step::Resume),
    ]
}

/// What an onlooker knows of a check.
#[derive(Default)]
struct Seen {
    under_way: Option<ProbeId>,
    began_ms: u64,
    succeeded: bool,
    counted: u32,
    reported: Option<CheckStatus>,
}

impl Seen {
    fn fail(&mut self, now: u64, check: &Check) {
        if self.succeeded || now >= self.began_ms + check.grace_ms {
            self.counted += 1;
        }
    }
}

struct Onlooker {
    checks: BTreeMap<CheckRole, Check>,
    seen: BTreeMap<CheckRole, Seen>,
    killed: bool,
}

impl Onlooker {
    fn new(checks: &Checks) -> Self {
        let checks = checks.all().map(|(role, check)| (role, check.clone()));
        Self {
            checks: checks.collect(),
            seen: BTreeMap::new(),
            killed: false,
        }
    }

    fn look(&mut self, now: u64, actions: &[Action]) {
        for action in actions {
            assert!(!self.killed, "{action:?} after a kill");
            match action {
                Action::Run { id, check, .. } => {
                    let seen = self.seen.get_mut(check).unwrap();
                    assert_eq!(seen.under_way, None, "two probes of {check} at once");
                    seen.under_way = Some(*id);
                }
                Action::Cancel(id) => {
                    let mut all = self.seen.iter_mut();
                    let (role, seen) = all
                        .find(|(_, seen)| seen.under_way == Some(*id))
                        .expect("what is given up is under way");
                    seen.under_way = None;
                    seen.fail(now, &self.checks[role]);
                }
                Action::Report(status) => {
                    let seen = self.seen.entry(status.check).or_insert_with(|| Seen {
                        began_ms: now,
                        ..Seen::default()
                    });
                    assert_ne!(seen.reported.as_ref(), Some(status), "told twice");
                    seen.reported = Some(status.clone());
                }
                Action::Kill(_) => self.killed = true,
            }
        }
        // It is killed for that, and only for that.
        let mut all = self.seen.iter();
        let is_due = |(role, seen): (&CheckRole, &Seen)| {
            *role != CheckRole::Readiness && seen.counted >= self.checks[role].failures
        };
        assert_eq!(self.killed, all.any(is_due));
    }

    /// The probe of the check at this place among those under way.
    fn answer(&mut self, now: u64, place: usize, well: bool) -> Option<ProbeId> {
        let all = self.seen.iter_mut();
        let mut under_way = all.filter(|(_, seen)| seen.under_way.is_some());
        let (role, seen) = under_way.nth(place)?;
        match well {
            true => (seen.succeeded, seen.counted) = (true, 0),
            false => seen.fail(now, &self.checks[role]),
        }
        seen.under_way.take()
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_rules_hold(
        checks in any_checks(),
        steps in proptest::collection::vec(any_step(), 0..200),
    ) {
        let mut now = 1000;
        let mut onlooker = Onlooker::new(&checks);
        let (mut task, actions) = TaskChecks::start(checks, now);
        onlooker.look(now, &actions);
        for step in steps {
            let outcome = |well: bool| if well { Ok(()) } else { Err("x".to_owned()) };
            let event = match step {
                Step::Wait(millis) => {
                    now += millis;
                    Event::Time
                }
                Step::Sleep => {
                    now = task.wake_at().unwrap_or(now).max(now);
                    Event::Time
                }
                Step::Answer(place, well) => match onlooker.answer(now, place, well) {
                    Some(id) => Event::Probed(id, outcome(well)),
                    None => continue,
                },
                Step::Stray(id, well) => Event::Probed(ProbeId(id), outcome(well)),
                Step::Resume => {
                    for seen in onlooker.seen.values_mut() {
                        seen.under_way = None;
                    }
                    let stored = postcard::to_allocvec(&task).unwrap();
                    let restored: TaskChecks = postcard::from_bytes(&stored).unwrap();
                    prop_assert_eq!(&restored, &task);
                    task = restored;
                    Event::Resumed
                }
            };
            let actions = task.on_event(now, event);
            onlooker.look(now, &actions);
            // There is always something to wait for, and it is never over already.
            match task.wake_at() {
                Some(at) => prop_assert!(at > now && !onlooker.killed),
                None => prop_assert!(onlooker.killed || task.running.is_empty()),
            }
        }
    }
}
