//! Jobs from their submission to their end.

use std::time::Duration;

use tepui_sdk::testing::Call;
use tepui_sdk::testing::Cluster;
use tepui_sdk::{Reason, TaskState};
use tepui_types::Workload;
use tepui_types::api::job::JobState;

use crate::{both, end_all, machine, offer, send, submit, view};

#[test]
fn a_task_runs_and_its_end_is_counted() {
    both(|mut cluster| {
        cluster.agent(machine(2));
        submit(&mut cluster, "hello", r#""labels": {"team": "red"}"#);
        offer(&mut cluster);
        assert_eq!(cluster.demand("hello"), 0);
        let task = cluster.tasks()["hello"].clone();
        assert_eq!(task.array_index, None);
        assert_eq!(
            task.spec.user, "ann",
            "who asked is part of the trust domain"
        );
        assert_eq!(task.spec.labels["team"], "red");
        assert!(matches!(task.spec.workload, Workload::Command(_)));

        cluster.update("hello", TaskState::Running);
        cluster.settle();
        let running = view(&mut cluster, "hello");
        assert_eq!((running.state, running.active), (JobState::Running, 1));
        let task = running.task.unwrap();
        assert_eq!(task.id.to_string(), "f1.hello.0");
        assert_eq!(task.state, TaskState::Running);

        cluster.update_with("hello", TaskState::Finished, None, Some(0));
        cluster.settle();
        let ended = view(&mut cluster, "hello");
        assert_eq!(
            (ended.state, ended.finished, ended.reason),
            (JobState::Finished, 1, None)
        );
        assert_eq!(ended.task.unwrap().exit_code, Some(0));
        let kinds = cluster
            .store()
            .keys()
            .map(|key| key.split('/').next().unwrap());
        assert_eq!(
            kinds.collect::<Vec<_>>(),
            ["end", "job", "meta"],
            "the rest is cleaned up"
        );
    });
}

#[test]
fn arrays_have_names_and_numbers_and_run_as_room_comes() {
    both(|mut cluster| {
        cluster.agent(machine(1));
        submit(&mut cluster, "many", r#""count": 25"#);
        assert_eq!(cluster.demand("many"), 25);
        offer(&mut cluster);
        assert_eq!(cluster.tasks().len(), 10, "a tenth of a processor each");
        assert_eq!(cluster.demand("many"), 15);
        assert_eq!(cluster.tasks()["many-7"].array_index, Some(7));
        let running = view(&mut cluster, "many");
        assert_eq!((running.waiting, running.active), (15, 10));
        let reason = running.reason.unwrap();
        assert_eq!(reason.code, "waiting-for-resources");
        assert_eq!(reason.message, "short of cpus on 1 of 1 agents");
        let mut ended = 0;
        while ended < 25 {
            ended += end_all(&mut cluster, TaskState::Finished);
            offer(&mut cluster);
        }
        let view = view(&mut cluster, "many");
        assert_eq!((view.state, view.finished), (JobState::Finished, 25));
    });
}

#[test]
fn short_tasks_are_launched_ahead_once_it_is_known_that_they_are() {
    // An instance that is new does not know yet.
    let mut cluster = Cluster::deploy("");
    cluster.agent(machine(1));
    submit(&mut cluster, "many", r#""count": 200"#);
    offer(&mut cluster);
    assert_eq!(cluster.tasks().len(), 10, "nothing is known of them");
    cluster.advance(Duration::from_millis(5));
    end_all(&mut cluster, TaskState::Finished);
    offer(&mut cluster);
    let tasks = cluster.tasks();
    let in_line = tasks.values().filter(|task| task.after.is_some());
    assert_eq!((tasks.len(), in_line.count()), (110, 100));
    assert!(cluster.tasks()["many-25"].resources == cluster.tasks()["many-15"].resources);
    end_all(&mut cluster, TaskState::Finished);
    offer(&mut cluster);
    while !cluster.tasks().is_empty() {
        end_all(&mut cluster, TaskState::Finished);
        offer(&mut cluster);
    }
    let view = view(&mut cluster, "many");
    assert_eq!((view.state, view.finished), (JobState::Finished, 200));
}

#[test]
fn long_tasks_are_not_launched_ahead() {
    both(|mut cluster| {
        cluster.agent(machine(1));
        submit(&mut cluster, "many", r#""count": 200"#);
        offer(&mut cluster);
        cluster.advance(Duration::from_secs(60));
        end_all(&mut cluster, TaskState::Finished);
        offer(&mut cluster);
        assert_eq!(cluster.tasks().len(), 10);
    });
}

#[test]
fn failed_tasks_are_run_again_after_growing_waits() {
    both(|mut cluster| {
        cluster.agent(machine(1));
        submit(&mut cluster, "flaky", r#""max_restarts": 2"#);
        for wait in [1, 2] {
            offer(&mut cluster);
            cluster.fail("flaky", 7);
            cluster.settle();
            assert_eq!(cluster.demand("flaky"), 0);
            assert_eq!(
                cluster.timer("retry/flaky"),
                Some(Duration::from_secs(wait))
            );
            let waiting = view(&mut cluster, "flaky");
            assert_eq!((waiting.state, waiting.waiting), (JobState::Running, 1));
            cluster.advance(Duration::from_secs(wait));
            cluster.settle();
            assert_eq!(cluster.demand("flaky"), 1);
        }
        offer(&mut cluster);
        cluster.fail("flaky", 7);
        cluster.settle();
        let failed = view(&mut cluster, "flaky");
        assert_eq!(
            (failed.state, failed.failed, failed.restarts),
            (JobState::Failed, 1, 2)
        );
        assert_eq!(
            failed.reason,
            Some(Reason::new("exit-code", "exited with code 7"))
        );
        assert_eq!(failed.task.unwrap().exit_code, Some(7));
        assert_eq!(cluster.demands().len(), 0);
    });
}

#[test]
fn tasks_that_fail_at_different_times_come_back_at_theirs() {
    both(|mut cluster| {
        cluster.agent(machine(1));
        submit(&mut cluster, "flaky", r#""max_restarts": 1, "count": 3"#);
        offer(&mut cluster);
        for index in 0..3 {
            cluster.fail(&format!("flaky-{index}"), 1);
            cluster.settle();
            cluster.advance(Duration::from_millis(300));
            cluster.settle();
        }
        for ready in 1..=3 {
            let timer = cluster.timer("retry/flaky").unwrap();
            cluster.advance(timer);
            cluster.settle();
            assert_eq!(cluster.demand("flaky"), ready);
        }
        assert_eq!(cluster.timer("retry/flaky"), None);
        offer(&mut cluster);
        assert_eq!(cluster.tasks().len(), 3);
    });
}

#[test]
fn a_lost_task_is_run_again_at_once_and_without_blame() {
    both(|mut cluster| {
        cluster.agent(machine(1));
        submit(&mut cluster, "one", "");
        offer(&mut cluster);
        cluster.update("one", TaskState::Gone);
        cluster.settle();
        assert_eq!(cluster.demand("one"), 1);
        offer(&mut cluster);
        assert_eq!(cluster.task_id("one").unwrap().attempt, 1);
        end_all(&mut cluster, TaskState::Finished);
        let view = view(&mut cluster, "one");
        assert_eq!(
            (view.state, view.failed, view.restarts),
            (JobState::Finished, 0, 0)
        );
    });
}

#[test]
fn an_unknown_artifact_fails_the_job_and_says_so() {
    both(|mut cluster| {
        cluster.agent(machine(1));
        submit(&mut cluster, "one", r#""max_restarts": 9"#);
        offer(&mut cluster);
        let why = Reason::new("artifact-unknown", "artifact sha256:… is not known");
        cluster.update_with("one", TaskState::Dropped, Some(why.clone()), None);
        cluster.settle();
        let view = view(&mut cluster, "one");
        assert_eq!((view.state, view.reason), (JobState::Failed, Some(why)));
    });
}

#[test]
fn ending_a_job_kills_what_runs_and_cancels_what_waits() {
    both(|mut cluster| {
        cluster.agent(machine(1));
        submit(&mut cluster, "many", r#""count": 25"#);
        offer(&mut cluster);
        let response = send(&mut cluster, "DELETE", "/jobs/many", "");
        assert_eq!(response.status, 200);
        let killed = view(&mut cluster, "many");
        assert_eq!(
            (killed.state, killed.killed, killed.active),
            (JobState::Killing, 15, 10)
        );
        assert_eq!(killed.reason.unwrap().message, "ended on request of ann");
        assert_eq!(cluster.demand("many"), 0);
        assert!(cluster.tasks().values().all(|task| task.kill_requested));
        cluster.update("many-0", TaskState::Finished);
        end_all(&mut cluster, TaskState::Killed);
        let ended = view(&mut cluster, "many");
        assert_eq!(
            (ended.state, ended.killed, ended.finished),
            (JobState::Killed, 24, 1)
        );
        assert_eq!(
            send(&mut cluster, "DELETE", "/jobs/many", "").status,
            200,
            "again is fine"
        );
        assert!(cluster.tasks().is_empty());
    });
}

#[test]
fn a_waiting_job_is_ended_at_once() {
    both(|mut cluster| {
        submit(&mut cluster, "one", "");
        send(&mut cluster, "DELETE", "/jobs/one", "");
        assert_eq!(view(&mut cluster, "one").state, JobState::Killed);
        assert!(cluster.demands().is_empty());
        assert!(!cluster.store().contains_key("run/one"));
    });
}

#[test]
fn a_task_that_an_operator_kills_is_not_run_again() {
    both(|mut cluster| {
        cluster.agent(machine(1));
        submit(&mut cluster, "one", r#""max_restarts": 9"#);
        offer(&mut cluster);
        end_all(&mut cluster, TaskState::Killed);
        let view = view(&mut cluster, "one");
        assert_eq!((view.state, view.killed), (JobState::Killed, 1));
    });
}

#[test]
fn higher_priority_goes_first_and_then_age() {
    both(|mut cluster| {
        cluster.agent(machine(1));
        let one = r#""resources": {"cpus_milli": 1000}"#;
        submit(&mut cluster, "old", one);
        submit(&mut cluster, "young", one);
        submit(&mut cluster, "urgent", &format!(r#"{one}, "priority": 5"#));
        submit(
            &mut cluster,
            "huge",
            r#""resources": {"cpus_milli": 9000}, "priority": 9"#,
        );
        let mut order = Vec::new();
        for _ in 0..3 {
            offer(&mut cluster);
            order.extend(cluster.tasks().keys().cloned());
            end_all(&mut cluster, TaskState::Finished);
        }
        assert_eq!(order, ["urgent", "old", "young"]);
        let huge = view(&mut cluster, "huge");
        assert_eq!(
            huge.reason.unwrap().message,
            "short of cpus on 1 of 1 agents"
        );
    });
}

#[test]
fn a_turn_that_is_not_committed_is_taken_again_and_counts_once() {
    both(|mut cluster| {
        cluster.agent(machine(10));
        submit(&mut cluster, "many", r#""count": 5"#);
        offer(&mut cluster);
        let names: Vec<String> = cluster.tasks().keys().cloned().collect();
        names
            .iter()
            .for_each(|name| cluster.update(name, TaskState::Finished));
        cluster.fail_next_commit();
        cluster.turn();
        assert_eq!(view(&mut cluster, "many").finished, 0);
        cluster.settle();
        assert_eq!(view(&mut cluster, "many").finished, 5);
    });
}

#[test]
fn an_update_that_comes_twice_counts_once() {
    both(|mut cluster| {
        cluster.agent(machine(10));
        submit(&mut cluster, "many", r#""count": 2"#);
        offer(&mut cluster);
        cluster.update("many-0", TaskState::Finished);
        let mut again = cluster.tasks()["many-1"].task.clone();
        cluster.update("many-1", TaskState::Running);
        cluster.settle();
        again.status.code = "finished".into();
        again.status.class = tepui_sdk::TaskClass::Succeeded;
        again.id.name = "many-0".into();
        cluster.send_update(again);
        cluster.settle();
        let view = view(&mut cluster, "many");
        assert_eq!((view.finished, view.active), (1, 1));
    });
}

#[test]
fn offers_that_nobody_needs_are_given_back() {
    both(|mut cluster| {
        let agent = cluster.agent(machine(1));
        let offer = cluster.offer(agent);
        let turn = cluster.turn();
        assert_eq!(
            turn.calls,
            [Call::Decline {
                offers: vec![offer],
                refuse_ms: None
            }]
        );
        submit(&mut cluster, "one", "");
        let offer = cluster.offer(agent);
        let turn = cluster.turn();
        let given_back = Call::Decline {
            offers: vec![offer],
            refuse_ms: Some(0),
        };
        assert!(
            turn.calls.contains(&given_back),
            "the rest may be wanted by the next job"
        );
    });
}

#[test]
fn a_rescinded_offer_is_not_used() {
    both(|mut cluster| {
        let agent = cluster.agent(machine(1));
        submit(&mut cluster, "one", "");
        let offer = cluster.offer(agent);
        cluster.rescind(offer);
        cluster.turn();
        assert!(cluster.tasks().is_empty());
        assert_eq!(cluster.demand("one"), 1);
    });
}

#[test]
fn a_job_with_constraints_runs_only_where_they_hold() {
    both(|mut cluster| {
        let (here, there) = (cluster.agent(machine(4)), cluster.agent(machine(4)));
        cluster.attribute(here, "zone", "here");
        cluster.attribute(there, "zone", "there");
        let there_only = r#""count": 2, "constraints": [[
            {"attribute": "zone", "test": {"equals": "there"}}]]"#;
        submit(&mut cluster, "picky", there_only);
        submit(&mut cluster, "other", r#""count": 1"#);
        offer(&mut cluster);
        let of = |agent| {
            let tasks = cluster.tasks().values();
            tasks.filter(|running| running.task.agent == agent).count()
        };
        assert_eq!((of(here), of(there)), (1, 2));
    });
}
