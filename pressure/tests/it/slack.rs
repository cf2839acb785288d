//! What is lent of what lies idle, over time.

use proptest::prelude::*;
use tepui_pressure::{Amounts, Estimator, RunningTask, Sample};
use tepui_types::{Bytes, MilliCpus};

use crate::tasks::{amounts, firm, revocable, secs};

const CAPACITY: Amounts = amounts(10_000, 10_000);
const MOST: Amounts = amounts(5_000, 5_000);
/// Long after everything has started.
const LATER: u64 = 100_000;

fn sample(at_secs: u64, tasks: Vec<RunningTask>) -> Sample {
    Sample {
        at: secs(at_secs),
        capacity: CAPACITY,
        idle: None,
        pressed: false,
        tasks,
    }
}

/// One that has all of the machine, and uses so much of it.
fn whole(cpus_milli: u64, mem_mib: u64) -> Vec<RunningTask> {
    vec![firm("web", CAPACITY, amounts(cpus_milli, mem_mib))]
}

/// An estimator that has seen these tasks for long; and until when.
fn settled(tasks: &[RunningTask]) -> (Estimator, u64) {
    let mut estimator = Estimator::new(MOST);
    let end = LATER + 20 * 3_600;
    for at in (LATER..=end).step_by(10) {
        estimator.observe(&sample(at, tasks.to_vec()));
    }
    (estimator, end)
}

#[test]
fn nothing_is_lent_of_what_nobody_has_taken() {
    assert_eq!(settled(&[]).0.lent(), Amounts::default());
    let small = [firm("web", amounts(1_000, 1_000), amounts(0, 0))];
    // All of what it was given is the machine's margin.
    assert_eq!(settled(&small).0.lent(), Amounts::default());
}

#[test]
fn what_an_idle_task_was_given_is_lent_up_to_the_operator_s_most() {
    assert_eq!(settled(&whole(10, 10)).0.lent(), MOST);
    // 10,000 without 6,000 and 15 %, and without 1,000: 2,100 are four tenths of 5,000.
    // 10,000 without 6,000 and 30 %, and without 2,000: 200 are none.
    assert_eq!(settled(&whole(6_000, 6_000)).0.lent(), amounts(2_000, 0));
}

#[test]
fn memory_is_lent_later_and_less_than_processors() {
    let mut estimator = Estimator::new(MOST);
    let told: Vec<_> = (0..4_000)
        .filter_map(|at| Some((at, estimator.observe(&sample(at, whole(10, 10)))?)))
        .collect();
    assert_eq!(told, [(300, amounts(5_000, 0)), (900, MOST)]);
}

#[test]
fn a_rise_takes_back_at_once_and_its_end_gives_back_slowly() {
    let (mut estimator, end) = settled(&whole(10, 10));
    let risen = estimator.observe(&sample(end + 1, whole(8_000, 10)));
    assert_eq!(risen, Some(amounts(0, 5_000)));
    let mut told = Vec::new();
    for at in end + 2..end + 3_600 {
        told.extend(
            estimator
                .observe(&sample(at, whole(10, 10)))
                .map(|lent| (at - end, lent.cpus.0)),
        );
    }
    let (last, all) = told[told.len() - 1];
    // The peak of 8,000 leaves room for all when it has sunk to 3,478.
    assert_eq!((last, all), (363, 5_000), "{told:?}");
    assert!(
        told[0].0 > 60 && told.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 60),
        "{told:?}"
    );
}

#[test]
fn a_task_that_is_new_or_not_measured_counts_in_full() {
    let (mut estimator, end) = settled(&whole(10, 10));
    let mut new = firm("new", amounts(0, 0), amounts(0, 0));
    new.holding.firm = CAPACITY;
    new.started = secs(end);
    let lent = estimator.observe(&sample(end, vec![new]));
    assert_eq!(lent, Some(Amounts::default()));
    let (mut estimator, end) = settled(&whole(10, 10));
    let mut unknown = whole(10, 10);
    unknown[0].used = None;
    assert_eq!(
        estimator.observe(&sample(end, unknown)),
        Some(Amounts::default())
    );
}

#[test]
fn use_across_a_step_s_edge_is_told_once() {
    let (mut estimator, end) = settled(&whole(6_000, 10));
    let mut told = 0;
    for at in end..end + 7_200 {
        // Around what four tenths leave.
        let cpus_milli = 6_050 + 60 * (at / 120 % 2);
        told += usize::from(
            estimator
                .observe(&sample(at, whole(cpus_milli, 10)))
                .is_some(),
        );
    }
    assert_eq!(told, 1);
}

#[test]
fn what_the_machine_does_outside_of_tasks_is_not_lent() {
    let (mut estimator, end) = settled(&whole(10, 10));
    let mut busy = sample(end, whole(10, 10));
    busy.idle = Some(amounts(3_000, 9_000));
    // 3,000 idle without a margin of 1,000; 9,000 without 2,000 are more than the most.
    assert_eq!(estimator.observe(&busy), Some(amounts(2_000, 5_000)));
    // What tasks on what is lent use is theirs, though it is more than they were lent.
    let (mut estimator, end) = settled(&whole(10, 10));
    let lender = revocable("batch", amounts(1_000, 100), amounts(4_000, 100));
    let mut lent = sample(end, whole(10, 10));
    lent.tasks.push(lender);
    lent.idle = Some(amounts(3_000, 9_000));
    assert_eq!(estimator.observe(&lent), None);
}

#[test]
fn the_first_seconds_of_a_task_on_what_is_lent_are_not_the_machine_s_own() {
    let (mut estimator, end) = settled(&whole(10, 10));
    let at = |at, is_measured: bool| {
        let mut sample = sample(at, whole(10, 10));
        let mut batch = revocable("batch", amounts(4_000, 100), amounts(9_000, 100));
        if !is_measured {
            batch.used = None;
        }
        sample.tasks.push(batch);
        sample.idle = Some(amounts(500, 9_000));
        sample
    };
    let mut idle = sample(end, whole(10, 10));
    idle.idle = Some(amounts(9_900, 9_900));
    estimator.observe(&idle);
    let lent = estimator.lent();
    assert_eq!(lent.cpus.0, 5_000);
    // It spins, and nobody knows yet that it is the one who does.
    for (seconds, is_measured) in [(1, false), (11, true), (21, true)] {
        estimator.observe(&at(end + seconds, is_measured));
        assert_eq!(estimator.lent(), lent, "after {seconds} s");
    }
    // Where one or another is new all the time, use by others does not go unseen for long.
    for (seconds, is_kept) in [(31, true), (71, true), (81, false)] {
        estimator.observe(&at(end + seconds, false));
        let kept = estimator.lent().cpus.0 == 5_000;
        assert_eq!(kept, is_kept, "after {seconds} s");
    }
}

#[test]
fn a_pressed_machine_lends_no_more_than_is_out() {
    let (mut estimator, end) = settled(&whole(10, 10));
    let mut pressed = sample(end, whole(10, 10));
    pressed
        .tasks
        .push(revocable("batch", amounts(1_500, 500), amounts(1_500, 500)));
    pressed.pressed = true;
    assert_eq!(estimator.observe(&pressed), Some(amounts(1_500, 500)));
}

#[test]
fn a_stored_estimator_goes_on_where_it_was() {
    let (mut estimator, end) = settled(&whole(10, 10));
    let text = serde_json::to_string(&estimator).unwrap();
    let mut stored: Estimator = serde_json::from_str(&text).unwrap();
    let risen = sample(end + 1, whole(8_000, 10));
    assert_eq!(estimator.observe(&risen), stored.observe(&risen));
    assert_eq!(estimator, stored);
}

fn any_task(name: usize) -> impl Strategy<Value = RunningTask> {
    let amount = || (0..6_000_u64, 0..6_000_u64).prop_map(|(cpus, mem)| amounts(cpus, mem));
    let used = proptest::option::weighted(0.9, amount());
    (amount(), amount(), used, any::<bool>(), 0..2 * LATER).prop_map(
        move |(given, lent, uses, is_revocable, started)| {
            let mut task = firm(&format!("t{name}"), given, amounts(0, 0));
            if is_revocable {
                task.holding.lent = lent;
                task.holding.revocable = true;
            }
            task.used = uses.map(crate::tasks::used);
            task.started = secs(started);
            task
        },
    )
}

fn any_sample() -> impl Strategy<Value = (u64, Sample)> {
    let tasks = proptest::collection::vec(any::<bool>(), 4).prop_flat_map(|present| {
        let names = (0..present.len()).filter(move |index| present[*index]);
        names.map(any_task).collect::<Vec<_>>()
    });
    let idle = proptest::option::of((0..12_000_u64, 0..12_000_u64));
    let passed = prop_oneof![0..20_u64, 0..20_000_u64];
    (passed, tasks, idle, any::<bool>()).prop_map(|(passed, tasks, idle, pressed)| {
        let mut sample = sample(0, tasks);
        sample.idle = idle.map(|(cpus, mem)| amounts(cpus, mem));
        sample.pressed = pressed;
        (passed, sample)
    })
}

/// The amounts of one resource, whichever it is.
struct One {
    before: u64,
    lent: u64,
    most: u64,
    capacity: u64,
    firm_use: u64,
    given: u64,
    idle: u64,
    /// Of tasks on what is lent; none if that of one is not known.
    lent_use: Option<u64>,
    out: u64,
    margin: u64,
}

fn one(
    sample: &Sample,
    [before, lent]: [Amounts; 2],
    amount: fn(Amounts) -> u64,
    margin_percent: u64,
) -> One {
    let uses = |task: &RunningTask| {
        let used = task.used.map(|used| Amounts {
            cpus: used.cpus,
            mem: used.mem,
        });
        used.map(amount)
    };
    let tasks = || sample.tasks.iter();
    let firm = tasks().map(|task| match (task.holding.revocable, uses(task)) {
        (false, Some(used)) => used,
        _ => amount(task.holding.firm),
    });
    let revocable = tasks().filter(|task| task.holding.revocable);
    let lent_use =
        revocable.map(|task| Some(uses(task)?.saturating_sub(amount(task.holding.firm))));
    One {
        before: amount(before),
        lent: amount(lent),
        most: amount(MOST),
        capacity: amount(sample.capacity),
        firm_use: firm.sum(),
        given: tasks().map(|task| amount(task.holding.firm)).sum(),
        idle: sample.idle.map_or(u64::MAX / 2, amount),
        lent_use: lent_use.sum(),
        out: tasks().map(|task| amount(task.holding.lent)).sum(),
        margin: amount(sample.capacity) * margin_percent / 100,
    }
}

proptest! {
    #[test]
    fn never_more_is_lent_than_lies_idle(
        samples in proptest::collection::vec(any_sample(), 1..40)
    ) {
        let mut estimator = Estimator::new(MOST);
        let mut at = LATER;
        for (passed, mut sample) in samples {
            at += passed;
            sample.at = secs(at);
            let before = estimator.lent();
            let told = estimator.observe(&sample);
            let lent = estimator.lent();
            prop_assert_eq!(told.unwrap_or(before), lent);
            for one in [
                one(&sample, [before, lent], |amounts| amounts.cpus.0, 10),
                one(&sample, [before, lent], |amounts| amounts.mem.0, 20),
            ] {
                prop_assert!(one.lent <= one.most);
                let idle = one.given.min(one.capacity).saturating_sub(one.firm_use);
                prop_assert!(one.lent <= idle.saturating_sub(one.margin));
                if let Some(lent_use) = one.lent_use {
                    let free = (one.idle + lent_use).min(one.capacity);
                    prop_assert!(one.lent <= free.saturating_sub(one.margin));
                } else {
                    prop_assert!(one.lent <= one.before);
                }
                prop_assert!(!sample.pressed || one.lent <= one.out);
            }
        }
    }

    #[test]
    fn the_same_use_forever_is_told_a_few_times_at_most(
        start in any_sample(), cpus in 0..12_000_u64, mem in 0..12_000_u64
    ) {
        let mut estimator = Estimator::new(MOST);
        estimator.observe(&start.1);
        let mut told = 0;
        for at in (LATER..LATER + 30 * 3_600).step_by(60) {
            told += usize::from(estimator.observe(&sample(at, whole(cpus, mem))).is_some());
        }
        // Each of two resources may rise in five clear steps and a last one, and fall once.
        prop_assert!(told <= 14, "{}", told);
        prop_assert_eq!(estimator.observe(&sample(LATER + 31 * 3_600, whole(cpus, mem))), None);
    }

    #[test]
    fn no_number_is_too_large(
        most in any::<(u64, u64)>(),
        samples in proptest::collection::vec(any::<[u64; 9]>(), 1..8)
    ) {
        let all = |cpus, mem| Amounts { cpus: MilliCpus(cpus), mem: Bytes(mem) };
        let most = all(most.0, most.1);
        let mut estimator = Estimator::new(most);
        for [at, capacity, idle, given, uses, lent, lent_use, started, flags] in samples {
            let mut task = firm("large", all(given, given), all(uses, uses));
            task.started = secs(started);
            estimator.observe(&Sample {
                at: secs(at),
                capacity: all(capacity, capacity),
                idle: (flags & 1 == 0).then_some(all(idle, idle)),
                pressed: flags & 2 == 0,
                tasks: vec![task, revocable("lent", all(lent, lent), all(lent_use, lent_use))],
            });
            let lent = estimator.lent();
            prop_assert!(lent.cpus <= most.cpus && lent.mem <= most.mem);
        }
    }
}
