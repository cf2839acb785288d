//! A disk damages what a master has synced: nothing is cut off in silence, and the master comes back
//! as a new one, with what the others have.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tepui_master::storage::snapshot::{self, NewSnapshot};
use tepui_master::storage::{Batch, Direction, Durability, Family, Scan, Storage, keys};
use tepui_tests::{Client, Cluster, Job, eventually};
use tepui_types::api::job::JobState;
use tepui_types::{NodeId, TaskState};

use super::Result;
use super::failover::{all_vote, submit_surely};

/// The key and the record of a stopped master's last log entry.
fn last_entry(storage: &Storage) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let mut last = None;
    let end = keys::log(u64::MAX);
    storage.scan(Family::Log, &end, Direction::Down, |key, record| {
        last = Some((key.to_vec(), record.to_vec()));
        Ok(Scan::Stop)
    })?;
    last.context("the log is empty")
}

/// Changes one bit of the last entry in a stopped master's log.
pub(super) fn damage_last_entry(database: &Path) -> anyhow::Result<()> {
    let storage = Storage::open(database)?;
    let (key, mut record) = last_entry(&storage)?;
    *record.last_mut().context("an empty record")? ^= 1;
    let mut batch = Batch::default();
    batch.put(Family::Log, &key, record);
    Ok(storage.write(batch, Durability::Synced)?)
}

/// Changes one bit in the middle of what RocksDB reads first at a start.
fn damage_write_ahead_log(database: &Path) -> anyhow::Result<()> {
    let files = std::fs::read_dir(database)?.collect::<std::io::Result<Vec<_>>>()?;
    let paths = files.into_iter().map(|file| file.path());
    let logs = paths.filter(|path| path.extension().is_some_and(|it| it == "log"));
    let sizes = logs.map(|path| Ok((std::fs::metadata(&path)?.len(), path)));
    let sizes = sizes.collect::<std::io::Result<Vec<(u64, PathBuf)>>>()?;
    let (_, path) = sizes.into_iter().max().context("no write-ahead log")?;
    let mut bytes = std::fs::read(&path)?;
    let middle = bytes.len() / 2;
    *bytes.get_mut(middle).context("an empty log")? ^= 1;
    Ok(std::fs::write(&path, bytes)?)
}

/// Changes the state in a stopped master's image, which then is as whole as before: as if a bit had
/// been turned over in its memory before the image was written.
fn change_the_state(database: &Path) -> anyhow::Result<()> {
    let storage = Storage::open(database)?;
    let record = snapshot::latest(&storage)?.context("an image")?;
    let mut state = snapshot::load(&storage, &record)?;
    *state.ended_counts.entry(TaskState::Failed).or_default() += 1;
    let image = NewSnapshot {
        index: record.index,
        term: record.term,
        members: record.members,
        state_hash: state.hash(),
    };
    snapshot::write(&storage, image, &snapshot::pieces_of(&state))?;
    Ok(())
}

async fn id_of(client: &Client, url: &str) -> anyhow::Result<NodeId> {
    let masters = client.masters().await?;
    let master = masters.iter().find(|master| master.url == url);
    Ok(master.context("it is listed")?.id)
}

/// Starts a master that must refuse, and gives what it has said from then on.
async fn refuses(cluster: &mut Cluster, master: usize, flags: &[&str]) -> anyhow::Result<String> {
    cluster.spawn_master_also(master, flags)?;
    let before = cluster.log_of_master(master).len();
    let status = eventually("it ends", async || {
        cluster.master_ended(master).context("it runs")
    })
    .await;
    let said = cluster.log_of_master(master);
    cluster.kill_master_at(master);
    if status.success() {
        bail!("it ended well: {said}");
    }
    // What it said in a hurry is a part of it, too.
    Ok(said[said.len().min(before.saturating_sub(4_096))..].to_owned())
}

/// A follower's database is damaged by `damage`; the message is followed, and it is one of three
/// again.
async fn comes_back_after(damage: impl Fn(&Path) -> anyhow::Result<()>, word: &str) -> Result {
    let mut cluster = Cluster::new().masters(3).start().await?;
    let leader = cluster.leader().await?;
    let (damaged, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.speak_to(leader)?;
    let client = cluster.client().clone();
    for number in 0..10 {
        let job = Job::command(["true"])
            .count(2)
            .name(&format!("before-{number}"));
        client.run(&job).await?;
    }
    let url = cluster.url_of_master(damaged);
    let before = id_of(&client, &url).await?;
    cluster.kill_master_at(damaged);
    let folder = cluster.dir_of_master(damaged);
    damage(&folder.join("db"))?;

    let said = refuses(&mut cluster, damaged, &[]).await?;
    assert!(said.contains(word) && said.contains("--rejoin"), "{said}");
    let one = std::slice::from_ref(&client);
    submit_surely(one, &Job::command(["true"]).name("meanwhile")).await?;
    assert_eq!(id_of(&client, &url).await?, before, "nothing has changed");

    cluster.spawn_master_also(damaged, &["--rejoin"])?;
    cluster.wait_for_master(damaged).await?;
    all_vote(&client, 3).await;
    assert_ne!(id_of(&client, &url).await?, before, "it is another master");
    assert!(folder.join("db.damaged").is_dir(), "nothing is lost");
    // The flag is not needed again, and its vote counts.
    cluster.kill_master_at(damaged);
    cluster.start_master_at(damaged).await?;
    cluster.kill_master_at(other);
    submit_surely(one, &Job::command(["true"]).name("after")).await?;
    assert_eq!(client.ended("after").await.state, JobState::Finished);
    let back = cluster.client_of(damaged)?;
    let tasks = back.tasks("").await?;
    assert_eq!(tasks.len(), 22);
    assert_eq!(tasks, client.tasks("").await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_whose_last_log_record_is_damaged_comes_back_under_a_new_id() -> Result {
    comes_back_after(damage_last_entry, "checksum").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_whose_write_ahead_log_is_damaged_comes_back_under_a_new_id() -> Result {
    comes_back_after(damage_write_ahead_log, "Corruption").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_master_that_is_the_only_one_names_the_backup_and_leaves_its_data_alone() -> Result
{
    let mut cluster = Cluster::new().start().await?;
    cluster.client().run(&Job::command(["true"])).await?;
    cluster.kill_master();
    let folder = cluster.master_dir();
    damage_last_entry(&folder.join("db"))?;
    let said = refuses(&mut cluster, 0, &[]).await?;
    assert!(said.contains("tepui restore"), "{said}");
    let said = refuses(&mut cluster, 0, &["--rejoin"]).await?;
    assert!(said.contains("--join URL") && said.contains("tepui restore"));
    assert!(folder.join("db").is_dir() && !folder.join("db.damaged").exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_master_does_not_come_back_while_the_others_are_no_majority() -> Result {
    let mut cluster = Cluster::new().masters(3).start().await?;
    let leader = cluster.leader().await?;
    let (damaged, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.speak_to(leader)?;
    let client = cluster.client().clone();
    client
        .run(&Job::command(["true"]).name("acknowledged"))
        .await?;
    cluster.kill_master_at(damaged);
    cluster.kill_master_at(other);
    let folder = cluster.dir_of_master(damaged);
    damage_last_entry(&folder.join("db"))?;
    let said = refuses(&mut cluster, damaged, &["--rejoin"]).await?;
    assert!(
        said.contains("no other master takes this one back"),
        "{said}"
    );
    assert!(folder.join("db").is_dir() && !folder.join("db.damaged").exists());
    // With the third one there is a majority that has all that was acknowledged.
    cluster.start_master_at(other).await?;
    cluster.spawn_master_also(damaged, &["--rejoin"])?;
    cluster.wait_for_master(damaged).await?;
    all_vote(&client, 3).await;
    let job = cluster.client_of(damaged)?.job("acknowledged").await?;
    assert_eq!(job.state, JobState::Finished);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_whose_state_is_not_the_majority_s_ends_itself() -> Result {
    let mut cluster = Cluster::new().masters(3).start().await?;
    let leader = cluster.leader().await?;
    let changed = (leader + 1) % 3;
    cluster.speak_to(leader)?;
    let client = cluster.client().clone();
    client.run(&Job::command(["true"]).name("before")).await?;
    cluster.kill_master_at(changed);
    let folder = cluster.dir_of_master(changed);
    change_the_state(&folder.join("db"))?;
    // Nothing is wrong with what it reads; the others' hashes tell.
    let said = refuses(&mut cluster, changed, &[]).await?;
    assert!(
        said.contains("is not what a majority of masters has"),
        "{said}"
    );
    let one = std::slice::from_ref(&client);
    submit_surely(one, &Job::command(["true"]).name("after")).await?;
    assert_eq!(client.ended("after").await.state, JobState::Finished);
    // What it said helps.
    std::fs::remove_dir_all(&folder)?;
    cluster.start_master_at(changed).await?;
    all_vote(&client, 3).await;
    let back = cluster.client_of(changed)?;
    assert_eq!(back.tasks("").await?, client.tasks("").await?);
    Ok(())
}
