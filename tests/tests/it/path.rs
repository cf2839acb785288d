//! A task's way from the request to its record, and the surfaces along it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tepui_tests::{Client, Cluster, Job, eventually};
use tepui_types::api::job::JobState;
use tepui_types::task::reason;
use tepui_types::{Bytes, TaskState};

use super::Result;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_from_request_to_record() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let job = client
        .run(&Job::shell("echo out; echo err >&2").name("first"))
        .await?;
    assert_eq!(job.state, JobState::Finished, "{job:?}");
    assert_eq!(
        (job.finished, job.failed, job.waiting, job.active),
        (1, 0, 0, 0)
    );
    let id = job.task.context("a job of one task shows it")?.id;
    assert_eq!(client.output(&id, "stdout").await?, "out\n");
    assert_eq!(client.output(&id, "stderr").await?, "err\n");

    let task = client.task(&id).await?;
    assert_eq!(task.status.state, TaskState::Finished);
    assert_eq!(task.status.exit_code, Some(0));
    assert_eq!(task.framework_name, "batch");
    assert_eq!(task.spec.user, job.user);
    assert!(task.launched_at <= task.ended_at.context("it has ended")?);
    let found = client.tasks("?state=finished&framework=batch").await?;
    assert_eq!(found, [task]);

    let view = client.cluster().await?;
    assert_eq!(view.ended.get(&TaskState::Finished), Some(&1));
    assert_eq!(view.used.cpus.0, 0, "what it had is free again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_task_says_why() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    for (script, code, why) in [
        ("exit 7", Some(7), reason::EXIT_CODE),
        ("kill -9 $$", None, reason::SIGNAL),
        ("exec /no/such/program", Some(127), reason::EXIT_CODE),
    ] {
        let job = client.run(&Job::shell(script)).await?;
        assert_eq!(job.state, JobState::Failed, "{script}: {job:?}");
        let task = client.task(&job.task.context("its task")?.id).await?;
        assert_eq!(task.status.exit_code, code, "{script}: {task:?}");
        assert_eq!(
            task.status.reason.context("a reason")?.code,
            why,
            "{script}"
        );
    }
    let job = client.run(&Job::command(["/no/such/program"])).await?;
    let task = client.task(&job.task.context("its task")?.id).await?;
    let why = task.status.reason.context("a reason")?;
    assert_eq!(why.code, reason::COMMAND_FAILED);
    assert!(why.message.contains("/no/such/program"), "{why}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_task_is_run_again_as_often_as_asked() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let marks = cluster.dir().join("marks");
    let script = format!("echo x >> {0}; test $(wc -l < {0}) -ge 3", marks.display());
    let job = client.run(&Job::shell(&script).restarts(5)).await?;
    assert_eq!(job.state, JobState::Finished, "{job:?}");
    assert_eq!(job.restarts, 2);
    assert_eq!(std::fs::read_to_string(&marks)?.lines().count(), 3);

    let job = client.run(&Job::shell("exit 1").restarts(1)).await?;
    assert_eq!((job.state, job.restarts), (JobState::Failed, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_task_knows_who_it_is() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let job = Job::shell("env; pwd")
        .name("who")
        .env("MINE", "a=b")
        .ports(2);
    let output = client.output_of(&job).await?;
    let has = |line: &str| {
        assert!(
            output.lines().any(|found| found == line),
            "{line}:\n{output}"
        )
    };
    has("TEPUI_TASK_NAME=who");
    has("TEPUI_FRAMEWORK=batch");
    has("TEPUI_AGENT_ID=a1");
    has("MINE=a=b");
    let variable = |name: &str| {
        let line = output
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.map(str::to_owned)
            .with_context(|| format!("{name}:\n{output}"))
    };
    let ports = variable("TEPUI_PORTS")?;
    let ports: Vec<u16> = ports.split(',').map(|port| port.parse().unwrap()).collect();
    assert_eq!(ports.len(), 2);
    assert!(
        ports.iter().all(|port| (31_000..31_100).contains(port)),
        "{ports:?}"
    );
    has(&variable("TEPUI_SANDBOX")?);
    assert!(!output.contains("TEPUI_ARRAY_INDEX"), "it is of no array");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_while_they_are_written() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let gate = cluster.dir().join("gate");
    let script = format!(
        "echo one; while ! test -e {}; do sleep 0.02; done; echo two",
        gate.display()
    );
    let job = client.submit(&Job::shell(&script).name("talk")).await?;
    let id = client.running(&job.name).await;
    let path = format!("/v1/tasks/{id}/logs/stdout?follow=true");
    let mut response = client.request(reqwest::Method::GET, &path).send().await?;
    let first = response
        .chunk()
        .await?
        .context("the first line comes while the task runs")?;
    assert_eq!(&first[..], b"one\n");
    std::fs::write(&gate, "")?;
    let mut rest = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        rest.extend_from_slice(&chunk);
    }
    assert_eq!(rest, b"two\n", "the stream ends with the task");

    let tail = client
        .get_raw(&format!("/v1/tasks/{id}/logs/stdout?offset=-4"))
        .await?;
    assert_eq!(tail.text(), "two\n");
    let middle = client
        .get_raw(&format!("/v1/tasks/{id}/logs/stdout?offset=2"))
        .await?;
    assert_eq!(middle.text(), "e\ntwo\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_is_polite_and_then_is_not() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let polite = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.02; done";
    let job = client.submit(&Job::shell(polite).grace_ms(60_000)).await?;
    let id = client.running(&job.name).await;
    wait_for_output(client, &id.to_string(), "up\n").await;
    let answer = client
        .post_text(&format!("/v1/tasks/{id}/kill"), "{}")
        .await?;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let job = client.ended(&job.name).await;
    assert_eq!(
        job.task.as_ref().map(|task| task.state),
        Some(TaskState::Killed),
        "{job:?}"
    );
    assert_eq!(client.output(&id, "stdout").await?, "up\nbye\n");

    let deaf = "trap '' TERM; echo up; while :; do sleep 0.02; done";
    let job = client.submit(&Job::shell(deaf).grace_ms(60_000)).await?;
    let id = client.running(&job.name).await;
    wait_for_output(client, &id.to_string(), "up\n").await;
    let answer = client
        .post_text(&format!("/v1/tasks/{id}/kill"), r#"{"grace_ms":50}"#)
        .await?;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let job = client.ended(&job.name).await;
    assert_eq!(
        job.task.as_ref().map(|task| task.state),
        Some(TaskState::Killed),
        "{job:?}"
    );

    let job = client
        .submit(&Job::command(["sleep", "600"]).count(3).name("many"))
        .await?;
    eventually("all run", async || match client.job("many").await? {
        job if job.active == 3 => Ok(()),
        job => bail!("{job:?}"),
    })
    .await;
    let answer = client.delete_raw("/frameworks/batch/jobs/many").await?;
    assert!(answer.status.is_success(), "{}", answer.text());
    let job = client.ended(&job.name).await;
    assert_eq!((job.state, job.killed), (JobState::Killed, 3));
    Ok(())
}

async fn wait_for_output(client: &Client, id: &str, text: &str) {
    eventually("the task has said something", async || {
        let answer = client
            .get_raw(&format!("/v1/tasks/{id}/logs/stdout"))
            .await?;
        match answer.text().starts_with(text) {
            true => Ok(()),
            false => bail!("{}", answer.text()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_end_a_task_and_are_named() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    // A string that doubles needs no program beyond the shell.
    let hog = "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done";
    let job = client.run(&Job::shell(hog).mem(Bytes::mib(32))).await?;
    let why = job.reason.context("a reason")?;
    assert_eq!(
        (job.state, why.code.as_str()),
        (JobState::Failed, reason::MEMORY_LIMIT),
        "{why}"
    );

    let job = Job::shell("for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; wait").pids(4);
    let job = client.run(&job).await?;
    assert_eq!(job.state, JobState::Failed, "{job:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_resumed_where_they_were_left() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let start = client.cluster().await?.index;
    let ended = |events: &[(String, Value)]| {
        events
            .iter()
            .any(|(_, data)| data["body"]["task"]["state"] == "finished")
    };
    // Long enough that its beginning is told, too.
    client.run(&Job::shell("sleep 0.3")).await?;
    let all = client.events(Some(&format!("{start}.0")), ended).await?;
    let ids: BTreeSet<&String> = all.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), all.len(), "no event comes twice");
    assert!(
        all.iter()
            .any(|(_, data)| data["body"]["task"]["state"] == "running"),
        "{all:?}"
    );

    let future = client.request(reqwest::Method::GET, "/v1/events?after=4000000000.0");
    let answer = client.send(future).await?;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.problem().detail.contains("no event"));

    let (middle, _) = &all[all.len() / 2];
    let rest = client.events(Some(middle), ended).await?;
    let expected: Vec<_> = all[all.len() / 2 + 1..].to_vec();
    assert_eq!(
        rest[..expected.len()],
        expected,
        "the same, from where it was left"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_sent_twice_happens_once() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let send = async |key: &str| {
        let job = Job::command(["true"]);
        let request = client.request(reqwest::Method::POST, "/frameworks/batch/jobs");
        client
            .send(request.header("Idempotency-Key", key).json(job.request()))
            .await
    };
    let first = send("0123456789abcdef0123456789abcdef").await?;
    let second = send("0123456789abcdef0123456789abcdef").await?;
    assert_eq!((first.status, &first.body), (second.status, &second.body));
    let third = send("ffffffffffffffff0123456789abcdef").await?;
    assert_ne!(first.body, third.body);
    let jobs: Value = client.get("/frameworks/batch/jobs").await?;
    assert_eq!(jobs["items"].as_array().map(Vec::len), Some(2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_on_an_old_revision_is_refused() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let framework = client.framework("batch").await?;
    let restart = async |revision: u64| {
        let request = client.request(reqwest::Method::POST, "/v1/frameworks/batch/restart");
        client
            .send(request.header("If-Match", format!("\"{revision}\"")))
            .await
    };
    let stale = restart(framework.revision + 1_000).await?;
    assert_eq!(stale.status, 412, "{}", stale.text());
    stale.problem();
    let good = restart(client.framework("batch").await?.revision).await?;
    assert!(good.status.is_success(), "{}", good.text());
    assert!(good.headers.contains_key("etag"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_read_page_by_page() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    client.run(&Job::command(["true"]).count(25)).await?;
    let mut seen = BTreeSet::new();
    let mut path = "/v1/tasks?limit=10".to_owned();
    let mut pages = 0;
    loop {
        let page: Value = client.get(&path).await?;
        pages += 1;
        for task in page["items"].as_array().context("items")? {
            assert!(
                seen.insert(task["id"].to_string()),
                "{} comes twice",
                task["id"]
            );
        }
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/tasks?limit=10&page={next}"),
            None => break,
        }
    }
    assert_eq!((seen.len(), pages), (25, 3));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_surface_answers() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    for path in ["/healthz", "/readyz"] {
        assert!(client.get_raw(path).await?.status.is_success(), "{path}");
    }
    let metrics = client.get_raw("/metrics").await?.text();
    assert!(metrics.contains("# TYPE tepui_"), "{metrics}");
    // What a master has committed it has synced.
    let syncs = "tepui_master_synced_writes_seconds_count ";
    let syncs = metrics.lines().find_map(|line| line.strip_prefix(syncs));
    let syncs: u64 = syncs.context("synced writes are counted")?.parse()?;
    assert!(syncs > 0, "{metrics}");
    let openapi: Value = client.get("/v1/openapi.json").await?;
    assert!(
        openapi["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3."))
    );
    for path in [
        "/v1/cluster",
        "/v1/agents",
        "/v1/tasks",
        "/v1/tasks/{id}/usage",
        "/v1/agents/{id}/usage",
        "/v1/frameworks",
        "/v1/artifacts",
    ] {
        assert!(openapi["paths"][path].is_object(), "{path} is described");
    }
    let page = client.get_raw("/").await?;
    assert!(page.text().contains("<html"), "the dashboard is there");
    let deep = client.get_raw("/tasks").await?;
    assert_eq!(page.body, deep.body, "the dashboard finds its own routes");

    let agent = std::fs::read_to_string(cluster.agent_dir(0).join("address"))?;
    let agent = Client::new(agent.trim())?;
    for path in ["/healthz", "/readyz", "/metrics"] {
        let request = agent
            .request(reqwest::Method::GET, path)
            .timeout(Duration::from_secs(30));
        assert!(agent.send(request).await?.status.is_success(), "{path}");
    }
    Ok(())
}
