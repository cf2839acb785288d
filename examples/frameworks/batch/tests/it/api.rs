//! Requests and answers.

use tepui_sdk::{Digest, TaskState};
use tepui_types::api::job::{JobState, JobView, MAX_COUNT};

use crate::{both, end_all, job_body, machine, offer, problem, send, send_with_key, submit, view};

#[test]
fn a_job_is_answered_listed_and_shown() {
    both(|mut cluster| {
        let made = submit(&mut cluster, "hello", "");
        assert_eq!(
            (made.state, made.waiting, made.count),
            (JobState::Waiting, 1, 1)
        );
        assert_eq!(made.user, "ann");
        assert_eq!(view(&mut cluster, "hello").name, "hello");
        assert_eq!(cluster.demand("hello"), 1);
        let list = send(&mut cluster, "GET", "/jobs", "");
        let list: serde_json::Value = serde_json::from_slice(&list.body).unwrap();
        assert_eq!(list["items"][0]["name"], "hello");
        assert!(list["next"].is_null());
    });
}

#[test]
fn names_are_made_up_where_none_is_given() {
    both(|mut cluster| {
        let body = r#"{"workload": {"command": {"argv": ["true"]}}}"#;
        let mut names = Vec::new();
        for _ in 0..3 {
            let response = send(&mut cluster, "POST", "/jobs", body);
            assert_eq!(response.status, 201);
            let view: JobView = serde_json::from_slice(&response.body).unwrap();
            names.push(view.name);
        }
        assert_eq!(names, ["job-0", "job-1", "job-2"]);
    });
}

#[test]
fn bad_jobs_are_refused_with_what_would_mend_them() {
    let longest = "a".repeat(50);
    let too_long = "a".repeat(51);
    let cases: &[(String, u16, &str)] = &[
        ("{".into(), 400, "not well-formed JSON"),
        ("[]".into(), 422, "does not fit"),
        ("{}".into(), 422, "missing field `workload`"),
        (
            job_body("x", r#""colour": "red""#),
            422,
            "unknown field `colour`",
        ),
        (job_body("Not A Name", ""), 422, "is not a job's name"),
        (job_body(&too_long, ""), 422, "1 to 50 characters"),
        (job_body("x", r#""count": 0"#), 422, "ask for 1 to 100000"),
        (
            job_body("x", &format!(r#""count": {}"#, MAX_COUNT + 1)),
            422,
            "ask for 1 to 100000",
        ),
        (
            job_body("x", r#""priority": 1001"#),
            422,
            "from -1000 to 1000",
        ),
        (
            job_body("x", r#""resources": {}"#),
            422,
            "some cpus_milli or mem_bytes",
        ),
        (
            job_body("x", r#""resources": {"cpus_milli": 1, "gpus_milli": 1500}"#),
            422,
            "gpus_milli",
        ),
        (
            job_body("x", r#""kill_grace_ms": 999999999"#),
            422,
            "kill_grace_ms",
        ),
        (
            r#"{"workload": {"command": {"argv": []}}}"#.into(),
            422,
            "argv is empty",
        ),
        (
            r#"{"workload": {"wasm": {"artifact": "sha256:12"}}}"#.into(),
            422,
            "not a digest",
        ),
    ];
    both(|mut cluster| {
        for (body, status, says) in cases {
            let response = send(&mut cluster, "POST", "/jobs", body);
            let problem = problem(&response);
            assert_eq!(response.status, *status, "{body}");
            assert!(
                problem["detail"].as_str().unwrap().contains(says),
                "{body}: {problem}"
            );
        }
        assert!(
            cluster.store().is_empty(),
            "a refused job leaves nothing behind"
        );
        submit(&mut cluster, &longest, r#""count": 100000"#);
    });
}

#[test]
fn a_job_of_an_artifact_that_nobody_has_is_refused() {
    both(|mut cluster| {
        let missing = Digest::of(b"nobody has this");
        cluster.lacks_artifact(missing);
        let body =
            |digest: Digest| format!(r#"{{"workload": {{"wasm": {{"artifact": "{digest}"}}}}}}"#);
        let response = send(&mut cluster, "POST", "/jobs", &body(missing));
        let problem = problem(&response);
        assert_eq!(
            (response.status, problem["code"].as_str()),
            (422, Some("artifact-unknown"))
        );
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains(&missing.to_string())
        );
        let response = send(&mut cluster, "POST", "/jobs", &body(Digest::of(b"stored")));
        assert_eq!(response.status, 201);
    });
}

#[test]
fn unknown_places_and_methods_are_named() {
    both(|mut cluster| {
        for (method, path, status) in [
            ("GET", "/jobs/nobody", 404),
            ("DELETE", "/jobs/nobody", 404),
            ("GET", "/jobs/%2e%2e", 404),
            ("GET", "/nothing", 404),
            ("PUT", "/jobs", 405),
            ("POST", "/jobs/x", 405),
            ("GET", "/jobs?limit=0", 400),
            ("GET", "/jobs?limit=1001", 400),
            ("GET", "/jobs?colour=red", 400),
        ] {
            let response = send(&mut cluster, method, path, "");
            assert_eq!(problem(&response)["status"], status, "{method} {path}");
        }
        assert_eq!(send(&mut cluster, "GET", "/", "").status, 200);
    });
}

#[test]
fn a_taken_name_is_a_conflict_also_after_the_end() {
    both(|mut cluster| {
        cluster.agent(machine(1));
        submit(&mut cluster, "one", "");
        let body = job_body("one", "");
        let response = send(&mut cluster, "POST", "/jobs", &body);
        assert_eq!(response.status, 409);
        offer(&mut cluster);
        end_all(&mut cluster, TaskState::Finished);
        let response = send(&mut cluster, "POST", "/jobs", &body);
        assert_eq!(response.status, 409);
        assert!(
            problem(&response)["detail"]
                .as_str()
                .unwrap()
                .contains("has ended")
        );
    });
}

#[test]
fn the_same_request_under_the_same_key_makes_one_job() {
    both(|mut cluster| {
        let named = job_body("one", "");
        let unnamed = r#"{"workload": {"command": {"argv": ["true"]}}}"#;
        for (body, key) in [(named.as_str(), "k1"), (unnamed, "k2")] {
            let first = send_with_key(&mut cluster, "POST", "/jobs", body, Some(key));
            let again = send_with_key(&mut cluster, "POST", "/jobs", body, Some(key));
            assert_eq!(first.status, 201);
            assert_eq!(again.status, 201);
            assert_eq!(first.body, again.body);
        }
        assert_eq!(cluster.demands().len(), 2);
        let other = send_with_key(
            &mut cluster,
            "POST",
            "/jobs",
            &job_body("two", ""),
            Some("k1"),
        );
        assert_eq!(problem(&other)["code"], "idempotency-key-reused");
        let conflict = send_with_key(&mut cluster, "POST", "/jobs", &named, Some("k3"));
        assert_eq!(conflict.status, 409);
        let bad = send_with_key(&mut cluster, "POST", "/jobs", &named, Some("a/b"));
        assert_eq!(bad.status, 400);
    });
}

#[test]
fn no_two_living_tasks_can_get_one_name() {
    both(|mut cluster| {
        submit(&mut cluster, "a", r#""count": 10"#);
        submit(&mut cluster, "b-3", "");
        for (name, more) in [("a-9", ""), ("b", r#""count": 4"#)] {
            let response = send(&mut cluster, "POST", "/jobs", &job_body(name, more));
            assert_eq!(response.status, 409, "{name}");
        }
        submit(&mut cluster, "a-10", "");
        submit(&mut cluster, "a-1", r#""count": 2"#);
        submit(&mut cluster, "b", r#""count": 3"#);
        submit(&mut cluster, "job", r#""count": 100"#);
        let made = send(
            &mut cluster,
            "POST",
            "/jobs",
            r#"{"workload": {"command": {"argv": ["x"]}}}"#,
        );
        let made: JobView = serde_json::from_slice(&made.body).unwrap();
        assert_eq!(
            made.name, "job-100",
            "the first number that is no task's of `job`"
        );
    });
}

#[test]
fn lists_go_on_after_a_name() {
    both(|mut cluster| {
        cluster.agent(machine(100));
        (0..5).for_each(|n| drop(submit(&mut cluster, &format!("old-{n}"), "")));
        offer(&mut cluster);
        end_all(&mut cluster, TaskState::Finished);
        (0..5).for_each(|n| drop(submit(&mut cluster, &format!("new-{n}"), "")));
        let mut names = Vec::new();
        let mut path = "/jobs?limit=3".to_owned();
        loop {
            let page = send(&mut cluster, "GET", &path, "");
            let page: serde_json::Value = serde_json::from_slice(&page.body).unwrap();
            let items = page["items"].as_array().unwrap();
            names.extend(
                items
                    .iter()
                    .map(|job| job["name"].as_str().unwrap().to_owned()),
            );
            let Some(next) = page["next"].as_str() else {
                break;
            };
            path = format!("/jobs?limit=3&after={next}");
        }
        let all: Vec<String> = ["new", "old"]
            .iter()
            .flat_map(|k| (0..5).map(move |n| format!("{k}-{n}")))
            .collect();
        assert_eq!(names, all);
    });
}

#[test]
fn reading_writes_nothing() {
    both(|mut cluster| {
        submit(&mut cluster, "one", "");
        let before = cluster.store().clone();
        view(&mut cluster, "one");
        send(&mut cluster, "GET", "/jobs", "");
        assert_eq!(*cluster.store(), before);
    });
}

#[test]
fn a_configuration_is_refused() {
    let refused = tepui_sdk::testing::Cluster::<tepui_batch::Batch>::try_deploy("{}");
    assert!(refused.err().unwrap().contains("takes no configuration"));
}
