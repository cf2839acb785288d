//! The state machine, one rule a test.

use tepui_sdk::{AgentId, TaskId, TaskStatus, Timestamp};

use super::*;

const NOW: u64 = 1_000_000;

fn job(count: u32, max_restarts: u32) -> Job {
    Job::new(Terms {
        sequence: 0,
        user: "ann".into(),
        request: ResourceRequest::default(),
        count,
        max_restarts,
        priority: 0,
        spec_bytes: 0,
        key: None,
        gang: false,
        gang_wait_ms: None,
        time_limit_ms: None,
        role: None,
        volumes: Vec::new(),
        revocable: false,
        constraints: Default::default(),
    })
}

fn task(attempt: u64, state: TaskState) -> Task {
    Task {
        id: TaskId {
            name: "x".into(),
            attempt,
        },
        agent: AgentId(1),
        status: TaskStatus {
            code: state.to_string(),
            class: state.into(),
            reason: Some(Reason::new("why", state.to_string())),
            exit_code: None,
            signs: Default::default(),
            held_ms: None,
            time: Timestamp(NOW),
        },
    }
}

/// The counters must add up after every step.
fn check(job: &Job) {
    let progress = &job.progress;
    let ended = progress.finished + progress.failed + progress.killed;
    assert_eq!(progress.fresh, ended + progress.active + progress.retrying);
    assert_eq!(job.tasks.active(), progress.active as usize);
    assert_eq!(job.tasks.waiting(), progress.retrying as usize);
}

fn update(job: &mut Job, index: u32, attempt: u64, state: TaskState, now: u64) -> bool {
    let changed = job.on_update(index, &task(attempt, state), now);
    check(job);
    changed
}

#[test]
fn an_end_counts_once_and_only_for_its_attempt() {
    let mut job = job(3, 0);
    (0..3).for_each(|index| job.launched(index, 10 + u64::from(index)));
    assert!(
        !update(&mut job, 1, 10, TaskState::Finished, NOW),
        "another task's attempt"
    );
    assert!(update(&mut job, 1, 11, TaskState::Finished, NOW));
    assert!(
        !update(&mut job, 1, 11, TaskState::Finished, NOW),
        "a second time"
    );
    assert!(
        !update(&mut job, 1, 11, TaskState::Failed, NOW),
        "after the end"
    );
    assert_eq!(job.progress.finished, 1);
    assert_eq!(job.progress.state(3), JobState::Running);
    update(&mut job, 0, 10, TaskState::Finished, NOW);
    update(&mut job, 2, 12, TaskState::Finished, NOW);
    assert_eq!(job.progress.state(3), JobState::Finished);
    assert!(job.is_ended() && job.tasks.is_empty());
}

#[test]
fn failures_wait_longer_each_time_until_there_were_enough() {
    let mut job = job(1, 3);
    let mut now = NOW;
    for (attempt, wait) in [(0, 1_000), (1, 2_000), (2, 4_000)] {
        assert_eq!(job.candidates(now, 10), [0]);
        job.launched(0, attempt);
        update(&mut job, 0, attempt, TaskState::Failed, now);
        assert_eq!(job.placeable(now), 0);
        assert_eq!(job.tasks.next_due(now), Some(now + wait));
        now += wait;
        assert_eq!(job.placeable(now), 1);
    }
    job.launched(0, 3);
    update(&mut job, 0, 3, TaskState::Failed, now);
    assert_eq!(job.progress.state(1), JobState::Failed);
    assert_eq!(job.progress.restarts, 3);
    assert_eq!(job.progress.reason, Some(Reason::new("why", "failed")));
}

#[test]
fn the_wait_grows_to_five_minutes_and_stops() {
    assert_eq!(backoff_ms(1), 1_000);
    assert_eq!(backoff_ms(9), 256_000);
    assert_eq!(backoff_ms(10), BACKOFF_MOST_MS);
    assert_eq!(backoff_ms(u32::MAX), BACKOFF_MOST_MS);
}

#[test]
fn a_lost_task_is_run_again_without_blame() {
    let mut job = job(1, 0);
    job.launched(0, 0);
    update(&mut job, 0, 0, TaskState::Gone, NOW);
    assert_eq!(job.placeable(NOW), 1, "the first loss costs no time");
    job.launched(0, 1);
    update(&mut job, 0, 1, TaskState::Dropped, NOW);
    assert_eq!(
        job.tasks.next_due(NOW),
        Some(NOW + 1_000),
        "the second in a row does"
    );
    job.launched(0, 2);
    update(&mut job, 0, 2, TaskState::Finished, NOW);
    assert_eq!(job.progress.state(1), JobState::Finished);
    assert_eq!(job.progress.restarts, 0);
}

#[test]
fn what_no_attempt_can_mend_fails_at_once() {
    for (state, code) in [
        (TaskState::Dropped, reason::ARTIFACT_UNKNOWN),
        (TaskState::Error, reason::WASM_INVALID),
    ] {
        let mut job = job(1, 100);
        job.launched(0, 0);
        let mut task = task(0, state);
        task.status.reason = Some(Reason::new(code, "no"));
        assert!(job.on_update(0, &task, NOW));
        check(&job);
        assert_eq!(job.progress.state(1), JobState::Failed, "{code}");
    }
}

#[test]
fn a_task_that_someone_killed_is_not_run_again() {
    let mut job = job(2, 5);
    job.launched(0, 0);
    update(&mut job, 0, 0, TaskState::Killed, NOW);
    assert_eq!((job.progress.killed, job.placeable(NOW)), (1, 1));
    job.launched(1, 1);
    update(&mut job, 1, 1, TaskState::Finished, NOW);
    assert_eq!(job.progress.state(2), JobState::Killed);
}

#[test]
fn cancelling_counts_what_waits_and_leaves_what_runs_to_its_end() {
    let mut job = job(10, 5);
    (0..3).for_each(|index| job.launched(index, u64::from(index)));
    update(&mut job, 0, 0, TaskState::Failed, NOW);
    assert!(job.cancel("ann"));
    assert!(!job.cancel("bob"), "once");
    check(&job);
    assert_eq!((job.progress.killed, job.progress.active), (8, 2));
    assert_eq!(job.placeable(NOW + 1_000_000), 0);
    assert_eq!(job.progress.state(10), JobState::Killing);
    assert_eq!(job.tasks.not_killing().count(), 2);
    job.kill_sent(1);
    assert_eq!(job.tasks.not_killing().collect::<Vec<_>>(), [(2, 2)]);
    update(&mut job, 1, 1, TaskState::Killed, NOW);
    assert_eq!(job.progress.state(10), JobState::Killing);
    update(&mut job, 2, 2, TaskState::Gone, NOW);
    assert_eq!(job.progress.state(10), JobState::Killed);
    assert!(job.is_ended());
    assert_eq!((job.progress.killed, job.progress.failed), (10, 0));
}

#[test]
fn long_reasons_are_cut_where_a_character_ends() {
    let reason = short("x", &"é".repeat(1000));
    assert!(reason.message.len() < 300 && reason.message.ends_with("[…]"));
}
