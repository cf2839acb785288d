//! Groups of masters: the lead moves, members come and go, and nothing is lost.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use reqwest::Method;
use tepui_tests::eventually::DEADLINE;
use tepui_tests::{Client, Cluster, Job, eventually};
use tepui_types::TaskState;
use tepui_types::api::job::JobState;
use tepui_types::api::master::MasterRole;
use tepui_types::api::stale::{AGE_HEADER, INDEX_HEADER};

use super::Result;

/// A job that is submitted until it is known to be taken, by whichever master answers.
pub(super) async fn submit_surely(clients: &[Client], job: &Job) -> anyhow::Result<()> {
    let key = job.request().name.clone().context("a job with a name")?;
    for turn in 0.. {
        let client = &clients[turn % clients.len()];
        let request = client
            .request(Method::POST, "/frameworks/batch/jobs")
            .header("Idempotency-Key", &key)
            .timeout(Duration::from_secs(5))
            .json(job.request());
        match client.send(request).await {
            Ok(answer) if answer.status.is_success() => return Ok(()),
            Ok(answer) if answer.status.is_server_error() => {}
            Ok(answer) => bail!("{}: {}", answer.status, answer.text()),
            Err(_) => {}
        }
        ensure!(turn < 2_000, "{key} is not taken");
        // sleep: the next leader is being elected.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Removes a master. The answer may be lost when the lead moves for it.
pub(super) async fn remove_surely(client: &Client, path: &str) {
    eventually("the master is removed", async || {
        let answer = client.delete_raw(path).await?;
        match answer.status.as_u16() {
            204 | 404 => Ok(()),
            _ => bail!("{}: {}", answer.status, answer.text()),
        }
    })
    .await;
}

/// Where the master at this address is found in the API.
pub(super) async fn path_of(client: &Client, url: &str) -> anyhow::Result<String> {
    let masters = client.masters().await?;
    let master = masters.iter().find(|master| master.url == url);
    let id = master.context("it is listed")?.id;
    Ok(format!("/v1/masters/{id}"))
}

/// Hands the lead to the master at this address and waits until it leads. The answer may be lost
/// because the lead moves.
pub(super) async fn make_lead(client: &Client, url: &str) -> anyhow::Result<()> {
    let path = format!("{}/lead", path_of(client, url).await?);
    eventually("the master is asked to lead", async || {
        let answer = client.post_raw(&path, &()).await?;
        match answer.status.is_success() {
            true => Ok(()),
            false => bail!("{}: {}", answer.status, answer.text()),
        }
    })
    .await;
    let leads = (url.to_owned(), MasterRole::Leader);
    eventually("it leads", async || {
        let roles = roles(client).await?;
        ensure!(roles.contains(&leads), "{roles:?}");
        Ok(())
    })
    .await;
    Ok(())
}

async fn roles(client: &Client) -> anyhow::Result<Vec<(String, MasterRole)>> {
    let masters = client.masters().await?;
    Ok(masters.into_iter().map(|it| (it.url, it.role)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_leaders_lose_nothing_and_double_nothing() -> Result {
    let mut cluster = Cluster::new().masters(3).agents(2).start().await?;
    let clients: Vec<_> = (0..3)
        .map(|index| cluster.client_of(index))
        .collect::<anyhow::Result<_>>()?;
    let mut names = Vec::new();
    for round in 0..4 {
        let clients = clients.clone();
        let submitting = tokio::spawn(async move {
            let mut names = Vec::new();
            for number in 0..25 {
                let name = format!("job-{round}-{number}");
                submit_surely(&clients, &Job::command(["true"]).count(2).name(&name)).await?;
                names.push(name);
            }
            Ok::<_, anyhow::Error>(names)
        });
        // sleep: the kill comes at another moment of the work each time.
        tokio::time::sleep(Duration::from_millis(30 + 40 * round)).await;
        let leader = cluster.leader().await?;
        cluster.kill_master_at(leader);
        cluster.speak_to((leader + 1) % 3)?;
        names.extend(submitting.await??);
        cluster.start_master_at(leader).await?;
    }
    for name in &names {
        let job = cluster.client().ended(name).await;
        assert_eq!(
            (job.state, job.finished),
            (JobState::Finished, 2),
            "{job:?}"
        );
    }
    let tasks = cluster.client().tasks("?state=finished").await?;
    assert_eq!(tasks.len(), 2 * names.len(), "each ran once");
    // Every master has come to the same.
    let counts = |client: Client| async move {
        let tasks = client.tasks("").await?;
        let mut tasks: Vec<_> = tasks
            .into_iter()
            .map(|it| (it.id, it.status.state))
            .collect();
        tasks.sort();
        anyhow::Ok(tasks)
    };
    let first = counts(clients[0].clone()).await?;
    for client in &clients[1..] {
        assert_eq!(counts(client.clone()).await?, first);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_and_their_readers_go_on_while_the_lead_moves() -> Result {
    let mut cluster = Cluster::new().masters(3).start().await?;
    let gate = cluster.dir().join("gate");
    let script = format!(
        "echo before; while ! test -e {}; do sleep 0.02; done; echo after",
        gate.display()
    );
    cluster
        .client()
        .submit(&Job::shell(&script).name("long"))
        .await?;
    let task = cluster.client().running("long").await;
    let leader = cluster.leader().await?;
    cluster.kill_master_at(leader);
    cluster.speak_to((leader + 1) % 3)?;
    let next = cluster.leader().await?;
    assert_ne!(next, leader);
    let client = cluster.client().clone();
    eventually("the agent is back", async || {
        let agents = client.agents().await?;
        match agents.iter().all(|agent| agent.connected) {
            true => Ok(()),
            false => bail!("{agents:?}"),
        }
    })
    .await;
    assert_eq!(client.task(&task).await?.status.state, TaskState::Running);
    std::fs::write(&gate, "")?;
    let job = client.ended("long").await;
    assert_eq!(job.state, JobState::Finished, "{job:?}");
    assert_eq!(client.output(&task, "stdout").await?, "before\nafter\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_master_takes_work_and_shows_it_at_once() -> Result {
    let cluster = Cluster::new().masters(3).start().await?;
    for index in 0..3 {
        let client = cluster.client_of(index)?;
        let name = format!("job-{index}");
        client.run(&Job::command(["true"]).name(&name)).await?;
        // A read on any other master sees what this one has answered.
        let other = cluster.client_of((index + 1) % 3)?;
        let tasks = other.tasks(&format!("?search={name}")).await?;
        assert_eq!(tasks.len(), 1, "{tasks:?}");
        assert_eq!(tasks[0].status.state, TaskState::Finished);
    }
    let leader = cluster.url_of_master(cluster.leader().await?);
    for index in 0..3 {
        let answer = cluster.client_of(index)?.get_raw("/v1/cluster").await?;
        let named = answer.headers.get("tepui-leader");
        let named = named.map(|url| url.to_str().unwrap_or_default());
        let is_leader = cluster.url_of_master(index) == leader;
        assert_eq!(named, (!is_leader).then_some(leader.as_str()));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn five_masters_outlive_two() -> Result {
    let mut cluster = Cluster::new().masters(5).start().await?;
    let leader = cluster.leader().await?;
    let left = (leader + 1) % 5;
    for index in [leader, (leader + 3) % 5] {
        cluster.kill_master_at(index);
    }
    cluster.speak_to(left)?;
    let client = cluster.client().clone();
    let job = Job::command(["true"]).name("after");
    submit_surely(std::slice::from_ref(&client), &job).await?;
    assert_eq!(client.ended("after").await.state, JobState::Finished);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_takes_nothing_and_says_so() -> Result {
    let mut cluster = Cluster::new().masters(3).start().await?;
    let leader = cluster.leader().await?;
    for index in (0..3).filter(|index| *index != leader) {
        cluster.kill_master_at(index);
    }
    let client = cluster.client_of(leader)?;
    eventually("the leader notices that it leads nobody", async || {
        let answer = client.submit_raw(&Job::command(["true"])).await?;
        match answer.status.as_u16() {
            503 => Ok(()),
            status => bail!("{status}"),
        }
    })
    .await;
    let problem = client.get_raw("/v1/tasks").await?.problem();
    assert_eq!(problem.code, "no-leader");
    assert!(problem.detail.contains("majority"), "{problem:?}");
    assert!(problem.detail.contains("?stale"), "{problem:?}");
    let problem = client.get_raw("/frameworks/batch/jobs").await?.problem();
    assert_eq!(problem.code, "no-leader");
    assert!(!problem.detail.contains("stale"), "{problem:?}");
    // What it has can be read all the same, and says so.
    for path in ["/v1/tasks", "/v1/agents", "/v1/cluster", "/v1/masters"] {
        let request = client.request(Method::GET, &format!("{path}?stale"));
        let answer = request.send().await?;
        assert_eq!(answer.status(), 200, "{path}");
        for header in [INDEX_HEADER, AGE_HEADER] {
            let value = answer.headers().get(header).context("how old it is")?;
            assert!(value.to_str()?.parse::<u64>()? > 0, "{path}: {header}");
        }
    }
    let back = (leader + 1) % 3;
    cluster.start_master_at(back).await?;
    cluster.speak_to(back)?;
    let client = cluster.client().clone();
    let job = Job::command(["true"]).name("again");
    submit_surely(std::slice::from_ref(&client), &job).await?;
    assert_eq!(client.ended("again").await.state, JobState::Finished);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_comes_back_alone_says_how_old_what_it_has_is() -> Result {
    let mut cluster = Cluster::new().masters(3).start().await?;
    (0..3).for_each(|index| cluster.kill_master_at(index));
    // sleep: what it has grows old.
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.spawn_master(0)?;
    let client = Client::new(&cluster.url_of_master(0))?;
    let age = eventually("it answers", async || {
        let answer = client.get_raw("/v1/agents?stale").await?;
        ensure!(answer.status.is_success(), "{}", answer.text());
        let age = answer.headers.get(AGE_HEADER).context("how old it is")?;
        Ok(age.to_str()?.parse::<u64>()?)
    })
    .await;
    assert!(age >= 500, "{age} ms, and nobody led");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_master_comes_back_under_a_new_id_and_votes_again() -> Result {
    let mut cluster = Cluster::new().masters(3).start().await?;
    cluster.client().run(&Job::command(["true"])).await?;
    let leader = cluster.leader().await?;
    let wiped = (leader + 1) % 3;
    cluster.speak_to(leader)?;
    let url = cluster.url_of_master(wiped);
    let before = cluster.client().masters().await?;
    let id_of = |masters: &[tepui_types::api::master::MasterView]| {
        let found = masters.iter().find(|master| master.url == url);
        found.map(|master| master.id)
    };
    cluster.kill_master_at(wiped);
    std::fs::remove_dir_all(cluster.dir_of_master(wiped))?;
    cluster.start_master_at(wiped).await?;
    let client = cluster.client().clone();
    let after = eventually("it votes", async || {
        let masters = client.masters().await?;
        let is_voter = |role| matches!(role, MasterRole::Voter | MasterRole::Leader);
        match masters.len() == 3 && masters.iter().all(|master| is_voter(master.role)) {
            true => Ok(masters),
            false => bail!("{masters:?}"),
        }
    })
    .await;
    assert_ne!(
        id_of(&before),
        id_of(&after),
        "a wiped folder is another master"
    );
    // It counts for the majority: without one of the others, work goes on.
    let other = (leader + 2) % 3;
    cluster.kill_master_at(other);
    submit_surely(
        std::slice::from_ref(&client),
        &Job::command(["true"]).name("after"),
    )
    .await?;
    assert_eq!(client.ended("after").await.state, JobState::Finished);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_was_away_for_long_is_brought_an_image() -> Result {
    let plan = Cluster::new()
        .masters(3)
        .master_flag("--snapshot-entries", "100");
    let mut cluster = plan.start().await?;
    let leader = cluster.leader().await?;
    cluster.speak_to(leader)?;
    let away = (leader + 1) % 3;
    cluster.kill_master_at(away);
    for number in 0..60 {
        let job = Job::command(["true"])
            .count(3)
            .name(&format!("job-{number}"));
        cluster.client().run(&job).await?;
    }
    cluster.start_master_at(away).await?;
    let tasks = cluster.client_of(away)?.tasks("").await?;
    assert_eq!(tasks.len(), 180);
    let log = cluster.log_of_master(away);
    assert!(
        log.contains("started anew from the leader's image"),
        "{log}"
    );
    // It can lead with what it was brought.
    let client = cluster.client_of(away)?;
    make_lead(&client, &cluster.url_of_master(away)).await?;
    submit_surely(
        std::slice::from_ref(&client),
        &Job::command(["true"]).name("after"),
    )
    .await?;
    assert_eq!(client.ended("after").await.state, JobState::Finished);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_while_work_goes_on() -> Result {
    let mut cluster = Cluster::new().start().await?;
    let first = cluster.client().masters().await?.remove(0);
    let (second, third) = (cluster.add_master().await?, cluster.add_master().await?);
    let client = cluster.client_of(second)?;
    eventually("all vote", async || {
        let roles = roles(&client).await?;
        let voters = roles.iter().filter(|(_, role)| *role == MasterRole::Voter);
        match voters.count() == 2 {
            true => Ok(()),
            false => bail!("{roles:?}"),
        }
    })
    .await;
    client
        .run(&Job::command(["true"]).name("among-three"))
        .await?;
    // The leader itself leaves: it hands over first, and its process ends.
    remove_surely(&client, &format!("/v1/masters/{}", first.id)).await;
    let status = eventually("the removed master ends", async || {
        cluster.master_ended(0).context("it runs")
    })
    .await;
    assert!(!status.success(), "it says that it was removed");
    assert!(
        cluster
            .log_of_master(0)
            .contains("was removed from the cluster")
    );
    cluster.kill_master_at(0);
    submit_surely(
        std::slice::from_ref(&client),
        &Job::command(["true"]).name("among-two"),
    )
    .await?;
    assert_eq!(client.ended("among-two").await.state, JobState::Finished);
    let masters = cluster.client_of(third)?.masters().await?;
    assert_eq!(masters.len(), 2, "{masters:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_shrinks_to_one_that_starts_again() -> Result {
    let mut cluster = Cluster::new().start().await?;
    let first = cluster.client().masters().await?.remove(0);
    let second = cluster.add_master().await?;
    let client = cluster.client_of(second)?;
    all_vote(&client, 2).await;
    remove_surely(&client, &format!("/v1/masters/{}", first.id)).await;
    eventually("the removed master ends", async || {
        cluster.master_ended(0).context("it runs")
    })
    .await;
    cluster.kill_master_at(0);
    submit_surely(
        std::slice::from_ref(&client),
        &Job::command(["true"]).name("alone"),
    )
    .await?;
    eventually("the table has one master", async || {
        let masters = client.masters().await?;
        match masters.len() {
            1 => Ok(()),
            _ => bail!("{masters:?}"),
        }
    })
    .await;
    // Alone, it is a majority, also after it has read its log again.
    cluster.kill_master_at(second);
    cluster.start_master_at(second).await?;
    cluster.speak_to(second)?;
    assert_eq!(client.ended("alone").await.state, JobState::Finished);
    submit_surely(
        std::slice::from_ref(&client),
        &Job::command(["true"]).name("again"),
    )
    .await?;
    assert_eq!(client.ended("again").await.state, JobState::Finished);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_follower_ends_and_the_rest_goes_on() -> Result {
    let mut cluster = Cluster::new().masters(3).start().await?;
    let leader = cluster.leader().await?;
    let removed = (leader + 1) % 3;
    cluster.speak_to(leader)?;
    let client = cluster.client().clone();
    let path = path_of(&client, &cluster.url_of_master(removed)).await?;
    remove_surely(&client, &path).await;
    eventually("the removed master ends", async || {
        cluster.master_ended(removed).context("it runs")
    })
    .await;
    let log = cluster.log_of_master(removed);
    assert!(log.contains("was removed from the cluster"), "{log}");
    cluster.kill_master_at(removed);
    submit_surely(
        std::slice::from_ref(&client),
        &Job::command(["true"]).name("after"),
    )
    .await?;
    assert_eq!(client.ended("after").await.state, JobState::Finished);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_was_removed_while_it_was_down_ends_when_it_comes_back() -> Result {
    let mut cluster = Cluster::new().masters(3).start().await?;
    let leader = cluster.leader().await?;
    let removed = (leader + 1) % 3;
    cluster.speak_to(leader)?;
    let client = cluster.client().clone();
    let path = path_of(&client, &cluster.url_of_master(removed)).await?;
    cluster.kill_master_at(removed);
    remove_surely(&client, &path).await;
    all_vote(&client, 2).await;
    cluster.spawn_master(removed)?;
    eventually("it ends", async || {
        cluster.master_ended(removed).context("it runs")
    })
    .await;
    let log = cluster.log_of_master(removed);
    assert!(log.contains("was removed from the cluster"), "{log}");
    all_vote(&client, 2).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_joins_while_one_that_it_has_not_heard_of_leads() -> Result {
    let mut cluster = Cluster::new().start().await?;
    let second = cluster.add_master().await?;
    let client = cluster.client_of(second)?;
    all_vote(&client, 2).await;
    make_lead(&client, &cluster.url_of_master(second)).await?;
    // The only image is the first master's first, which knows nobody else.
    cluster.add_master().await?;
    all_vote(&client, 3).await;
    Ok(())
}

/// Waits until there are so many masters, and all of them vote.
pub(super) async fn all_vote(client: &Client, masters: usize) {
    eventually("all vote", async || {
        let roles = roles(client).await?;
        let is_voter = |role| matches!(role, MasterRole::Voter | MasterRole::Leader);
        match roles.len() == masters && roles.iter().all(|(_, role)| is_voter(*role)) {
            true => Ok(()),
            false => bail!("{roles:?}"),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_were_told_different_things_found_nothing() -> Result {
    let cluster = Cluster::new().without_batch().start().await?;
    let program = tepui_tests::process::program("tepui-master")?;
    let start = |name: &str, flags: &[&str]| {
        let mut command = tokio::process::Command::new(&program);
        let dir = cluster.dir().join(name);
        command.args(flags).arg("--dir").arg(dir).kill_on_drop(true);
        command.output()
    };
    let refused = async |output: std::process::Output, word: &str| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(word), "{said}");
    };
    let listen = ["--listen", "127.0.0.1:0"];
    let member = cluster.url();
    let flags = [&listen[..], &["--peers", member]].concat();
    refused(start("unlisted", &flags).await?, "--advertise").await;
    let flags = [&listen[..], &["--join", "127.0.0.1:1"]].concat();
    refused(start("alone", &flags).await?, "failed to reach").await;
    // Two that were started with lists of their own.
    let addresses = tepui_tests::cluster::addresses(3)?;
    let [one, two, three] = &addresses[..] else {
        panic!("three addresses")
    };
    let (short, long) = (format!("{one},{two}"), format!("{one},{two},{three}"));
    let first = start("first", &["--listen", one, "--peers", &short]);
    let second = start("second", &["--listen", two, "--peers", &long]);
    // Each is told, whichever sees the other first.
    let both = async { tokio::try_join!(first, second) };
    let (first, second) = tokio::time::timeout(DEADLINE, both).await??;
    refused(first, "the same list").await;
    refused(second, "the same list").await;
    let twice = format!("{three},{three}");
    let output = start("twice", &["--listen", three, "--peers", &twice]).await?;
    refused(output, "listed twice").await;
    // One that speaks another token.
    let token = |name: &str, text: &str| -> anyhow::Result<String> {
        let path = cluster.dir().join(name);
        std::fs::write(&path, text.repeat(32))?;
        Ok(path.display().to_string())
    };
    let (ours, theirs) = (token("ours", "a")?, token("theirs", "b")?);
    let flags = ["--listen", one, "--peers", &short, "--token-file", &theirs];
    let other = start("other", &flags);
    let flags = ["--listen", two, "--join", one, "--token-file", &ours];
    let joins = async {
        loop {
            let output = start("joins", &flags).await?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // Until the other one listens.
            if said.contains("--token-file") {
                return anyhow::Ok(());
            }
        }
    };
    tokio::select! {
        output = other => panic!("it should wait: {output:?}"),
        told = tokio::time::timeout(DEADLINE, joins) => told??,
    }
    Ok(())
}
