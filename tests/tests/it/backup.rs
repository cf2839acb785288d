//! A cluster is lost with all its masters, and begins again from a backup.

use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use tepui_tests::process;
use tepui_tests::{Cluster, Job, eventually};
use tepui_types::TaskState;
use tepui_types::api::job::JobState;

use super::Result;

fn tepui(cluster: &Cluster, args: &[&str]) -> anyhow::Result<(bool, String)> {
    let output = Command::new(process::program("tepui")?)
        .env("TEPUI_MASTER", cluster.url())
        .args(args)
        .output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

/// Loses a master's folder, and makes it anew from a backup; answers the command.
fn restore(cluster: &Cluster, file: &str) -> anyhow::Result<[String; 6]> {
    let dir = cluster.master_dir();
    std::fs::rename(&dir, cluster.dir().join("lost"))?;
    let listen = cluster.url().trim_start_matches("http://").to_owned();
    let into = dir.display().to_string();
    let command = ["restore", file, "--dir", &into, "--listen", &listen];
    let (ok, said) = tepui(cluster, &command)?;
    ensure!(ok, "{said}");
    Ok(command.map(str::to_owned))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_cluster_goes_on_and_holds_what_it_does_not_know() -> Result {
    let mut cluster = Cluster::new().agents(2).start().await?;
    let client = cluster.client().clone();
    let file = cluster.dir().join("backup.tar").display().to_string();
    let artifact = cluster.guest("tasks/hello.wasm").await?;
    client.run(&Job::command(["true"]).name("done")).await?;
    let long = |name: &str| Job::command(["sleep", "1000"]).name(name);
    client.submit(&long("known")).await?;
    let known = client.running("known").await;
    let (ok, said) = tepui(&cluster, &["backup", &file])?;
    assert!(ok, "{said}");
    client.submit(&long("unknown")).await?;
    let unknown = client.running("unknown").await;
    let host = client.task(&unknown).await?.agent;

    cluster.kill_master();
    let again = restore(&cluster, &file)?;
    let again: Vec<&str> = again.iter().map(String::as_str).collect();
    let (ok, said) = tepui(&cluster, &again)?;
    assert!(!ok && said.contains("empty folder"), "{said}");
    cluster.start_master().await?;

    let client = cluster.client();
    assert_eq!(client.job("done").await?.state, JobState::Finished);
    let agents = eventually("both agents are back", async || {
        let agents = client.agents().await?;
        ensure!(agents.iter().all(|agent| agent.connected), "{agents:?}");
        Ok(agents)
    })
    .await;
    assert_eq!(client.task(&known).await?.status.state, TaskState::Running);
    let held = agents.iter().find(|agent| agent.id == host);
    let held = held.context("the agent")?;
    assert_eq!((held.held, &held.held_tasks), (1, &vec![unknown.clone()]));
    let (ok, said) = tepui(&cluster, &["agent", "show", &host.to_string()])?;
    assert!(ok && said.contains(&unknown.to_string()), "{said}");
    assert!(client.job("unknown").await.is_err(), "the log never had it");
    // Work goes on elsewhere, under names that were used in the lost time.
    let again = Job::wasm(artifact, &[]).name("unknown").count(3);
    let job = client.run(&again).await?;
    assert_eq!((job.state, job.finished), (JobState::Finished, 3));
    let tasks = client.tasks("").await?;
    let mut placed = tasks
        .iter()
        .filter(|task| task.id.name.as_str().starts_with("unknown-"));
    assert!(placed.all(|task| task.agent != host), "{tasks:?}");

    let (ok, said) = tepui(&cluster, &["agent", "end-held", &host.to_string()])?;
    assert!(ok, "{said}");
    eventually("the agent has ended it", async || {
        let agents = client.agents().await?;
        ensure!(agents.iter().all(|agent| agent.held == 0), "{agents:?}");
        Ok(())
    })
    .await;
    assert_eq!(client.task(&known).await?.status.state, TaskState::Running);
    Ok(())
}

/// Its agent knows of the task that the log launches once more.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ended_after_the_backup_is_run_again() -> Result {
    let mut cluster = Cluster::new().start().await?;
    let client = cluster.client().clone();
    let file = cluster.dir().join("backup.tar").display().to_string();
    let agent = Pid::from_raw(cluster.agent_pid(0)?);
    kill(agent, Signal::SIGSTOP)?;
    client.submit(&Job::command(["true"]).name("late")).await?;
    eventually("it is launched", async || {
        let tasks = client.tasks("").await?;
        ensure!(!tasks.is_empty(), "there is none");
        Ok(())
    })
    .await;
    let (ok, said) = tepui(&cluster, &["backup", &file])?;
    kill(agent, Signal::SIGCONT)?;
    assert!(ok, "{said}");
    assert_eq!(client.ended("late").await.state, JobState::Finished);
    // Before the launch of the next one the agent hears that the log has the end of this one.
    client.run(&Job::command(["true"]).name("next")).await?;

    cluster.kill_master();
    restore(&cluster, &file)?;
    cluster.start_master().await?;
    let client = cluster.client();
    assert_eq!(client.ended("late").await.state, JobState::Finished);
    let tasks = client.tasks("").await?;
    let lost = tasks
        .iter()
        .filter(|task| task.status.state == TaskState::Gone);
    let why: Vec<_> = lost
        .filter_map(|task| task.status.reason.as_ref())
        .map(|why| why.code.as_str())
        .collect();
    assert_eq!(why, ["agent-forgot"], "{tasks:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_master_dies_is_not_taken_for_a_whole_one() -> Result {
    let mut cluster = Cluster::new().agents(0).without_batch().start().await?;
    // Far more than what a connection holds, so that the answer is under way when the master dies.
    let large = vec![7; 96 * 1024 * 1024];
    let digest = cluster.client().upload(large).await?;
    let mut answer = cluster
        .client()
        .request(Method::GET, "/v1/backup")
        .send()
        .await?;
    answer.chunk().await?.context("it begins")?;
    cluster.kill_master();
    let rest = loop {
        match answer.chunk().await {
            Ok(Some(_)) => {}
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    assert!(rest.is_err(), "it breaks off, and does not just end");
    cluster.start_master().await?;
    // The command leaves no file behind that could be taken for a backup.
    let file = cluster.dir().join("backup.tar");
    let backup = Command::new(process::program("tepui")?)
        .env("TEPUI_MASTER", cluster.url())
        .arg("backup")
        .arg(&file)
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = Pid::from_raw(i32::try_from(backup.id())?);
    let folder = cluster.dir().to_owned();
    eventually("it has begun to write", async || {
        // Whatever it is called meanwhile.
        let entries = std::fs::read_dir(&folder)?.flatten();
        let named = entries.filter(|it| it.file_name().to_string_lossy().contains("backup"));
        let written = named.filter_map(|it| it.metadata().ok()).map(|it| it.len());
        ensure!(written.sum::<u64>() > 0, "nothing is written");
        Ok(())
    })
    .await;
    kill(pid, Signal::SIGSTOP)?;
    let was_done = file.exists();
    cluster.kill_master();
    kill(pid, Signal::SIGCONT)?;
    let ended = backup.wait_with_output()?;
    if !was_done {
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success(), "{said}");
        assert!(!file.exists(), "{said}");
    }
    // Nothing of it hinders the next one.
    cluster.start_master().await?;
    std::fs::remove_file(&file).ok();
    let (ok, said) = tepui(&cluster, &["backup", &file.display().to_string()])?;
    assert!(ok, "{said}");
    assert!(
        std::fs::metadata(&file)?.len() > 96 * 1024 * 1024,
        "{digest}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_whole_backup_is_not_restored() -> Result {
    let cluster = Cluster::new().start().await?;
    let file = cluster.dir().join("backup.tar");
    let (ok, said) = tepui(&cluster, &["backup", &file.display().to_string()])?;
    assert!(ok, "{said}");
    let whole = std::fs::read(&file)?;
    let mut garbled = whole.clone();
    // Within the state, or an artifact.
    let middle = garbled.len() / 2;
    garbled[middle] ^= 1;
    let newer = String::from_utf8_lossy(&whole[..1024]).contains("\"format\": 1");
    assert!(newer, "the manifest comes first");
    let mut newer = whole.clone();
    let text = b"\"format\": 1";
    let at = newer.windows(text.len()).position(|bytes| bytes == text);
    newer[at.context("the format")? + text.len() - 1] = b'9';
    let cut = &whole[..whole.len() / 2];
    for (number, (bytes, word)) in [
        (&b"this is no archive"[..], "tepui backup"),
        (cut, "tepui backup"),
        (&garbled, "tepui backup"),
        (&newer, "later"),
        (&[], "tepui backup"),
    ]
    .into_iter()
    .enumerate()
    {
        let file = cluster.dir().join(format!("bad-{number}.tar"));
        std::fs::write(&file, bytes)?;
        let dir = cluster.dir().join(format!("into-{number}"));
        let (dir_text, file) = (dir.display().to_string(), file.display().to_string());
        let (ok, said) = tepui(&cluster, &["restore", &file, "--dir", &dir_text])?;
        assert!(
            !ok && said.contains(word) && (said.contains("error") || said.contains(&file)),
            "{number}: {said}"
        );
        assert!(!dir.join("cluster").exists(), "{number}: nothing counts");
    }
    Ok(())
}
