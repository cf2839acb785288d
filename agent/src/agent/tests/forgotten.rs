//! Tasks of which only the id is known any more.

use super::*;

#[test]
fn a_log_that_has_lost_the_end_of_a_task_is_told_that_it_is_gone() {
    let mut bench = Bench::new();
    bench.launch(native("a"));
    bench.attach(0, vec![]);
    bench.update(0, "a", TaskState::Finished);
    bench.statuses();
    bench.recorded("a", TaskState::Finished);
    // Also by an agent that has started anew.
    bench.restart();
    assert!(bench.launch(native("a")).is_empty(), "it never runs again");
    let reports = bench.take_statuses();
    let why = reports[0].reason.as_ref().map(|why| why.code.as_str());
    assert_eq!(
        (reports[0].state, why),
        (TaskState::Gone, Some(reason::AGENT_FORGOT))
    );
    assert!(bench.launch(native("a")).is_empty());
    assert!(bench.take_statuses().is_empty(), "said once");
    bench.on(|agent, out| agent.on_registered(out, 1).unwrap());
    assert_eq!(
        bench.take_statuses().len(),
        1,
        "and again to the next leader"
    );
    bench.recorded("a", TaskState::Gone);
    bench.on(|agent, out| agent.on_registered(out, 1).unwrap());
    assert!(bench.take_statuses().is_empty(), "until the log has it");
}
