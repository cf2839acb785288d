//! Links between the leader and agents that are cut, while masters hear each other: if all are silent at
//! once, that is no death of machines, and nothing is decided of them.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tepui_tests::eventually;
use tepui_tests::site::{Plan, Site};

use super::Result;

/// Agents: enough for a share of them to mean something.
const AGENTS: usize = 4;
/// Twice the silence after which one agent is unreachable at a site.
const LONG: Duration = Duration::from_secs(3);

async fn json(site: &Site, args: &[&str]) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&site.tepui(args).await?)?)
}

/// How many agents have this status.
async fn agents(site: &Site, status: &str) -> anyhow::Result<usize> {
    let listed = json(site, &["agent", "list", "-o", "json"]).await?;
    let agents = listed.as_array().context("a list")?;
    let are = agents.iter().filter(|agent| agent["status"] == status);
    Ok(are.count())
}

async fn in_state(site: &Site, state: &str, count: usize) {
    eventually("the job's tasks are as they should be", async || {
        let path = ["task", "list", "--state", state, "-o", "json"];
        let tasks = json(site, &path).await?;
        let tasks = tasks.as_array().context("a list")?;
        match tasks.len() == count {
            true => Ok(()),
            false => bail!("{} of {count} are {state}", tasks.len()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_link_to_its_agents_is_cut_declares_none_of_them_lost() -> Result {
    let plan = Plan {
        agents: AGENTS,
        own_machines: false,
    };
    let site = Site::start_as(plan).await?;
    let count = AGENTS.to_string();
    let run = format!("run -d --name everywhere --count {count} --cpus 2 -- sleep 600");
    site.tepui(&run.split(' ').collect::<Vec<_>>()).await?;
    in_state(&site, "running", AGENTS).await;

    let (leader, _) = site.masters().await?;
    for agent in site.agents() {
        site.net.deafen(leader, agent)?;
        site.net.deafen(agent, leader)?;
    }
    eventually("the leader says what it sees", async || {
        let said = site.log(leader);
        ensure!(said.contains("agents are silent at once"), "{said}");
        Ok(())
    })
    .await;
    // sleep: nothing is to happen in this time.
    tokio::time::sleep(LONG).await;
    assert_eq!(site.masters().await?.0, leader, "the others hear it");
    assert_eq!(agents(&site, "active").await?, AGENTS);
    in_state(&site, "running", AGENTS).await;

    for host in site.agents().chain([leader]) {
        site.net.mend(host)?;
    }
    // One that is silent by itself is another matter.
    let first = site.agents().start;
    site.net.cut(first)?;
    eventually("it is unreachable, and no other", async || {
        match agents(&site, "unreachable").await? {
            1 => Ok(()),
            other => bail!("{other} are"),
        }
    })
    .await;
    site.net.mend(first)?;
    in_state(&site, "running", AGENTS).await;
    let job = json(&site, &["job", "show", "everywhere", "-o", "json"]).await?;
    assert_eq!(job["restarts"], 0, "{job}");
    // All hear what they are told.
    site.tepui(&["job", "kill", "everywhere"]).await?;
    in_state(&site, "killed", AGENTS).await;
    Ok(())
}
