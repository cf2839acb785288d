//! The simulation: a fixed budget of seeds, and whether it would find anything.
//!
//! `cargo xtask sim` runs more. These need nothing but a processor.

use tepui_tests::sim::{self, Options, Report, Sabotage};

/// Seeds that every run of the tests tries: some twenty seconds of one processor.
const BUDGET: u64 = 80;
/// Seeds in which something that is broken on purpose must show.
const ENOUGH: u64 = 40;

#[test]
fn a_budget_of_seeds_breaks_no_rule() {
    let (mut tasks, mut succeeded, mut deep, mut replaced) = (0, 0, 0, 0);
    for seed in 1..=BUDGET {
        let report = sim::run(Options::new(seed));
        if let Some(violation) = report.violation {
            panic!("{violation}\n  cargo xtask sim --seeds 1 --from {seed}");
        }
        tasks += report.tasks;
        succeeded += report.succeeded;
        deep += report.deep;
        replaced += report.replaced;
    }
    assert!(tasks > 0, "some work was done");
    assert!(succeeded > 0, "places were handed on");
    assert!(deep > 0, "several were told ahead for one place");
    assert!(replaced > 0, "agents were not heard of for long");
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in 1..=5 {
        let runs: [Report; 2] = [(); 2].map(|()| sim::run(Options::new(seed)));
        assert_eq!(runs[0], runs[1], "seed {seed}");
    }
    let other = sim::run(Options::new(6)).trace;
    assert_ne!(sim::run(Options::new(7)).trace, other);
}

#[test]
fn disks_that_lie_about_their_syncs_are_found_out() {
    let violations = violations_of(Sabotage::SyncNothing);
    let found = |words: &str| violations.iter().any(|violation| violation.contains(words));
    assert!(
        found("was synced"),
        "the note of what was synced: {violations:?}"
    );
}

#[test]
fn states_that_differ_are_found_out() {
    let violations = violations_of(Sabotage::ChangeEntries);
    let found = |words: &str| violations.iter().any(|violation| violation.contains(words));
    assert!(found("another state than others"), "{violations:?}");
}

#[test]
fn tasks_that_run_twice_are_found_out() {
    let violations = violations_of(Sabotage::ForgetJournal);
    let found = |words: &str| violations.iter().any(|violation| violation.contains(words));
    assert!(found("is started twice"), "{violations:?}");
}

#[test]
fn tasks_that_run_on_after_their_time_are_found_out() {
    let violations = violations_of(Sabotage::StopNothing);
    let found = |words: &str| violations.iter().any(|violation| violation.contains(words));
    assert!(found("counts as gone, and runs"), "{violations:?}");
}

fn violations_of(sabotage: Sabotage) -> Vec<String> {
    let runs = (1..=ENOUGH).map(|seed| {
        sim::run(Options {
            sabotage: Some(sabotage),
            ..Options::new(seed)
        })
    });
    runs.filter_map(|report| report.violation).collect()
}
