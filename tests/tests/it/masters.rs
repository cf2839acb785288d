//! What operators do with masters: they add them, start them elsewhere, and look at them.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use tepui_tests::cluster::addresses;
use tepui_tests::process::{self, Process};
use tepui_tests::{Client, Cluster, Job, eventually};
use tepui_types::api::master::{MasterRole, MasterView};

use super::Result;
use super::bad_input::copy;
use super::cli::{refused, tepui};
use super::failover::all_vote;

#[tokio::test(flavor = "multi_thread")]
async fn masters_that_all_move_at_once_find_each_other_by_the_new_list() -> Result {
    let mut cluster = Cluster::new().masters(3).start().await?;
    let client = cluster.client().clone();
    client
        .submit(&Job::shell("sleep 1000").name("long"))
        .await?;
    let task = client.running("long").await;
    let before = client.masters().await?;
    cluster.kill_agent(0);
    (0..3).for_each(|index| cluster.kill_master_at(index));
    cluster.move_masters()?;
    for index in 0..3 {
        cluster.spawn_master(index)?;
    }
    for index in 0..3 {
        cluster.wait_for_master(index).await?;
    }
    let client = cluster.client().clone();
    let now: Vec<_> = (0..3).map(|index| cluster.url_of_master(index)).collect();
    let after = eventually("the new addresses are recorded", async || {
        let masters = client.masters().await?;
        match masters.iter().all(|master| now.contains(&master.url)) {
            true => Ok(masters),
            false => bail!("{masters:?}"),
        }
    })
    .await;
    let ids = |masters: &[MasterView]| masters.iter().map(|master| master.id).collect::<Vec<_>>();
    assert_eq!(ids(&before), ids(&after), "they are the same masters");
    // The agent, told where the masters are now, still runs what it ran.
    cluster.start_agent(0).await?;
    let job = client.job("long").await?;
    let shown = job.task.clone().context("its task")?;
    assert_eq!(shown.id, task, "{job:?}");
    // And a follower that moves alone, with a list in which only the others are where they were.
    let follower = (cluster.leader().await? + 1) % 3;
    cluster.kill_master_at(follower);
    cluster.move_master(follower)?;
    cluster.start_master_at(follower).await?;
    let url = cluster.url_of_master(follower);
    let client = cluster.client_of((follower + 1) % 3)?;
    eventually("its new address is recorded", async || {
        let masters = client.masters().await?;
        ensure!(
            masters.iter().any(|master| master.url == url),
            "{masters:?}"
        );
        Ok(())
    })
    .await;
    Ok(())
}

/// What `tepui master add` says on refusing.
async fn refusal(cluster: &Cluster, address: &str) -> anyhow::Result<String> {
    refused(cluster, &["master", "add", address]).await
}

/// Waits until a master without a cluster answers.
async fn serves(url: &str) -> anyhow::Result<()> {
    let client = Client::new(url)?;
    eventually("the new master serves", async || {
        let answer = client.get_raw("/healthz").await?;
        ensure!(answer.status.is_success(), "{}", answer.status);
        Ok(())
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_waits_is_added_and_no_other_is() -> Result {
    let mut cluster = Cluster::new().start().await?;
    let nobody = addresses(1)?.remove(0);
    let said = refusal(&cluster, &nobody).await?;
    assert!(said.contains("is a master running there"), "{said}");
    let said = refusal(&cluster, "there").await?;
    assert!(said.contains("http://10.0.0.1:5050"), "{said}");
    // One that founds a cluster with another, which never comes.
    let founder =
        cluster.spawn_new_master(|own| vec!["--peers".into(), format!("{own},{nobody}")])?;
    let founder = cluster.url_of_master(founder);
    serves(&founder).await?;
    let said = eventually("it tells whom it founds one with", async || {
        let said = refusal(&cluster, &founder).await?;
        ensure!(said.contains("founds a cluster with"), "{said}");
        Ok(said)
    })
    .await;
    assert!(said.contains("--await-invitation"), "{said}");

    let added = cluster.spawn_new_master(|_| vec!["--await-invitation".into()])?;
    let url = cluster.url_of_master(added);
    serves(&url).await?;
    let address = url.trim_start_matches("http://");
    // It may only just have begun to serve.
    eventually("it is added", async || {
        let output = tepui(&cluster, &["master", "add", address]).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{said}");
        let list = String::from_utf8_lossy(&output.stdout);
        ensure!(list.contains(address) && list.contains("voter"), "{list}");
        Ok(())
    })
    .await;
    cluster.wait_for_master(added).await?;
    let client = cluster.client_of(added)?;
    client
        .run(&Job::command(["true"]).name("through-it"))
        .await?;
    let said = refusal(&cluster, address).await?;
    assert!(said.contains("is in this cluster already"), "{said}");
    // One of another cluster.
    let other = Cluster::new().agents(0).without_batch().start().await?;
    let said = refusal(&cluster, other.url()).await?;
    assert!(said.contains("belongs to another cluster"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_master_says_how_it_stands_and_which_one_was_asked() -> Result {
    let cluster = Cluster::new().masters(3).agents(0).without_batch();
    let cluster = cluster.start().await?;
    let client = cluster.client();
    let masters = eventually("all have said how they stand", async || {
        let masters = client.masters().await?;
        let is_known = |it: &MasterView| it.clock_ahead_ms.is_some() && it.version.is_some();
        match masters.iter().all(is_known) {
            true => Ok(masters),
            false => bail!("{masters:?}"),
        }
    })
    .await;
    assert_eq!(masters.len(), 3);
    let leads = |it: &&MasterView| it.role == MasterRole::Leader;
    let leader = masters.iter().find(leads).context("one leads")?;
    for index in 0..3 {
        let view = cluster.client_of(index)?.cluster().await?;
        let url = cluster.url_of_master(index);
        let asked = masters.iter().find(|it| it.url == url);
        assert_eq!(asked.map(|it| it.id), Some(view.node), "{url}");
        assert_eq!(view.leader, Some(leader.id));
    }
    Ok(())
}

/// It was not told of the others, and founds a cluster of its own, which they come into.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_given_no_list_founds_for_those_that_were() -> Result {
    let mut cluster = Cluster::new().start().await?;
    let first = cluster.url().trim_start_matches("http://").to_owned();
    let mut others = Vec::new();
    for _ in 0..2 {
        let list = |own: &str| vec!["--peers".into(), format!("{first},{own}")];
        others.push(cluster.spawn_new_master(list)?);
    }
    all_vote(cluster.client(), 3).await;
    for (other, name) in others.into_iter().zip(["a", "b"]) {
        cluster.wait_for_master(other).await?;
        let client = cluster.client_of(other)?;
        client.run(&Job::command(["true"]).name(name)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_of_another_cluster_at_a_members_address_is_taken_for_no_member() -> Result {
    let mut cluster = Cluster::new().masters(3).start().await?;
    let mut other = Cluster::new().agents(0).without_batch().start().await?;
    let leader = cluster.leader().await?;
    let away = (leader + 1) % 3;
    cluster.speak_to(leader)?;
    cluster.kill_master_at(away);
    other.kill_master();
    let url = cluster.url_of_master(away);
    let address = url.trim_start_matches("http://");
    let stranger = start_beside(&other.master_dir(), &["--listen", address])?;
    eventually("the leader says who is there", async || {
        let said = cluster.log_of_master(leader);
        ensure!(said.contains("check --peers"), "{said}");
        Ok(())
    })
    .await;
    let client = cluster.client();
    client
        .run(&Job::command(["true"]).name("meanwhile"))
        .await?;
    assert_eq!(client.masters().await?.len(), 3, "nobody has come in");
    let theirs = Client::new(&url)?;
    assert_eq!(theirs.masters().await?.len(), 1, "nor gone over");
    assert!(theirs.tasks("").await?.is_empty());
    drop(stranger);
    cluster.start_master_at(away).await?;
    all_vote(cluster.client(), 3).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_on_copies_of_one_new_folder_found_nothing_and_are_told() -> Result {
    let dir = tempfile::tempdir()?;
    let addresses = addresses(2)?;
    let [one, two] = &addresses[..] else {
        panic!("two addresses")
    };
    let peers = format!("{one},{two}");
    let folder = dir.path().join("one");
    let start = |folder: &Path, listen: &str| {
        start_beside(folder, &["--listen", listen, "--peers", &peers])
    };
    let first = start(&folder, one)?;
    eventually("it waits for the other", async || {
        let said = first.log();
        ensure!(said.contains("waiting for peers"), "{said}");
        Ok(())
    })
    .await;
    drop(first);
    let copy = copy(&folder, dir.path())?;
    for mut master in [start(&folder, one)?, start(Path::new(&copy), two)?] {
        eventually("it is told", async || {
            let status = master.ended().context("it waits")?;
            ensure!(!status.success(), "{status}");
            Ok(())
        })
        .await;
        let said = master.log();
        assert!(said.contains("the same id as another peer"), "{said}");
    }
    Ok(())
}

/// A master beside a cluster, with its log beside its folder.
fn start_beside(folder: &Path, flags: &[&str]) -> anyhow::Result<Process> {
    let mut args: Vec<OsString> = vec!["--dir".into(), folder.into()];
    args.extend(flags.iter().map(OsString::from));
    let program = process::program("tepui-master")?;
    let log = folder.with_extension("beside.log");
    Process::spawn("beside", &program, &args, &log)
}
