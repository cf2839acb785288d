//! Real input: programs from Rust and C, native commands, arrays, a framework of the SDK.

use std::collections::BTreeSet;

use anyhow::Context;
use tepui_tests::{Cluster, Job, eventually};
use tepui_types::api::job::JobState;
use tepui_types::task::reason;
use tepui_types::{Bytes, TaskState};

use super::Result;

#[tokio::test(flavor = "multi_thread")]
async fn a_component_compiled_from_rust_runs() -> Result {
    greets("tasks/hello.wasm").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_1_module_compiled_from_rust_runs() -> Result {
    greets("tasks/hello-p1.wasm").await
}

/// It gets its name, arguments and environment, and its output is read.
async fn greets(guest: &str) -> Result {
    let cluster = Cluster::new().start().await?;
    let artifact = cluster.guest(guest).await?;
    let job = Job::wasm(artifact, &["one", "two words"])
        .name("greeter")
        .env("MINE", "a=b");
    let output = cluster.client().output_of(&job).await?;
    let lines: BTreeSet<&str> = output.lines().collect();
    for line in [
        "hello from greeter",
        "argument: one",
        "argument: two words",
        "environment: MINE=a=b",
        "environment: TEPUI_FRAMEWORK=batch",
        "environment: TEPUI_SANDBOX=/sandbox",
    ] {
        assert!(lines.contains(line), "{line}:\n{output}");
    }
    assert!(
        !output.contains("environment: PATH="),
        "nothing of the machine leaks in:\n{output}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_compiled_from_c_runs() -> Result {
    let cluster = Cluster::new().start().await?;
    let artifact = cluster.guest("tasks/hello-c.wasm").await?;
    let output = cluster
        .client()
        .output_of(&Job::wasm(artifact, &["x"]))
        .await?;
    assert!(output.to_lowercase().contains("hello"), "{output}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_command_runs() -> Result {
    let cluster = Cluster::new().start().await?;
    let output = cluster
        .client()
        .output_of(&Job::command(["echo", "a b", "c"]))
        .await?;
    assert_eq!(output, "a b c\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_of_a_thousand_is_counted_exactly_once() -> Result {
    let cluster = Cluster::new().agents(3).start().await?;
    let client = cluster.client();
    let artifact = cluster.guest("tasks/exit-code.wasm").await?;
    let job = Job::wasm(artifact, &["0"]).count(1_000).name("thousand");
    let job = client.run(&job).await?;
    assert_eq!(job.state, JobState::Finished, "{job:?}");
    assert_eq!(
        (job.finished, job.failed, job.killed, job.restarts),
        (1_000, 0, 0, 0)
    );
    assert_eq!((job.waiting, job.active), (0, 0));

    let ended = client.cluster().await?.ended;
    assert_eq!(ended.values().sum::<u64>(), 1_000, "{ended:?}");
    assert_eq!(ended.get(&TaskState::Finished), Some(&1_000));
    let tasks = client.tasks("?framework=batch").await?;
    let indexes: BTreeSet<u32> = tasks.iter().filter_map(|task| task.array_index).collect();
    assert_eq!(
        (tasks.len(), indexes.len()),
        (1_000, 1_000),
        "each index once"
    );
    assert_eq!(indexes.last(), Some(&999));
    let agents: BTreeSet<_> = tasks.iter().map(|task| task.agent).collect();
    assert_eq!(agents.len(), 3, "over all agents");
    let view = client.cluster().await?;
    assert_eq!(
        (view.used.cpus.0, view.waiting),
        (0, 0),
        "nothing is left behind"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_traps_are_told_apart() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let exit = cluster.guest("tasks/exit-code.wasm").await?;
    let exit_p1 = cluster.guest("tasks/exit-code-p1.wasm").await?;
    // The `exit` of WASI 0.2 carries success or failure, and no code.
    for (artifact, code) in [(exit, 1), (exit_p1, 7)] {
        let job = client.run(&Job::wasm(artifact, &["7"])).await?;
        let task = client.task(&job.task.context("its task")?.id).await?;
        assert_eq!(task.status.state, TaskState::Failed);
        assert_eq!(task.status.exit_code, Some(code), "{task:?}");
        assert_eq!(
            task.status.reason.context("a reason")?.code,
            reason::EXIT_CODE
        );
    }
    let trap = cluster.guest("tasks/trap.wasm").await?;
    let job = client.run(&Job::wasm(trap, &[])).await?;
    let task = client.task(&job.task.context("its task")?.id).await?;
    assert_eq!(task.status.state, TaskState::Failed);
    assert_eq!(
        task.status.reason.context("a reason")?.code,
        reason::WASM_TRAP
    );
    let said = client.output(&task.id, "stdout").await?;
    assert_eq!(said, "about to trap\n", "what came before the trap is kept");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_held_to_its_memory() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let hog = cluster.guest("tasks/eat-memory.wasm").await?;
    let job = client.run(&Job::wasm(hog, &[]).mem(Bytes::mib(32))).await?;
    assert_eq!(job.state, JobState::Failed, "{job:?}");
    let task = client.task(&job.task.context("its task")?.id).await?;
    assert_eq!(
        task.status.reason.context("a reason")?.code,
        reason::MEMORY_LIMIT
    );
    let said = client.output(&task.id, "stdout").await?;
    assert!(
        said.contains("holding 8 MiB"),
        "it had what it asked for:\n{said}"
    );
    assert!(!said.contains("holding 32 MiB"), "and no more:\n{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spinning_program_disturbs_no_other_and_is_killed() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let spin = cluster.guest("tasks/spin.wasm").await?;
    let hello = cluster.guest("tasks/hello.wasm").await?;
    let spinning = client
        .submit(&Job::wasm(spin, &[]).cpus(100).count(4).name("spinning"))
        .await?;
    eventually("they spin", async || match client.job("spinning").await? {
        job if job.active == 4 => Ok(()),
        job => anyhow::bail!("{job:?}"),
    })
    .await;
    for _ in 0..5 {
        client.output_of(&Job::wasm(hello, &[])).await?;
    }
    client.delete_raw("/frameworks/batch/jobs/spinning").await?;
    let job = client.ended(&spinning.name).await;
    assert_eq!((job.state, job.killed), (JobState::Killed, 4), "{job:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_programs_lines_come_as_they_are_written() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let count = cluster.guest("tasks/count.wasm").await?;
    let job = client
        .submit(&Job::wasm(count, &["60000", "2"]).name("counting"))
        .await?;
    let id = client.running(&job.name).await;
    let path = format!("/v1/tasks/{id}/logs/stdout?follow=true");
    let mut response = client.request(reqwest::Method::GET, &path).send().await?;
    let first = response
        .chunk()
        .await?
        .context("a line, a minute before the next")?;
    assert_eq!(&first[..], b"1 of 2\n");
    client.delete_raw("/frameworks/batch/jobs/counting").await?;
    let job = client.ended(&job.name).await;
    assert_eq!(
        job.state,
        JobState::Killed,
        "a program that sleeps is killed too"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_framework_written_from_the_example_is_deployed_and_removed() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let config = r#"{"command": {"argv": ["sh", "-c", "echo from the example; sleep 600"]}}"#;
    cluster
        .deploy("hello", "example-frameworks/hello.wasm", config)
        .await?;
    let task = eventually("its task runs", async || {
        let tasks = client.tasks("?framework=hello&state=running").await?;
        tasks.into_iter().next().context("no task of it runs")
    })
    .await;
    eventually("its page says so", async || {
        let page = client.get_raw("/frameworks/hello/").await?.text();
        match page.contains("is running") {
            true => Ok(()),
            false => anyhow::bail!("{page}"),
        }
    })
    .await;
    let said = client
        .get_raw(&format!("/v1/tasks/{}/logs/stdout", task.id))
        .await?
        .text();
    assert_eq!(said, "from the example\n");

    assert_eq!(client.delete_raw("/v1/frameworks/hello").await?.status, 202);
    eventually("it is gone", async || {
        let answer = client.get_raw("/v1/frameworks/hello").await?;
        match answer.status.as_u16() {
            404 => Ok(()),
            _ => anyhow::bail!("{}", answer.text()),
        }
    })
    .await;
    let task = client.task(&task.id).await?;
    assert_eq!(
        task.status.state,
        TaskState::Killed,
        "its task was ended first: {task:?}"
    );
    assert_eq!(
        client.output_of(&Job::command(["echo", "fine"])).await?,
        "fine\n"
    );
    Ok(())
}
