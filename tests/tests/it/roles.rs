//! Roles: what is laid away for them, what they may not pass, and why something waits.

use tepui_tests::{Client, Cluster, Job, eventually, process};
use tepui_types::api::demand::DemandView;
use tepui_types::api::role::RoleView;
use tepui_types::resources::ResourceRequest;
use tepui_types::{MilliCpus, TaskState};

use super::Result;
use super::cli::{ok, refused};

const FOUR_CPUS: &str = "cpus=4,mem=4GiB,disk=1GiB,ports=31000-31099";

/// A job of tasks that stay, each with a whole cpu.
fn staying(name: &str, count: u32) -> Job {
    Job::command(["sleep", "1000"])
        .name(name)
        .cpus(1_000)
        .count(count)
}

/// Waits until so many tasks of a framework run, and no more of its demand is met.
async fn settles_at(client: &Client, framework: &str, running: usize) -> DemandView {
    eventually(&format!("{running} tasks of {framework} run"), async || {
        let tasks = client.tasks("").await?;
        let tasks = tasks.iter().filter(|task| task.framework_name == framework);
        let runs = tasks
            .filter(|task| task.status.state == TaskState::Running)
            .count();
        anyhow::ensure!(runs == running, "{runs} run");
        let demands = client.demands().await?;
        let demand = demands
            .into_iter()
            .find(|it| it.framework_name == framework);
        let demand = demand.ok_or_else(|| anyhow::anyhow!("it wants no more"))?;
        anyhow::ensure!(
            demand.explanation.quota.is_some(),
            "{:?}",
            demand.explanation
        );
        Ok(demand)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guarantee_is_laid_away_and_a_limit_is_not_passed() -> Result {
    let cluster = Cluster::new().resources(FOUR_CPUS).start().await?;
    let client = cluster.client();
    let quota = [
        "role",
        "set",
        "eng",
        "--guarantee",
        "cpus=1",
        "--limit",
        "cpus=2",
    ];
    ok(&cluster, &quota).await?;
    let batch = process::guest("frameworks/batch.wasm")?
        .display()
        .to_string();
    let deploy = ["framework", "deploy", "web", &batch, "--role", "eng/web"];
    ok(&cluster, &deploy).await?;

    // One cpu stays free for a role that wants nothing yet.
    client.submit(&staying("others", 4)).await?;
    let waits = settles_at(client, "batch", 3).await;
    assert!(
        waits.explanation.summary.contains("guaranteed"),
        "{waits:?}"
    );
    client.submit_to("web", &staying("ours", 3)).await?;
    let full = eventually("the guaranteed cpu is had", async || {
        let role: RoleView = client.get("/v1/roles/eng").await?;
        anyhow::ensure!(role.used.cpus == MilliCpus(1_000), "{role:?}");
        Ok(role)
    })
    .await;
    assert_eq!((full.frameworks, full.waiting), (1, 2));

    // With room for all it still has no more than two.
    ok(&cluster, &["job", "kill", "others"]).await?;
    let waits = settles_at(client, "web", 2).await;
    assert!(waits.explanation.summary.contains("limit"), "{waits:?}");
    let said = ok(&cluster, &["explain", "ours"]).await?;
    assert!(said.contains("role `eng`"), "{said}");
    ok(&cluster, &["role", "remove", "eng"]).await?;
    eventually("the third runs, too", async || {
        let role: RoleView = client.get("/v1/roles/eng/web").await?;
        anyhow::ensure!(role.used.cpus == MilliCpus(3_000), "{role:?}");
        Ok(())
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_that_cannot_be_are_refused_with_what_is_so() -> Result {
    let cluster = Cluster::new().resources(FOUR_CPUS).start().await?;
    let set = |role, flag, amount| ["role", "set", role, flag, amount];
    let said = refused(&cluster, &set("eng", "--guarantee", "cpus=100")).await?;
    assert!(
        said.contains("have 4") && said.contains("force it"),
        "{said}"
    );
    ok(
        &cluster,
        &[
            "role",
            "set",
            "eng",
            "--guarantee",
            "cpus=2",
            "--limit",
            "cpus=3",
        ],
    )
    .await?;
    let said = refused(&cluster, &set("eng", "--limit", "cpus=1")).await?;
    assert!(said.contains("guarantee"), "{said}");
    let said = refused(&cluster, &set("eng/web", "--guarantee", "cpus=3")).await?;
    assert!(said.contains("eng"), "{said}");
    for (role, flag, amount) in [
        ("eng//web", "--weight", "2"),
        ("eng", "--weight", "0"),
        ("eng", "--weight", "-1"),
        ("eng", "--limit", "cpus=NaN"),
        ("eng", "--limit", "cpus=99999999999999999999"),
        ("eng", "--limit", "cpus=1,cpus=2"),
    ] {
        let said = refused(&cluster, &set(role, flag, amount)).await?;
        assert!(!said.is_empty(), "{role} {flag} {amount}");
    }
    let role: RoleView = cluster.client().get("/v1/roles/eng").await?;
    let two = ResourceRequest {
        cpus: MilliCpus(2_000),
        ..ResourceRequest::default()
    };
    assert_eq!(role.guarantee, two, "what was refused changed nothing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_only_where_its_constraints_hold() -> Result {
    let cluster = Cluster::new().agents(2).start().await?;
    let second = cluster.client().agent("agent-1").await?.id.to_string();
    let script = "echo $TEPUI_AGENT_ID";
    for test in ["hostname=agent-1", "hostname!=agent-0", "hostname~*-1"] {
        let said = ok(
            &cluster,
            &["run", "--where", test, "--", "sh", "-c", script],
        )
        .await?;
        assert_eq!(said.trim(), second, "{test}");
    }
    let nowhere = [
        "run", "-d", "--name", "nowhere", "--where", "zone=c", "--", "true",
    ];
    ok(&cluster, &nowhere).await?;
    eventually("it is said what keeps it", async || {
        let said = ok(&cluster, &["explain", "nowhere"]).await?;
        anyhow::ensure!(said.contains("rule out 2"), "{said}");
        Ok(())
    })
    .await;
    let said = refused(&cluster, &["run", "--where", "=c", "--", "true"]).await?;
    assert!(said.contains("zone=a"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_hold_for_all_and_are_changed_at_run_time() -> Result {
    let cluster = Cluster::new().agents(2).start().await?;
    let second = cluster.client().agent("agent-1").await?.id.to_string();
    let said = ok(&cluster, &["setting", "list"]).await?;
    for part in ["for-gpus", "cpus=0.01 mem=32MiB", "30"] {
        assert!(said.contains(part), "{said}");
    }
    let only = ["setting", "set", "allowed-hosts", "agent-1"];
    ok(&cluster, &only).await?;
    let script = "echo $TEPUI_AGENT_ID";
    for _ in 0..3 {
        let said = ok(&cluster, &["run", "--", "sh", "-c", script]).await?;
        assert_eq!(said.trim(), second);
    }
    let nobody = ["setting", "set", "allowed-hosts", "nobody"];
    ok(&cluster, &nobody).await?;
    ok(&cluster, &["run", "-d", "--name", "waits", "--", "true"]).await?;
    eventually("it is said what keeps it", async || {
        let said = ok(&cluster, &["explain", "waits"]).await?;
        anyhow::ensure!(said.contains("not among the allowed hosts"), "{said}");
        Ok(())
    })
    .await;
    ok(&cluster, &["setting", "reset", "allowed-hosts"]).await?;
    eventually("it runs after all", async || {
        let job = cluster.client().job("waits").await?;
        anyhow::ensure!(job.finished == 1, "{job:?}");
        Ok(())
    })
    .await;
    for (name, value) in [
        ("offer-timeout", "0s"),
        ("offer-timeout", "-1s"),
        ("gpu-agents", "some"),
        ("minimum-offer", "cpus=NaN"),
        ("colour", "red"),
    ] {
        let said = refused(&cluster, &["setting", "set", name, value]).await?;
        assert!(!said.is_empty(), "{name} {value}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_framework_has_the_roles_that_it_is_deployed_with() -> Result {
    let cluster = Cluster::new().start().await?;
    let batch = process::guest("frameworks/batch.wasm")?
        .display()
        .to_string();
    let deploy = ["framework", "deploy", "web", &batch];
    let said = refused(
        &cluster,
        &[&deploy[..], &["--role", "a", "--role", "a"]].concat(),
    )
    .await?;
    assert!(said.contains("twice"), "{said}");
    ok(
        &cluster,
        &[&deploy[..], &["--role", "a/x", "--role", "b"]].concat(),
    )
    .await?;
    let said = ok(&cluster, &["framework", "show", "web"]).await?;
    assert!(said.contains("a/x, b"), "{said}");
    for role in ["a", "a/x", "b"] {
        let view: RoleView = cluster.client().get(&format!("/v1/roles/{role}")).await?;
        assert_eq!(view.frameworks, 1, "{role}");
    }
    let client = cluster.client();
    client.submit_to("web", &staying("first", 1)).await?;
    client
        .submit_to("web", &staying("second", 1).role("b"))
        .await?;
    eventually("each is charged to its role", async || {
        for role in ["a/x", "b"] {
            let view: RoleView = client.get(&format!("/v1/roles/{role}")).await?;
            anyhow::ensure!(view.used.cpus == MilliCpus(1_000), "{view:?}");
        }
        Ok(())
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_ended_after_its_time_limit_and_says_so() -> Result {
    let cluster = Cluster::new().start().await?;
    let run = ["run", "-d", "--name", "long", "--time-limit", "500ms"];
    ok(&cluster, &[&run[..], &["--", "sleep", "1000"]].concat()).await?;
    let job = eventually("the job has ended", async || {
        let job = cluster.client().job("long").await?;
        anyhow::ensure!(job.failed == 1, "{job:?}");
        Ok(job)
    })
    .await;
    let reason = job.reason.expect("it says why");
    assert_eq!(reason.code, "time-limit", "{reason}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_takes_back_what_is_guaranteed_to_it() -> Result {
    let cluster = Cluster::new().resources(FOUR_CPUS).start().await?;
    let client = cluster.client();
    let batch = process::guest("frameworks/batch.wasm")?
        .display()
        .to_string();
    let deploy = ["framework", "deploy", "web", &batch, "--role", "eng/web"];
    ok(&cluster, &deploy).await?;
    client.submit(&staying("others", 4)).await?;
    eventually("the cluster is full", async || {
        let job = client.job("others").await?;
        anyhow::ensure!(job.active == 4, "{job:?}");
        Ok(())
    })
    .await;
    ok(&cluster, &["role", "set", "eng", "--guarantee", "cpus=2"]).await?;
    client.submit_to("web", &staying("ours", 2)).await?;
    eventually("it waits for what is guaranteed to it", async || {
        let role: RoleView = client.get("/v1/roles/eng").await?;
        anyhow::ensure!(role.waiting == 2, "{role:?}");
        Ok(())
    })
    .await;
    // Nobody has said yet that the others' tasks may be ended.
    assert_eq!(client.job("others").await?.active, 4);
    ok(&cluster, &["role", "set", "*", "--preemptible", "yes"]).await?;
    eventually("the guarantee is had", async || {
        let role: RoleView = client.get("/v1/roles/eng").await?;
        anyhow::ensure!(role.used.cpus == MilliCpus(2_000), "{role:?}");
        Ok(())
    })
    .await;
    let job = client.job("others").await?;
    assert_eq!(
        (job.active, job.waiting, job.restarts),
        (2, 2, 0),
        "{job:?}"
    );
    let tasks = client.tasks("").await?;
    let why = tasks.iter().filter_map(|task| task.status.reason.as_ref());
    let preempted = why.filter(|why| why.code == "preempted").count();
    assert_eq!(preempted, 2, "{tasks:?}");
    Ok(())
}
