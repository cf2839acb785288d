//! Containers on a whole cluster: images from a real registry, as a user runs them.

use tepui_tests::registry::Registry;
use tepui_tests::{Cluster, Job, eventually};
use tepui_types::TaskState;
use tepui_types::check::CheckState;

use super::Result;
use super::cli::{ok, refused, tepui};

#[tokio::test(flavor = "multi_thread")]
async fn a_user_runs_an_image_as_any_command() -> Result {
    let registry = Registry::start().await?;
    let plan = Cluster::new().agent_flag("--insecure-registry", &registry.address);
    let cluster = plan.start().await?;
    let image = registry.image();
    assert_eq!(
        ok(&cluster, &["run", &image]).await?,
        "hello from an image\n"
    );
    let script = "echo $TEPUI_TASK_NAME; id -u; ls /; exit 7";
    let output = tepui(
        &cluster,
        &["run", "--name", "mine", &image, "sh", "-c", script],
    )
    .await?;
    assert_eq!(output.status.code(), Some(7));
    let out = String::from_utf8(output.stdout)?;
    assert!(
        out.starts_with("mine") && out.contains("\n0\nbin\n") && !out.contains("usr"),
        "{out}"
    );

    let archive = registry.archive()?;
    let archive = archive.to_str().expect("a path of text");
    assert_eq!(
        ok(&cluster, &["run", archive]).await?,
        "hello from an image\n"
    );

    let isolated = [
        "run",
        "--isolate",
        "--read-only",
        "--",
        "sh",
        "-c",
        "echo $$; touch /x || echo no",
    ];
    assert_eq!(ok(&cluster, &isolated).await?, "1\nno\n");

    let missing = format!("{}/none:1", registry.address);
    let why = refused(&cluster, &["run", &missing]).await?;
    assert!(
        why.contains("image-unknown") && why.contains("none"),
        "{why}"
    );
    let why = refused(&cluster, &["run", "./nothing"]).await?;
    assert!(why.contains("tepui run -- ./nothing"), "{why}");
    let why = refused(&cluster, &["run", "Not/An Image"]).await?;
    assert!(why.contains("nor an image"), "{why}");
    let why = refused(&cluster, &["run", "--mount", "/etc:/etc", &image]).await?;
    assert!(why.contains("--host-path"), "{why}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_looked_at_and_ended_when_it_is_not_well() -> Result {
    let registry = Registry::start().await?;
    let plan = Cluster::new().agent_flag("--insecure-registry", &registry.address);
    let cluster = plan.start().await?;
    let client = cluster.client();
    let script = "mkdir /www; echo ok > /www/index.html; (while test ! -e $TEPUI_SANDBOX/stop; do sleep 0.1; \
                  done; rm /www/index.html) & exec httpd -f -h /www -p 127.0.0.1:$TEPUI_PORTS";
    let checks = r#"{"health": {"probe": {"http": {"path": "/index.html"}}, "interval_ms": 100,
                                "failures": 2}}"#;
    let job = Job::container(&registry.image(), &["sh", "-c", script])
        .name("web")
        .ports(1)
        .checks(checks);
    client.submit(&job).await?;
    let id = client.running("web").await;
    eventually("its check passes", async || {
        let task = client.task(&id).await?;
        let signs = task
            .status
            .signs
            .ok_or_else(|| anyhow::anyhow!("no signs"))?;
        let check = &signs.checks[0];
        anyhow::ensure!(check.state == CheckState::Passing, "{check:?}");
        Ok(())
    })
    .await;
    let shown = ok(&cluster, &["task", "show", &id.to_string()]).await?;
    assert!(shown.contains("health: passing"), "{shown}");
    let folder = cluster.agent_dir(0).join("tasks").join(id.to_string());
    std::fs::write(folder.join("sandbox/stop"), "")?;
    client.ended("web").await;
    let ended = client.task(&id).await?;
    let reason = ended.status.reason.unwrap();
    assert_eq!(ended.status.state, TaskState::Failed);
    assert_eq!(reason.code, "health-check-failed", "{reason}");
    Ok(())
}
