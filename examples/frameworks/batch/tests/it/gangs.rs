//! Jobs whose tasks start together.

use tepui_sdk::TaskState;
use tepui_sdk::testing::Call;
use tepui_types::api::job::JobState;

use crate::{both, job_body, machine, problem, send, submit, view};

const THREE: &str =
    r#""count": 3, "gang": true, "gang_wait_ms": 9000, "resources": {"cpus_milli": 2000}"#;

#[test]
fn a_gang_starts_when_all_of_it_fits_and_not_before() {
    both(|mut cluster| {
        cluster.agent(machine(4));
        submit(&mut cluster, "mpi", THREE);
        assert_eq!(cluster.demand("mpi"), 0, "nothing is wanted one by one");
        assert_eq!(cluster.gang("mpi").unwrap().wait_ms, Some(9000));
        assert_eq!((cluster.offer_all(), cluster.offer_gangs()), (0, 0));
        cluster.agent(machine(2));
        assert_eq!(cluster.offer_gangs(), 2);
        let turn = cluster.turn();
        let launches = turn.calls.iter();
        let gangs = launches.filter(|call| matches!(call, Call::LaunchGang { .. }));
        assert_eq!(gangs.count(), 1, "{:?}", turn.calls);
        let names: Vec<_> = cluster.tasks().keys().cloned().collect();
        assert_eq!(names, ["mpi-0", "mpi-1", "mpi-2"]);
        assert_eq!(cluster.gang("mpi"), None, "it is had");
        for name in names {
            cluster.update(&name, TaskState::Finished);
        }
        cluster.settle();
        assert_eq!(view(&mut cluster, "mpi").state, JobState::Finished);
    });
}

#[test]
fn a_gang_that_was_dropped_is_wanted_again_whole() {
    both(|mut cluster| {
        cluster.agent(machine(6));
        submit(&mut cluster, "mpi", THREE);
        cluster.offer_gangs();
        cluster.turn();
        for task in 0..3 {
            cluster.update(&format!("mpi-{task}"), TaskState::Dropped);
        }
        cluster.settle();
        let waiting = view(&mut cluster, "mpi");
        assert_eq!((waiting.waiting, waiting.active), (3, 0));
        assert!(cluster.gang("mpi").is_some());
        cluster.offer_gangs();
        cluster.turn();
        assert_eq!(cluster.tasks().len(), 3);
    });
}

#[test]
fn what_is_lost_of_a_running_gang_is_run_again_by_itself() {
    both(|mut cluster| {
        cluster.agent(machine(6));
        submit(&mut cluster, "mpi", THREE);
        cluster.offer_gangs();
        cluster.turn();
        cluster.update("mpi-1", TaskState::Gone);
        cluster.settle();
        assert_eq!((cluster.demand("mpi"), cluster.gang("mpi")), (1, None));
        cluster.offer_all();
        cluster.settle();
        assert_eq!(cluster.tasks().len(), 3);
    });
}

#[test]
fn a_gang_that_is_given_up_fails_and_says_why() {
    both(|mut cluster| {
        submit(&mut cluster, "mpi", THREE);
        cluster.give_up_gang("mpi");
        cluster.settle();
        let job = view(&mut cluster, "mpi");
        assert_eq!((job.state, job.failed), (JobState::Failed, 3));
        assert_eq!(job.reason.unwrap().code, "gang-overdue");
    });
}

#[test]
fn a_gang_that_is_cancelled_is_wanted_no_more() {
    both(|mut cluster| {
        submit(&mut cluster, "mpi", THREE);
        send(&mut cluster, "DELETE", "/jobs/mpi", "");
        cluster.settle();
        assert_eq!(cluster.gang("mpi"), None);
        assert_eq!(view(&mut cluster, "mpi").state, JobState::Killed);
    });
}

#[test]
fn gangs_that_cannot_be_are_refused() {
    both(|mut cluster| {
        for (more, why) in [
            (r#""count": 1001, "gang": true"#, "1000 together"),
            (r#""gang": true, "gang_wait_ms": 0"#, "waits for 0 ms"),
            (r#""gang_wait_ms": 5"#, "set gang"),
        ] {
            let response = send(&mut cluster, "POST", "/jobs", &job_body("g", more));
            assert_eq!(response.status, 422, "{more}");
            let detail = problem(&response)["detail"].to_string();
            assert!(detail.contains(why), "{detail}");
        }
    });
}
