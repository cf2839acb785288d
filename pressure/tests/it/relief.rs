//! What is decided on a machine that is short of something, over time.

use proptest::prelude::*;
use tepui_pressure::{Cause, Launches, Readings, Relief, RunningTask, Strain, Used};
use tepui_types::Bytes;

use crate::script::{self, calm, set};
use crate::tasks::{amounts, firm, id, revocable, secs};

#[test]
fn processors_are_given_back_by_throttling() {
    script::check("processors.txt");
}

#[test]
fn memory_is_given_back_by_ending_one_after_another() {
    script::check("memory.txt");
}

#[test]
fn a_full_disk_stops_launches_and_who_writes_on_what_is_lent() {
    script::check("disk.txt");
}

#[test]
fn too_many_processes_and_slow_disks_are_relieved() {
    script::check("processes.txt");
}

#[test]
fn a_kernel_without_psi_is_relieved_by_what_is_left() {
    let mut readings = Readings {
        cpu_pressure: None,
        memory_pressure: None,
        io_pressure: None,
        ..calm()
    };
    let tasks = [revocable("batch", amounts(1_000, 100), amounts(1_000, 100))];
    let mut relief = Relief::default();
    assert!(!relief.decide(secs(0), &readings, &tasks).is_pressed());
    set(&mut readings, "busy", 97);
    assert_eq!(relief.decide(secs(2), &readings, &tasks).share_percent, 50);
    set(&mut readings, "mem", 2);
    let decision = relief.decide(secs(4), &readings, &tasks);
    assert_eq!(decision.end.unwrap().task, tasks[0].id);
}

#[test]
fn after_any_number_of_relapses_a_step_up_comes_in_time() {
    let mut busy = calm();
    set(&mut busy, "cpu", 90);
    set(&mut busy, "busy", 99);
    let (mut relief, mut now) = (Relief::default(), 0);
    let mut after = |readings: &Readings| {
        now += 2;
        (now, relief.decide(secs(now), readings, &[]).share_percent)
    };
    let mut longest = 0;
    for _ in 0..20 {
        let (relapsed, low) = std::iter::repeat_with(|| after(&busy)).nth(5).unwrap();
        let mut calmer = std::iter::repeat_with(|| after(&calm()));
        let (risen, _) = calmer.find(|(_, share)| *share > low).unwrap();
        longest = (risen - relapsed).max(longest);
    }
    assert_eq!(longest, 480);
}

#[test]
fn what_is_not_read_is_no_strain() {
    let mut relief = Relief::default();
    let decision = relief.decide(secs(0), &Readings::default(), &[]);
    assert_eq!(
        (decision.launches, decision.is_pressed()),
        (Launches::All, false)
    );
}

#[test]
fn a_task_that_was_not_measured_counts_with_what_it_was_given() {
    let mut readings = calm();
    set(&mut readings, "mem", 2);
    let small = revocable("small", amounts(0, 100), amounts(0, 100));
    let mut unknown = revocable("unknown", amounts(0, 200), amounts(0, 0));
    unknown.used = None;
    let tasks = [small, unknown];
    let end = Relief::default().decide(secs(0), &readings, &tasks).end;
    assert_eq!(end.unwrap().task, tasks[1].id);
}

#[test]
fn stalls_that_fade_after_an_end_end_nobody_else() {
    let tasks = ["a", "b"].map(|name| revocable(name, amounts(0, 1), amounts(0, 1)));
    let mut readings = calm();
    set(&mut readings, "mem", 20);
    set(&mut readings, "all", 100);
    let mut relief = Relief::default();
    let first = relief.decide(secs(0), &readings, &tasks).end.unwrap();
    let left: Vec<_> = tasks
        .into_iter()
        .filter(|task| task.id != first.task)
        .collect();
    for at in 1..120_u32 {
        // As the kernel's average over ten seconds sinks when nobody waits any more.
        let share = 100.0 * (-f64::from(at) / 10.0).exp();
        set(&mut readings, "all", share as u64);
        let decision = relief.decide(secs(at.into()), &readings, &left);
        assert_eq!(decision.end, None, "after {at} s");
    }
}

#[test]
fn of_tasks_that_are_as_large_the_younger_one_ends() {
    let mut readings = calm();
    set(&mut readings, "pids", 99);
    let task = |name, started| {
        let mut task = revocable(name, amounts(0, 1), amounts(0, 1));
        task.started = secs(started);
        task
    };
    let tasks = [task("a", 5), task("b", 7), task("c", 7)];
    let end = Relief::default().decide(secs(9), &readings, &tasks).end;
    let end = end.unwrap();
    assert_eq!((end.task, end.cause), (tasks[1].id.clone(), Cause::Pids));
    assert!(Cause::Pids.to_string().contains("not revocable"));
}

const KEYS: [&str; 8] = ["cpu", "busy", "all", "mem", "io", "pids", "disk", "files"];
/// Of these, less is worse.
const LEFT: [&str; 3] = ["mem", "disk", "files"];

fn readings(percents: [u64; 8], missing: u8) -> Readings {
    let mut readings = calm();
    for (key, percent) in KEYS.iter().zip(percents) {
        set(&mut readings, key, percent);
    }
    let is_missing = |bit: u8| missing & (1 << bit) != 0;
    if is_missing(0) {
        readings.cpu_pressure = None;
    }
    if is_missing(1) {
        readings.memory_pressure = None;
    }
    if is_missing(2) {
        (readings.cpu, readings.io_pressure) = (None, None);
    }
    if is_missing(3) {
        readings.mem = None;
    }
    readings
}

fn percents() -> impl Strategy<Value = [u64; 8]> {
    let percent = prop_oneof![2 => 0..=100_u64, 1 => 0..12_u64, 1 => 85..=100_u64];
    proptest::array::uniform8(percent)
}

fn tasks() -> impl Strategy<Value = Vec<RunningTask>> {
    let present = proptest::bool::weighted(0.8);
    let task = (present, any::<bool>(), 0..3_u64, 0..3_u64, 0..3_u64);
    proptest::collection::vec(task, 6).prop_map(|tasks| {
        let tasks = tasks.into_iter().enumerate();
        let tasks = tasks.filter_map(|(index, (present, is_firm, mem, pids, disk))| {
            let (name, amounts) = (format!("t{index}"), amounts(100, mem));
            let mut task = match is_firm {
                true => firm(&name, amounts, amounts),
                false => revocable(&name, amounts, amounts),
            };
            task.used = Some(Used {
                pids,
                disk: Bytes(disk),
                ..task.used.unwrap()
            });
            present.then_some(task)
        });
        tasks.collect()
    })
}

/// A task that has ended comes back as another attempt, as the cluster has it.
fn again(tasks: &mut [RunningTask], attempts: &mut [u64; 6]) {
    for (index, attempt) in attempts.iter_mut().enumerate() {
        let name = id(&format!("t{index}")).name;
        match tasks.iter_mut().find(|task| task.id.name == name) {
            Some(task) => task.id.attempt = *attempt,
            None => *attempt += 1,
        }
    }
}

/// How the readings are, what they lack, which tasks there are, and how long they last.
fn events() -> impl Strategy<Value = Vec<([u64; 8], u8, Vec<RunningTask>, u64)>> {
    let event = (percents(), 0..16_u8, tasks(), 1..40_u64);
    proptest::collection::vec(event, 0..40)
}

proptest! {
    #[test]
    fn no_firm_task_is_ever_ended_and_none_twice_or_in_vain(events in events()) {
        let (mut relief, mut now) = (Relief::default(), 0);
        let mut last: Option<(u64, _)> = None;
        let mut attempts = [0; 6];
        for (percents, missing, mut tasks, passed) in events {
            now += passed;
            again(&mut tasks, &mut attempts);
            let decision = relief.decide(secs(now), &readings(percents, missing), &tasks);
            let Some(end) = decision.end else { continue };
            let task = tasks.iter().find(|task| task.id == end.task).unwrap();
            prop_assert!(task.holding.revocable);
            let used = task.used.unwrap();
            let (has, strain) = match end.cause {
                Cause::Memory => (used.mem.0, decision.strains.memory),
                Cause::Pids => (used.pids, decision.strains.pids),
                Cause::Disk => (used.disk.0, decision.strains.disk),
            };
            prop_assert!(has > 0 && strain == Strain::Critical);
            if let Some((told, before)) = last.replace((now, end.task.clone())) {
                let runs = tasks.iter().any(|task| task.id == before);
                let least = if runs { 30 } else { 15 };
                prop_assert!(now - told >= least);
                prop_assert!(!runs || before != end.task);
            }
        }
    }

    #[test]
    fn worse_readings_never_decide_less(
        events in events(), percents in percents(), worse in percents(), missing in 0..16_u8,
        tasks in tasks(), passed in 0..60_u64
    ) {
        let (mut relief, mut now) = (Relief::default(), 0);
        for (percents, missing, tasks, passed) in events {
            now += passed;
            relief.decide(secs(now), &readings(percents, missing), &tasks);
        }
        let worse = std::array::from_fn(|index| {
            let (one, other) = (percents[index], worse[index]);
            if LEFT.contains(&KEYS[index]) { one.min(other) } else { one.max(other) }
        });
        let mut twin = relief.clone();
        let now = secs(now + passed);
        let less = relief.decide(now, &readings(percents, missing), &tasks);
        let more = twin.decide(now, &readings(worse, missing), &tasks);
        prop_assert!(more.share_percent <= less.share_percent);
        prop_assert!(more.launches >= less.launches);
        prop_assert!(more.end.is_some() >= less.end.is_some());
    }

    #[test]
    fn all_is_let_go_when_pressure_has_ended(events in events(), tasks in tasks()) {
        let (mut relief, mut now) = (Relief::default(), 0);
        for (percents, missing, tasks, passed) in events {
            now += passed;
            relief.decide(secs(now), &readings(percents, missing), &tasks);
        }
        // Three steps of the longest wait.
        for _ in 0..3 * 480 / 2 + 2 {
            now += 2;
            let decision = relief.decide(secs(now), &calm(), &tasks);
            prop_assert_eq!(decision.end, None);
        }
        let decision = relief.decide(secs(now + 2), &calm(), &tasks);
        prop_assert!(!decision.is_pressed());
        prop_assert_eq!((decision.share_percent, decision.launches), (100, Launches::All));
    }
}
