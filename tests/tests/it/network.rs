//! Machines of their own: masters, an agent and a caller with an address each, and links that break.

use std::path::Path;

use anyhow::bail;
use serde_json::Value;
use tepui_tests::eventually;
use tepui_tests::site::{CALLER, MASTERS, Site};

use super::Result;

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_is_replaced_and_comes_back() -> Result {
    let site = Site::start().await?;
    let leader = eventually("all masters are active", async || {
        match site.masters().await? {
            (leader, MASTERS) => Ok(leader),
            (_, active) => bail!("{active} are"),
        }
    })
    .await;
    let gate = site.path("gate").display().to_string();
    let script = format!("while ! test -e {gate}; do sleep 0.02; done; echo done");
    site.tepui(&["run", "--name", "long", "-d", "--", "sh", "-c", &script])
        .await?;
    // A launch that is on its way when the line is cut may be made once more.
    eventually("it runs", async || {
        let job: Value =
            serde_json::from_str(&site.tepui(&["job", "show", "long", "-o", "json"]).await?)?;
        match job["task"]["state"] == "running" {
            true => Ok(()),
            false => bail!("{job}"),
        }
    })
    .await;
    site.net.cut(leader)?;
    let next = eventually("another leads", async || match site.masters().await? {
        (next, _) if next != leader => Ok(next),
        _ => bail!("the same still"),
    })
    .await;
    // The agent turns to it by itself, and what ran goes on.
    site.eventually(&["run", "--", "echo", "new"]).await;
    std::fs::write(&gate, "")?;
    eventually("what ran before is counted", async || {
        let job: Value =
            serde_json::from_str(&site.tepui(&["job", "show", "long", "-o", "json"]).await?)?;
        match job["finished"] == 1 {
            true => Ok(()),
            false => bail!("{job}"),
        }
    })
    .await;
    site.net.heal(leader)?;
    eventually("the old leader follows", async || {
        match site.masters().await? {
            (now, MASTERS) if now == next => Ok(()),
            other => bail!("{other:?}"),
        }
    })
    .await;
    let tasks = site.tepui(&["task", "list", "-o", "json"]).await?;
    let tasks: Vec<Value> = serde_json::from_str(&tasks)?;
    let long = tasks
        .iter()
        .filter(|task| task["id"].as_str().is_some_and(|id| id.contains(".long.")));
    assert_eq!(long.count(), 1, "it was launched once: {tasks:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_token_is_nobody_on_another_machine() -> Result {
    let site = Site::start().await?;
    let url = format!("http://{}/v1/cluster", site.listen(0));
    let output = site
        .net
        .command(CALLER, Path::new("curl"))
        .args(["-s", &url])
        .output()
        .await?;
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(answer["status"], 401, "{answer}");
    // Nor is somebody who is on the master's own machine one of the masters.
    let url = format!("http://{}/v1/masters/image", site.listen(0));
    let output = site
        .net
        .command(0, Path::new("curl"))
        .args(["-s", &url])
        .output()
        .await?;
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(answer["status"], 401, "{answer}");
    Ok(())
}
