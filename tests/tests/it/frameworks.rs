//! Frameworks: deployed, misbehaving, removed.

use anyhow::{Context, bail};
use tepui_tests::{Client, Cluster, Job, eventually};
use tepui_types::FrameworkPhase;
use tepui_types::api::framework::FrameworkView;
use tepui_types::api::job::JobState;

use super::Result;

const UNRULY: &str = "test-frameworks/unruly.wasm";

async fn gone(client: &Client, name: &str) {
    eventually(&format!("framework {name} is gone"), async || {
        let answer = client.get_raw(&format!("/v1/frameworks/{name}")).await?;
        match answer.status.as_u16() {
            404 => Ok(()),
            _ => bail!("{}", answer.text()),
        }
    })
    .await;
}

async fn in_phase(client: &Client, name: &str, phases: &[FrameworkPhase]) -> FrameworkView {
    eventually(&format!("framework {name} is {phases:?}"), async || {
        let framework = client.framework(name).await?;
        match phases.contains(&framework.phase) {
            true => Ok(framework),
            false => bail!("{framework:?}"),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_framework_comes_and_goes_while_others_work() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let running = client
        .submit(&Job::command(["sleep", "600"]).name("before"))
        .await?;
    client.running(&running.name).await;
    let framework = cluster.deploy("guest", UNRULY, "").await?;
    assert_eq!(framework.phase, FrameworkPhase::Running);
    let answer = client.post_text("/frameworks/guest/add", "").await?;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "1"));

    let answer = client.delete_raw("/v1/frameworks/guest").await?;
    assert_eq!(answer.status, 202, "{}", answer.text());
    gone(client, "guest").await;
    assert_eq!(client.get_raw("/frameworks/guest/count").await?.status, 404);
    let job = client.job(&running.name).await?;
    assert_eq!(
        job.state,
        JobState::Running,
        "another framework's task goes on"
    );

    let again = cluster.deploy("guest", UNRULY, "").await?;
    assert_ne!(
        again.id, framework.id,
        "the name is free, and is another framework"
    );
    let answer = client.get_raw("/frameworks/guest/count").await?;
    assert_eq!(answer.text(), "0", "with a store of its own");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_frameworks_tasks_end_first() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    client
        .submit(&Job::command(["sleep", "600"]).count(3).name("long"))
        .await?;
    eventually("all run", async || match client.job("long").await? {
        job if job.active == 3 => Ok(()),
        job => bail!("{job:?}"),
    })
    .await;
    let answer = client.delete_raw("/v1/frameworks/batch").await?;
    assert_eq!(answer.status, 202, "{}", answer.text());
    gone(client, "batch").await;
    let living = client
        .tasks("?state=staging,starting,running,killing")
        .await?;
    assert!(living.is_empty(), "{living:?}");
    assert_eq!(client.cluster().await?.used.cpus.0, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_given_once() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let artifact = cluster.guest(UNRULY).await?;
    let answer = client.deploy_raw("batch", artifact, "").await?;
    assert_eq!(answer.status, 409);
    assert!(answer.problem().detail.contains("batch"));
    let answer = client.deploy_raw("Not A Name", artifact, "").await?;
    assert!(answer.status.is_client_error());
    assert!(answer.problem().detail.contains("Not A Name"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_store() -> Result {
    let cluster = Cluster::new().without_batch().start().await?;
    let client = cluster.client();
    let before = cluster.deploy("guest", UNRULY, "").await?;
    client.post_text("/frameworks/guest/add", "").await?;
    let answer = client.post_text("/v1/frameworks/guest/restart", "").await?;
    assert!(answer.status.is_success(), "{}", answer.text());
    let after = eventually("it runs anew", async || {
        match client.framework("guest").await? {
            view if view.phase == FrameworkPhase::Running
                && view.incarnation > before.incarnation =>
            {
                Ok(view)
            }
            view => bail!("{view:?}"),
        }
    })
    .await;
    assert_eq!(after.id, before.id);
    assert_eq!(client.get_raw("/frameworks/guest/count").await?.text(), "1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_framework_that_cannot_start_fails_and_says_why() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let artifact = cluster.guest(UNRULY).await?;
    for (name, config, why) in [
        ("refuses", "start=error", "told not to start"),
        ("traps", "start=trap", "trap"),
        ("loops", "start=loop", ""),
        ("hoards", "start=allocate", ""),
    ] {
        client.deploy(name, artifact, config).await?;
        let phases = [FrameworkPhase::Backoff, FrameworkPhase::Failed];
        let framework = in_phase(client, name, &phases).await;
        let reason = framework
            .reason
            .with_context(|| format!("{name} has no reason"))?;
        assert!(reason.message.contains(why), "{name}: {reason}");
        let answer = client.get_raw(&format!("/frameworks/{name}/count")).await?;
        assert!(answer.status.is_server_error(), "{}", answer.text());
        answer.problem();
    }
    assert_eq!(
        client.output_of(&Job::command(["echo", "fine"])).await?,
        "fine\n"
    );
    let answer = client.delete_raw("/v1/frameworks/loops").await?;
    assert_eq!(
        answer.status, 202,
        "a framework that never ran can be removed"
    );
    gone(client, "loops").await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_turn_costs_the_instance_and_nothing_else() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    cluster.deploy("guest", UNRULY, "").await?;
    client.post_text("/frameworks/guest/add", "").await?;
    for deed in ["add-then-trap", "add-then-loop", "add-then-allocate"] {
        let answer = client
            .post_text(&format!("/frameworks/guest/{deed}"), "")
            .await?;
        assert!(
            answer.status.is_server_error(),
            "{deed}: {} {}",
            answer.status,
            answer.text()
        );
        answer.problem();
        in_phase(client, "guest", &[FrameworkPhase::Running]).await;
        let count = eventually("it answers again", async || {
            let answer = client.get_raw("/frameworks/guest/count").await?;
            match answer.status.is_success() {
                true => Ok(answer.text()),
                false => bail!("{}", answer.text()),
            }
        })
        .await;
        assert_eq!(count, "1", "{deed}: nothing of the turn remains");
    }
    assert_eq!(
        client.output_of(&Job::command(["echo", "fine"])).await?,
        "fine\n"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_framework_that_always_dies_in_handle_fails_for_good() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    // What always dies fails for good; that takes as long as its pauses, so the
    // other ways to die are only seen to be one.
    for (name, deed, why, phase) in [
        ("traps", "trap", "trap", FrameworkPhase::Failed),
        ("loops", "loop", "time", FrameworkPhase::Backoff),
        ("hoards", "allocate", "memory", FrameworkPhase::Backoff),
    ] {
        cluster.deploy(name, UNRULY, "").await?;
        let path = format!("/frameworks/{name}/wake/{deed}");
        let answer = client.post_text(&path, "").await?;
        assert!(answer.status.is_success(), "{}", answer.text());
        let died = in_phase(client, name, &[phase]).await;
        let reason = died.reason.context("a reason")?;
        assert!(reason.message.contains(why), "{name}: {reason}");
        let logs = client
            .get_raw(&format!("/v1/frameworks/{name}/logs"))
            .await?
            .text();
        let line = format!("about to {deed}");
        assert!(
            logs.contains(&line),
            "lines of failed turns are kept:\n{logs}"
        );
        assert_eq!(
            client.output_of(&Job::command(["echo", "fine"])).await?,
            "fine\n"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frameworks_pages_are_kept_apart() -> Result {
    let cluster = Cluster::new().without_batch().start().await?;
    let client = cluster.client();
    cluster.deploy("guest", UNRULY, "").await?;
    let request = client
        .request(reqwest::Method::GET, "/frameworks/guest/echo")
        .header("cookie", "secret=1")
        .header("x-mine", "1");
    let answer = client.send(request).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let policy = answer
        .headers
        .get("content-security-policy")
        .context("a policy")?
        .to_str()?;
    assert!(
        policy.contains("sandbox") && !policy.contains("allow-same-origin"),
        "{policy}"
    );
    assert!(!answer.headers.contains_key("set-cookie"));
    let text = answer.text();
    assert!(text.contains("x-mine"), "{text}");
    assert!(
        !text.contains("cookie") && !text.contains("authorization"),
        "{text}"
    );
    assert!(
        text.starts_with("operator "),
        "who asks is verified by the host: {text}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_has_its_limit() -> Result {
    let cluster = Cluster::new().without_batch().start().await?;
    let client = cluster.client();
    cluster.deploy("guest", UNRULY, "").await?;
    let answer = client.post_text("/frameworks/guest/fill", "").await?;
    // One turn holds 1 MiB: the guest is told, and what fitted may commit.
    let told = answer.text();
    assert!(answer.status.is_success(), "{} {told}", answer.status);
    assert!(!told.is_empty(), "the guest was told of the limit");
    let framework = client.framework("guest").await?;
    assert!(framework.store_bytes <= 64 * 1024 * 1024, "{framework:?}");
    Ok(())
}
