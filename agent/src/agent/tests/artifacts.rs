//! Artifacts that come, and go when no task needs them.

use super::*;
use tepui_types::wasm::{Stdin, WasmOptions};

use crate::agent::artifacts::Artifact;

impl Agent {
    /// Those wait for an artifact that have not been given to a process.
    pub(super) fn assert_waiting(&self) {
        let artifacts = self.artifacts.values();
        let waiting = artifacts.flat_map(|artifact| match artifact {
            Artifact::Fetching(waiting) | Artifact::Removing(waiting) => waiting.iter().collect(),
            Artifact::Present => Vec::new(),
        });
        let waiting: BTreeSet<_> = waiting.collect();
        let fetching = self.tasks.iter();
        let fetching = fetching.filter(|(_, task)| task.stage == Stage::Fetching);
        let fetching = fetching.map(|(id, _)| id);
        // Those are prepared.
        let fetching = fetching.filter(|id| !self.is_to_be_prepared(id));
        assert_eq!(waiting, fetching.collect());
    }
}

impl Bench {
    /// The files of two artifacts have a byte too many.
    pub(super) fn excess(&mut self) -> Vec<Action> {
        let files = [&b"program"[..], b"other"].map(|bytes| (Digest::of(bytes), 1));
        self.on(|agent, out| agent.on_excess(out, files.to_vec(), 1))
    }

    pub(super) fn removed(&mut self) -> Vec<Action> {
        self.on(|agent, out| agent.on_removed(out, Digest::of(b"program")))
    }
}

#[test]
fn artifacts_go_from_the_first_on_until_enough_have_gone() {
    let mut bench = Bench::new();
    let digests = [b"a", b"b", b"c"].map(|bytes| Digest::of(bytes));
    let files = digests.map(|digest| (digest, 10)).to_vec();
    let mut excess = |bytes| bench.on(|agent, out| agent.on_excess(out, files.clone(), bytes));
    assert_eq!(excess(11), [digests[0], digests[1]].map(Action::Remove));
    assert_eq!(excess(1), [Action::Remove(digests[2])], "two are going");
    assert_eq!(excess(1), []);
}

#[test]
fn an_artifact_stays_while_a_task_needs_it_also_after_a_restart() {
    let mut bench = Bench::new();
    let (program, other) = (Digest::of(b"program"), Digest::of(b"other"));
    bench.launch(wasm("a"));
    assert_eq!(bench.excess(), [Action::Remove(other)], "one is fetched");
    bench.on(|agent, out| agent.on_removed(out, other));
    bench.fetched();
    bench.attach(0, vec![]);
    assert_eq!(bench.excess(), [Action::Remove(other)], "one is run");
    bench.restart();
    assert_eq!(bench.excess(), [Action::Remove(other)], "one is still run");
    bench.attach(0, vec![update("a", TaskState::Finished)]);
    assert_eq!(bench.excess(), [Action::Remove(program)]);
}

#[test]
fn a_task_that_comes_during_a_removal_has_its_artifact_fetched_again() {
    let mut bench = Bench::new();
    let program = Digest::of(b"program");
    bench.launch(wasm("a"));
    bench.fetched();
    bench.kill("a");
    assert_eq!(bench.excess(), [Action::Remove(program)]);
    assert_eq!(bench.launch(wasm("b")), []);
    assert_eq!(bench.launch(wasm("c")), []);
    bench.kill("b");
    assert_eq!(bench.removed(), [Action::Fetch(program)]);
    let placed = bench.fetched();
    assert_eq!(placed, [], "there is a process: {placed:?}");
    let launched = bench.attach(0, vec![]);
    assert!(is_launch_of(&launched[0], "c"), "{launched:?}");
    assert_eq!(launched.len(), 1);
}

#[test]
fn an_artifact_that_went_is_fetched_for_the_next_task() {
    let mut bench = Bench::new();
    let program = Digest::of(b"program");
    assert_eq!(bench.excess(), [Action::Remove(program)]);
    assert_eq!(bench.removed(), []);
    assert_eq!(bench.launch(wasm("a")), [Action::Fetch(program)]);
}

#[test]
fn artifact_that_cannot_be_had_ends_its_tasks() {
    let mut bench = Bench::new();
    bench.launch(wasm("a"));
    let why = Reason::new(reason::ARTIFACT_UNKNOWN, "the master has none");
    let digest = Digest::of(b"program");
    let out = bench.on(|agent, out| agent.on_fetched(out, digest, Err(why.clone())));
    assert_eq!(out, [Action::Ended(id("a"), TaskState::Error)]);
    assert_eq!(bench.agent.hello_tasks()[0].reason, Some(why));
    let out = bench.launch(wasm("b"));
    assert_eq!(out, [Action::Fetch(digest)], "the next task tries again");
}

#[test]
fn a_program_waits_for_what_it_reads_as_well() {
    let mut bench = Bench::new();
    let mut task = wasm("a");
    let input = Digest::of(b"input");
    let Workload::Wasm(program) = &mut Arc::make_mut(&mut task.spec).workload else {
        panic!("not wasm")
    };
    program.options = Some(Box::new(WasmOptions {
        stdin: Some(Stdin::Artifact(input)),
        ..WasmOptions::default()
    }));
    let fetches = bench.launch(task);
    assert_eq!(fetches, [Digest::of(b"program"), input].map(Action::Fetch));
    assert_eq!(bench.fetched(), []);
    let placed = bench.on(|agent, out| agent.on_fetched(out, input, Ok(())));
    assert!(matches!(placed[..], [Action::Start(..)]), "{placed:?}");
    let launched = bench.attach(0, vec![]);
    let [Action::Send(_, ToExecutor::Launch(launch))] = &launched[..] else {
        panic!("{launched:?}")
    };
    assert!(launch.stdin.as_ref().unwrap().ends_with(&input.hex()));
}
