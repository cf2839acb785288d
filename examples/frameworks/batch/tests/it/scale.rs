//! Large arrays and many jobs within the limits of turns and of the store.

use std::collections::BTreeSet;

use tepui_batch::records::MAX_FILED;
use tepui_sdk::TaskState;
use tepui_types::api::job::JobState;

use crate::{both, end_all, machine, offer, problem, send, submit, view};

#[test]
fn a_thousand_tasks_are_launched_in_one_turn_and_counted_once() {
    both(|mut cluster| {
        for _ in 0..3 {
            cluster.agent(machine(40));
        }
        submit(&mut cluster, "many", r#""count": 1000"#);
        cluster.offer_all();
        let turn = cluster.turn();
        assert!(!turn.full);
        assert_eq!(cluster.tasks().len(), 1000);
        let keys = cluster.store().len();
        assert!(keys < 100, "{keys} keys");
        let names: Vec<String> = cluster.tasks().keys().cloned().collect();
        names
            .iter()
            .for_each(|name| cluster.update(name, TaskState::Running));
        cluster.settle();
        names
            .iter()
            .for_each(|name| cluster.update(name, TaskState::Finished));
        assert_eq!(cluster.settle(), 1);
        let view = view(&mut cluster, "many");
        assert_eq!((view.state, view.finished), (JobState::Finished, 1000));
        assert_eq!(cluster.store().len(), 3);
    });
}

#[test]
fn a_hundred_thousand_tasks_fit() {
    let mut cluster = tepui_sdk::testing::Cluster::<tepui_batch::Batch>::deploy("");
    for _ in 0..10 {
        cluster.agent(machine(1001));
    }
    submit(
        &mut cluster,
        "many",
        r#""count": 100000, "max_restarts": 1"#,
    );
    while cluster.tasks().len() < 100_000 {
        let before = cluster.tasks().len();
        offer(&mut cluster);
        assert!(cluster.tasks().len() > before);
    }
    let bytes: usize = cluster
        .store()
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    assert!(bytes < 4 * 1024 * 1024, "{bytes} bytes");
    cluster.restart();
    assert_eq!(view(&mut cluster, "many").active, 100_000);
    let names: Vec<String> = cluster.tasks().keys().cloned().collect();
    // The most updates that a turn is shown, spread over as many chunks.
    for start in 0..50 {
        names.iter().skip(start).step_by(50).for_each(|name| {
            let state = if start == 0 {
                TaskState::Failed
            } else {
                TaskState::Finished
            };
            cluster.update(name, state);
        });
        cluster.settle();
    }
    let running = view(&mut cluster, "many");
    assert_eq!(
        (running.finished, running.waiting, running.active),
        (98_000, 2_000, 0)
    );
    send(&mut cluster, "DELETE", "/jobs/many", "");
    let ended = view(&mut cluster, "many");
    assert_eq!((ended.state, ended.killed), (JobState::Killed, 2_000));
    assert_eq!(cluster.store().len(), 3);
}

#[test]
fn more_kills_than_a_turn_takes_go_on_in_the_next() {
    both(|mut cluster| {
        cluster.agent(machine(500));
        submit(&mut cluster, "many", r#""count": 5000"#);
        while cluster.tasks().len() < 5000 {
            offer(&mut cluster);
        }
        send(&mut cluster, "DELETE", "/jobs/many", "");
        while cluster.timer("continue").is_some() {
            cluster.advance(std::time::Duration::ZERO);
            cluster.settle();
        }
        assert!(cluster.tasks().values().all(|task| task.kill_requested));
        end_all(&mut cluster, TaskState::Killed);
        let view = view(&mut cluster, "many");
        assert_eq!((view.killed, view.active), (5000, 0));
    });
}

#[test]
fn hundreds_of_jobs_with_large_descriptions_are_placed_over_several_turns() {
    both(|mut cluster| {
        cluster.agent(machine(100));
        let label = "x".repeat(50_000);
        for number in 0..60 {
            submit(
                &mut cluster,
                &format!("big-{number}"),
                &format!(r#""labels": {{"l": "{label}"}}"#),
            );
        }
        let mut turns = 0;
        while cluster.tasks().len() < 60 {
            offer(&mut cluster);
            turns += 1;
            assert!(turns < 30);
        }
        assert!(turns > 1);
        end_all(&mut cluster, TaskState::Finished);
        cluster.advance(std::time::Duration::ZERO);
        cluster.settle();
        let names: BTreeSet<&str> = cluster
            .store()
            .keys()
            .filter_map(|key| key.strip_prefix("spec/").or(key.strip_prefix("run/")))
            .collect();
        assert!(names.is_empty(), "all are filed: {names:?}");
    });
}

#[test]
fn an_array_with_a_large_description_is_launched_over_several_turns() {
    both(|mut cluster| {
        cluster.agent(machine(100));
        let label = "x".repeat(60_000);
        let labels = format!(r#""labels": {{"l": "{label}"}}, "count": 50"#);
        submit(&mut cluster, "many", &labels);
        while cluster.tasks().len() < 50 {
            let before = cluster.tasks().len();
            offer(&mut cluster);
            assert!(cluster.tasks().len() > before);
        }
        end_all(&mut cluster, TaskState::Finished);
        assert_eq!(view(&mut cluster, "many").finished, 50);
    });
}

#[test]
fn what_the_store_has_no_room_for_is_refused() {
    both(|mut cluster| {
        let label = "x".repeat(60_000);
        let body = format!(
            r#"{{"workload": {{"command": {{"argv": ["true"]}}}}, "labels": {{"l": "{label}"}}}}"#
        );
        let mut taken = 0;
        let refused = loop {
            let response = send(&mut cluster, "POST", "/jobs", &body);
            if response.status != 201 {
                break response;
            }
            taken += 1;
            assert!(taken < 1_000);
        };
        assert_eq!(refused.status, 503);
        assert_eq!(problem(&refused)["code"], "too-many-jobs");
        assert!(
            refused
                .headers
                .iter()
                .any(|(name, _)| name == "retry-after")
        );
    });
}

#[test]
fn the_oldest_filed_jobs_are_forgotten_in_order() {
    let mut cluster = tepui_sdk::testing::Cluster::<tepui_batch::Batch>::deploy("");
    let extra = 5;
    for number in 0..MAX_FILED + extra {
        submit(&mut cluster, &format!("n{number}"), "");
        send(&mut cluster, "DELETE", &format!("/jobs/n{number}"), "");
    }
    for number in 0..extra {
        let forgotten = send(&mut cluster, "GET", &format!("/jobs/n{number}"), "");
        assert_eq!(forgotten.status, 404, "n{number}");
    }
    assert_eq!(
        view(&mut cluster, &format!("n{extra}")).state,
        JobState::Killed
    );
    assert_eq!(cluster.store().len() as u64, 2 * MAX_FILED + 1);
    submit(&mut cluster, "n0", "");
}
