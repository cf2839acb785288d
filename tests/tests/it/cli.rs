//! `tepui`, as a user types it.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tepui_cli::leftovers;
use tepui_tests::eventually::DEADLINE;
use tepui_tests::process::{self, Process};
use tepui_tests::{Client, Cluster, Job, eventually};
use tepui_types::TaskState;
use tepui_types::api::job::JobState;
use tepui_types::api::master::MasterRole;

use super::Result;

/// Runs `tepui` against a cluster.
pub(super) async fn tepui(cluster: &Cluster, args: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(process::program("tepui")?);
    command
        .env("TEPUI_MASTER", cluster.url())
        .args(args)
        .stdin(Stdio::null());
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs what must succeed; gives what it prints.
pub(super) async fn ok(cluster: &Cluster, args: &[&str]) -> anyhow::Result<String> {
    let output = tepui(cluster, args).await?;
    assert!(
        output.status.success(),
        "tepui {args:?}: {}",
        text(&output.stderr)
    );
    Ok(text(&output.stdout))
}

/// Runs what must fail; gives what it says.
pub(super) async fn refused(cluster: &Cluster, args: &[&str]) -> anyhow::Result<String> {
    let output = tepui(cluster, args).await?;
    assert!(!output.status.success(), "tepui {args:?} is not refused");
    Ok(text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn run_streams_output_and_exits_as_the_task_does() -> Result {
    let cluster = Cluster::new().start().await?;
    assert_eq!(
        ok(&cluster, &["run", "--", "echo", "hello"]).await?,
        "hello\n"
    );
    let output = tepui(&cluster, &["run", "--", "sh", "-c", "echo e >&2; exit 42"]).await?;
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        ("".into(), "e\n".into())
    );
    let output = tepui(&cluster, &["run", "--", "sh", "-c", "kill -9 $$"]).await?;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("signal"),
        "{}",
        text(&output.stderr)
    );

    for guest in ["hello", "hello-p1", "hello-c"] {
        let file = process::guest(&format!("tasks/{guest}.wasm"))?
            .display()
            .to_string();
        let said = ok(&cluster, &["run", "--env", "A=b", &file, "x", "-y"]).await?;
        assert!(said.to_lowercase().contains("hello"), "{guest}: {said}");
    }
    let file = process::guest("tasks/exit-code-p1.wasm")?
        .display()
        .to_string();
    let output = tepui(&cluster, &["run", &file, "9"]).await?;
    assert_eq!(output.status.code(), Some(9));
    let output = tepui(&cluster, &["run", "--count", "20", &file, "0"]).await?;
    assert!(output.status.success());
    assert!(
        text(&output.stderr).contains("20 finished"),
        "{}",
        text(&output.stderr)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nouns_are_listed_and_shown() -> Result {
    let cluster = Cluster::new().start().await?;
    let name = ok(
        &cluster,
        &["run", "--detach", "--name", "mine", "--", "sleep", "600"],
    )
    .await?;
    assert_eq!(name, "mine\n");
    let id = cluster.client().running("mine").await.to_string();
    assert!(ok(&cluster, &["task", "list"]).await?.contains(&id));
    assert!(
        ok(&cluster, &["task", "show", "mine"])
            .await?
            .contains("sleep 600")
    );
    assert!(ok(&cluster, &["job", "list"]).await?.contains("mine"));
    assert!(ok(&cluster, &["agent", "list"]).await?.contains("agent-0"));
    assert!(
        ok(&cluster, &["agent", "show", "a1"])
            .await?
            .contains("agent-0")
    );
    assert!(
        ok(&cluster, &["framework", "list"])
            .await?
            .contains("batch")
    );
    assert!(
        ok(&cluster, &["framework", "show", "batch"])
            .await?
            .contains("running")
    );
    assert!(
        ok(&cluster, &["artifact", "list"])
            .await?
            .contains("sha256:")
    );
    assert!(ok(&cluster, &["status"]).await?.contains("1 running"));
    ok(&cluster, &["framework", "logs", "batch"]).await?;
    ok(&cluster, &["task", "kill", "--grace", "100ms", &id]).await?;
    cluster.client().ended("mine").await;
    for args in [
        &["status"][..],
        &["task", "list", "--all"],
        &["task", "show", &id],
        &["job", "list"],
        &["job", "show", "mine"],
        &["agent", "list"],
        &["framework", "list"],
        &["artifact", "list"],
        &["explain", "mine"],
    ] {
        let args: Vec<&str> = ["-o", "json"].iter().chain(args).copied().collect();
        let said = ok(&cluster, &args).await?;
        serde_json::from_str::<Value>(&said).with_context(|| format!("{args:?}: {said}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_and_frameworks_come_and_go() -> Result {
    let cluster = Cluster::new().without_batch().start().await?;
    let file = cluster.dir().join("file");
    std::fs::write(&file, "some bytes")?;
    let put = ok(&cluster, &["artifact", "put", &file.display().to_string()]).await?;
    let to = cluster.dir().join("copy").display().to_string();
    ok(&cluster, &["artifact", "get", put.trim(), "-O", &to]).await?;
    assert_eq!(std::fs::read_to_string(&to)?, "some bytes");

    let guest = process::guest("test-frameworks/unruly.wasm")?
        .display()
        .to_string();
    ok(&cluster, &["framework", "deploy", "guest", &guest]).await?;
    eventually("it runs", async || {
        let shown = ok(&cluster, &["framework", "show", "guest"]).await?;
        match shown.contains("running") {
            true => Ok(()),
            false => anyhow::bail!("{shown}"),
        }
    })
    .await;
    ok(&cluster, &["framework", "restart", "guest"]).await?;
    let said = ok(&cluster, &["framework", "remove", "guest"]).await?;
    assert!(said.contains("is removed"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_hangs_is_passed_over() -> Result {
    let cluster = Cluster::new().masters(3).start().await?;
    let leader = cluster.leader().await?;
    let hung = (0..3)
        .find(|index| *index != leader)
        .context("a follower")?;
    let client = cluster.client_of(leader)?;
    let script = "echo before; while ! test -e go; do sleep 0.02; done; echo after";
    let job = client.submit(&Job::shell(script)).await?;
    let task = client.running(&job.name).await;
    let masters = [hung, leader].map(|index| cluster.url_of_master(index));
    let masters = masters.join(",");
    let log = cluster.dir().join("follow.log");
    let args = [
        "--master",
        &masters,
        "task",
        "logs",
        "-f",
        &task.to_string(),
    ];
    let args: Vec<_> = args.iter().map(Into::into).collect();
    let mut reader = Process::spawn("reader", &process::program("tepui")?, &args, &log)?;
    eventually("the output is read through it", async || {
        match reader.log() {
            log if log.contains("before") => Ok(()),
            log => Err(log),
        }
    })
    .await;
    let pid = Pid::from_raw(cluster.pid_of_master(hung)?);
    kill(pid, Signal::SIGSTOP)?;
    let said = ok(&cluster, &["--master", &masters, "status"]).await?;
    assert!(said.contains("3"), "{said}");
    let agent = cluster.agent_dir(0);
    std::fs::write(agent.join(format!("tasks/{task}/sandbox/go")), "")?;
    assert!(reader.wait().success(), "{}", reader.log());
    assert_eq!(reader.log(), "before\nafter\n");
    kill(pid, Signal::SIGCONT)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_in_words() -> Result {
    let cluster = Cluster::new().start().await?;
    for (args, code, word) in [
        (&["run"][..], 2, "Usage"),
        (&["run", "--mem", "64", "--", "true"], 2, "64MiB"),
        (&["run", "echo", "hi"], 1, "two dashes"),
        (&["run", "/no/such/file.wasm"], 1, "/no/such/file.wasm"),
        (
            &["run", "--name", "Not A Name", "--", "true"],
            1,
            "Not A Name",
        ),
        (&["task", "show", "nobody"], 1, "nobody"),
        (&["task", "logs", "f1.nobody.0"], 1, "f1.nobody.0"),
        (&["agent", "show", "a99"], 1, "a99"),
        (&["framework", "show", "nobody"], 1, "nobody"),
        (
            &["--master", "http://127.0.0.1:1", "status"],
            1,
            "tepui dev",
        ),
        (
            &["--master", "ftp://x", "status"],
            1,
            "http://127.0.0.1:5050",
        ),
        (&["--token", "wrong", "status"], 1, "token"),
    ] {
        let output = tepui(&cluster, args).await?;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(word), "{args:?}: {said}");
    }
    let script = ok(&cluster, &["completion", "bash"]).await?;
    assert!(script.contains("_tepui"), "{script}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_says_why_and_ends_with_ctrl_c() -> Result {
    let cluster = Cluster::new().start().await?;
    let log = cluster.dir().join("run.log");
    let args = [
        "--master",
        cluster.url(),
        "run",
        "--name",
        "huge",
        "--cpus",
        "64",
        "--",
        "true",
    ];
    let args: Vec<_> = args.iter().map(Into::into).collect();
    let mut run = Process::spawn("run", &process::program("tepui")?, &args, &log)?;
    eventually("it says why it waits", async || match run.log() {
        log if log.contains("waits") && log.contains("cpus") => Ok(()),
        log => Err(log),
    })
    .await;
    let status = run.terminate();
    assert_eq!(status.code(), Some(128 + 15), "{}", run.log());
    let job = cluster.client().job("huge").await?;
    assert_eq!(job.state, JobState::Killed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_ends_the_job() -> Result {
    let cluster = Cluster::new().start().await?;
    let tepui = process::program("tepui")?.display().to_string();
    let script = "i=0; while test $i -lt 100000; do echo line $i; i=$((i+1)); done; sleep 600";
    let line = format!("{tepui} run --name loud -- sh -c '{script}' | head -n 1");
    let mut shell = tokio::process::Command::new("sh");
    shell
        .args(["-c", &line])
        .env("TEPUI_MASTER", cluster.url())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, shell.output()).await??;
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        ("line 0\n".into(), "".into())
    );
    let job = cluster.client().ended("loud").await;
    assert_eq!((job.state, job.killed), (JobState::Killed, 1), "{job:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_says_what_keeps_it_from_starting() -> Result {
    let cluster = Cluster::new().without_batch().start().await?;
    let (_, port) = cluster.url().rsplit_once(':').context("a port")?;
    let file = cluster.dir().join("file");
    std::fs::write(&file, "in the way")?;
    let home = cluster.dir().join("dev").display().to_string();
    let below = file.join("dev").display().to_string();
    for (args, word) in [
        (["dev", "--port", port, "--dir", &home], "--port"),
        (["dev", "--port", "0", "--dir", &below], "--dir"),
        (
            ["dev", "--frameworks", "/no/such/folder", "--dir", &home],
            "/no/such/folder",
        ),
    ] {
        let output = tepui(&cluster, &args).await?;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains(word), "{args:?}: {said}");
        assert!(!std::path::Path::new(&home).exists(), "{args:?}");
    }
    assert_eq!(
        cluster.client().agents().await?.len(),
        1,
        "no agent of theirs came here"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_raises_a_cluster_and_leaves_nothing_behind() -> Result {
    let dir = tempfile::Builder::new().prefix("tepui-test-").tempdir()?;
    let home = dir.path().join("dev");
    let log = dir.path().join("dev.log");
    let start = || {
        let args = ["dev", "--agents", "2", "--port", "0", "--dir"];
        let mut args: Vec<_> = args.iter().map(Into::into).collect();
        args.push(home.clone().into());
        let _ = std::fs::remove_file(&log);
        Process::spawn("dev", &process::program("tepui")?, &args, &log)
    };
    let agents = [home.join("agent-1"), home.join("agent-2")];
    let mut cluster = None;
    for _ in 0..2 {
        let mut dev = start()?;
        eventually("the cluster runs", async || {
            match (dev.log(), dev.ended()) {
                (log, None) if log.contains("Tepui runs") => Ok(()),
                (log, Some(status)) => panic!("{status}: {log}"),
                (log, None) => Err(log),
            }
        })
        .await;
        let said = dev.log();
        let url = said
            .split_whitespace()
            .find(|word| word.starts_with("http://"));
        let client = Client::new(url.context("it names the dashboard")?)?;
        let view = client.cluster().await?;
        assert_eq!(
            *cluster.get_or_insert(view.cluster),
            view.cluster,
            "the folder is kept"
        );
        assert_eq!(view.agents.get("active"), Some(&2));
        let name = format!("job-{}", client.cluster().await?.term);
        let job = Job::command(["sleep", "600"]).name(&name);
        client.submit(&job).await?;
        client.running(&name).await;

        let second = start()?.wait();
        assert!(!second.success(), "one `tepui dev` a folder");
        let status = dev.terminate();
        assert!(status.success(), "{}", dev.log());
        for agent in &agents {
            assert!(leftovers::executors(agent).is_empty());
            assert!(leftovers::tasks(agent).is_empty());
            assert!(leftovers::cgroups(agent).is_empty());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_raises_a_group_of_masters() -> Result {
    let dir = tempfile::Builder::new().prefix("tepui-test-").tempdir()?;
    let home = dir.path().join("dev");
    let args = "dev --agents 1 --masters 3 --port 0 --dir";
    let mut args: Vec<_> = args.split(' ').map(Into::into).collect();
    args.push(home.clone().into());
    let log = dir.path().join("dev.log");
    let mut dev = Process::spawn("dev", &process::program("tepui")?, &args, &log)?;
    eventually("the cluster runs", async || match dev.log() {
        log if log.contains("Tepui runs: 3 masters") => Ok(()),
        log => Err(log),
    })
    .await;
    let url = std::fs::read_to_string(home.join("master-1/address"))?;
    let client = Client::new(url.trim())?;
    let masters = eventually("all of them vote", async || {
        let masters = client.masters().await?;
        let votes = |role| matches!(role, MasterRole::Leader | MasterRole::Voter);
        let voters = masters.iter().filter(|master| votes(master.role));
        ensure!(voters.count() == 3, "{masters:?}");
        Ok(masters)
    })
    .await;
    for (master, name) in masters.iter().zip(["a", "b", "c"]) {
        let client = Client::new(&master.url)?;
        let job = client.run(&Job::command(["true"]).name(name)).await?;
        assert_eq!(job.state, JobState::Finished, "through {}", master.url);
    }
    let status = dev.terminate();
    assert!(status.success(), "{}", dev.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_takes_over_from_one_that_was_killed() -> Result {
    let dir = tempfile::Builder::new().prefix("tepui-test-").tempdir()?;
    let home = dir.path().join("dev");
    let start = |log: &str, port: &str| {
        let args = ["dev", "--agents", "1", "--port", port, "--dir"];
        let mut args: Vec<_> = args.iter().map(Into::into).collect();
        args.push(home.clone().into());
        Process::spawn(
            "dev",
            &process::program("tepui")?,
            &args,
            &dir.path().join(log),
        )
    };
    let runs = async |dev: &Process| {
        eventually("the cluster runs", async || match dev.log() {
            log if log.contains("Tepui runs") => Ok(()),
            log => Err(log),
        })
        .await;
        let url = std::fs::read_to_string(home.join("master/address"))?;
        Client::new(url.trim())
    };
    let mut first = start("first.log", "0")?;
    let client = runs(&first).await?;
    client
        .submit(&Job::command(["sleep", "600"]).name("steady"))
        .await?;
    let id = client.running("steady").await;
    let address = std::fs::read_to_string(home.join("master/address"))?;
    let port = address.trim().rsplit(':').next().context("a port")?;
    first.kill();
    // The first one's master is still there.
    let mut second = start("second.log", port)?;
    let client = runs(&second).await?;
    assert!(second.log().contains("master (pid"), "{}", second.log());
    assert_eq!(
        client.task(&id).await?.status.state,
        TaskState::Running,
        "it was found again"
    );
    assert!(second.terminate().success(), "{}", second.log());
    assert!(
        leftovers::named(&home).is_empty(),
        "nothing of the first is left either"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_starts_again_what_dies() -> Result {
    let dir = tempfile::Builder::new().prefix("tepui-test-").tempdir()?;
    let home = dir.path().join("dev");
    let args = ["dev", "--agents", "1", "--port", "0", "--dir"];
    let mut args: Vec<_> = args.iter().map(Into::into).collect();
    args.push(home.clone().into());
    let log = dir.path().join("dev.log");
    let mut dev = Process::spawn("dev", &process::program("tepui")?, &args, &log)?;
    eventually("the cluster runs", async || match dev.log() {
        log if log.contains("Tepui runs") => Ok(()),
        log => Err(log),
    })
    .await;
    let url = std::fs::read_to_string(home.join("master/address"))?;
    let client = Client::new(url.trim())?;
    for part in ["master", "agent-1"] {
        let identity = std::fs::read_to_string(home.join("processes").join(part))?;
        let identity: Value = serde_json::from_str(&identity)?;
        let pid = identity["pid"].as_i64().context("a process number")?;
        leftovers::kill_process(i32::try_from(pid)?);
        eventually("it is started again", async || match dev.log() {
            log if log.contains(&format!("{part} died")) => Ok(()),
            log => Err(log),
        })
        .await;
        eventually("the cluster works", async || {
            let job = Job::command(["echo", "fine"]);
            client.output_of(&job).await
        })
        .await;
    }
    assert!(dev.terminate().success(), "{}", dev.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_are_drained_and_maintained_in_words() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let job = client.submit(&Job::command(["sleep", "600"])).await?;
    client.running(&job.name).await;
    let agent = client.agent("agent-0").await?.id.to_string();
    let drain = ["agent", "drain", &agent, "--grace", "1s", "--wait"];
    let drained = ok(&cluster, &drain).await?;
    assert_eq!(drained, format!("{agent} (agent-0) is drained\n"));
    let list = ok(&cluster, &["agent", "list"]).await?;
    assert!(list.contains("drained"), "{list}");
    let show = ok(&cluster, &["agent", "show", &agent]).await?;
    assert!(show.contains("drain began"), "{show}");
    let open = ok(&cluster, &["agent", "reactivate", &agent]).await?;
    assert_eq!(open, format!("{agent} (agent-0) is active\n"));

    let window = [
        "maintenance",
        "schedule",
        "--start",
        "in 1h",
        "--duration",
        "1h",
        "--note",
        "disks",
        &agent,
    ];
    let window = ok(&cluster, &window).await?;
    assert!(
        window.contains("disks") && window.contains("w1"),
        "{window}"
    );
    let windows = ok(&cluster, &["-o", "json", "maintenance", "list"]).await?;
    let windows: Value = serde_json::from_str(&windows)?;
    assert_eq!(windows[0]["agents"][0], agent.as_str());
    ok(&cluster, &["maintenance", "cancel", "w1"]).await?;
    let none = ok(&cluster, &["maintenance", "list"]).await?;
    assert!(none.contains("no maintenance is planned"), "{none}");

    for (args, wanted) in [
        (&["agent", "drain", "a99"][..], "there is no agent a99"),
        (&["maintenance", "cancel", "w9"], "over or was cancelled"),
        (
            &["run", "--stop-after", "1s", "--", "true"],
            "5000 is the least",
        ),
        (
            &[
                "maintenance",
                "schedule",
                "--start",
                "soon",
                "--duration",
                "1h",
                "a1",
            ],
            "in 2h",
        ),
    ] {
        let output = tepui(&cluster, args).await?;
        assert!(!output.status.success(), "{args:?}");
        let said = text(&output.stderr);
        assert!(said.contains(wanted), "{args:?}: {said}");
    }
    Ok(())
}
