//! Random histories, and what holds after every one of them.

use std::collections::BTreeMap;

use super::*;

/// A small generator: the histories need variety, not quality.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn random_event(bench: &mut Bench, dice: &mut Dice) {
    const STATES: [TaskState; 4] = [
        TaskState::Starting,
        TaskState::Running,
        TaskState::Finished,
        TaskState::Failed,
    ];
    let name = format!("t{}", dice.roll(12));
    let executor = dice.roll(bench.agent.executors.next_number() + 1);
    let state = STATES[dice.roll(4) as usize];
    match dice.roll(14) {
        0 if dice.roll(2) == 0 => {
            let before = id(&format!("t{}", dice.roll(12)));
            let after = Some(before).filter(|before| *before != id(&name));
            let task = native(&name);
            drop(bench.launch(TaskLaunch { after, ..task }));
        }
        0 => drop(bench.launch(native(&name))),
        1 => drop(bench.launch(wasm(&name))),
        2 => drop(bench.kill(&name)),
        3 => drop(bench.fetched()),
        4 => drop(bench.attach(executor, vec![update(&name, state)])),
        5 => drop(bench.attach(executor, vec![])),
        6 => drop(bench.update(executor, &name, state)),
        7 => drop(bench.recorded(&name, state)),
        8 => drop(bench.lost(
            executor,
            vec![update(&name, TaskState::Failed)],
            dice.roll(2) == 0,
        )),
        9 => drop(bench.excess()),
        10 => drop(bench.removed()),
        12 => drop(bench.unwell(&name)),
        11 => drop(bench.on(|agent, _| agent.on_detached(ExecutorId(executor)))),
        _ => drop(bench.on(|agent, out| agent.on_tick(out, 1_000_000))),
    }
}

#[test]
fn any_prefix_of_a_journal_replays() {
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let mut bench = Bench::new();
        for _ in 0..80 {
            random_event(&mut bench, &mut dice);
        }
        for end in 0..=bench.journal.len() {
            let (mut agent, _) = Agent::restore(layout(), bench.journal[..end].to_vec());
            let mut out = Vec::new();
            agent.on_restart(&mut out);
            agent.assert_consistent();
            // The compacted journal says the same.
            let records = agent.records("boot");
            let (again, _) = Agent::restore(layout(), records.clone());
            assert_eq!(again.records("boot"), records, "seed {seed}, prefix {end}");
        }
        let (agent, _) = Agent::restore(layout(), bench.journal.clone());
        let known = |agent: &Agent| agent.held_tasks().cloned().collect::<Vec<_>>();
        assert_eq!(known(&agent), known(&bench.agent), "seed {seed}");
    }
}

#[test]
fn task_is_handed_to_one_process_at_most_unless_the_first_had_left() {
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let mut bench = Bench::new();
        for _ in 0..120 {
            random_event(&mut bench, &mut dice);
            if dice.roll(20) == 0 {
                let held: Vec<_> = bench.agent.held_tasks().cloned().collect();
                bench.restart();
                assert_eq!(held, bench.agent.held_tasks().cloned().collect::<Vec<_>>());
            }
        }
        let mut handed: BTreeMap<TaskId, ExecutorId> = BTreeMap::new();
        let mut gone = BTreeSet::new();
        for record in &bench.journal {
            match record {
                Record::Handed { task, executor } => {
                    let before = handed.insert(task.clone(), *executor);
                    let may =
                        before.is_none_or(|before| before == *executor || gone.contains(&before));
                    assert!(may, "seed {seed}: {task} on {before:?} and {executor}");
                }
                Record::ExecutorGone(executor) => {
                    gone.insert(*executor);
                }
                _ => {}
            }
        }
    }
}
