//! Reaching into tasks of a whole cluster, as a user does: commands beside them, their input, their
//! ports and files, and finding them by name.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tepui_tests::process::program;
use tepui_tests::{Cluster, Job, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Result;
use super::cli::{ok, refused, tepui};

const WAITING: &str = "while true; do sleep 0.05; done";

/// Runs `tepui` with something to read, against that master.
async fn typed(master: &str, args: &[&str], input: &'static str) -> anyhow::Result<Output> {
    let mut command = Command::new(program("tepui")?);
    command.env("TEPUI_MASTER", master).args(args);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let running = move || {
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().expect("it is piped");
        // It need not read all of it.
        let writing = std::thread::spawn(move || {
            let _ = std::io::Write::write_all(&mut stdin, input.as_bytes());
        });
        let output = child.wait_with_output();
        // It has hung up.
        let _ = writing.join();
        output
    };
    Ok(tokio::task::spawn_blocking(running).await??)
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_looks_into_a_task_that_runs() -> Result {
    let cluster = Cluster::new().masters(3).start().await?;
    let script = format!("mkdir folder; echo inside > folder/file; touch ready; {WAITING}");
    cluster
        .client()
        .submit(&Job::shell(&script).name("work"))
        .await?;
    let id = cluster.client().running("work").await;
    let folder = cluster.agent_dir(0).join("tasks").join(id.to_string());
    eventually("the task has begun", async || {
        anyhow::ensure!(folder.join("sandbox/ready").exists());
        Ok(())
    })
    .await;

    // By any master, and by the task's name.
    for index in 0..3 {
        let script = "cat - folder/file; echo said >&2; exit 3";
        let args = ["exec", "-i", "work", "sh", "-c", script];
        let output = typed(&cluster.url_of_master(index), &args, "typed ").await?;
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert_eq!(out(&output), "typed inside\n");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "said\n");
    }
    let added = ok(
        &cluster,
        &["exec", "--env", "A=b c", "work", "sh", "-c", "echo $A"],
    )
    .await?;
    assert_eq!(added, "b c\n");
    let why = refused(&cluster, &["exec", "work", "no-such-program"]).await?;
    assert!(why.contains("no-such-program"), "{why}");
    let why = refused(&cluster, &["exec", "-t", "work", "sh"]).await?;
    assert!(why.contains("needs a terminal"), "{why}");

    let why = refused(&cluster, &["task", "logs", "--member", "typo", "work"]).await?;
    assert!(why.contains("it has main"), "{why}");

    let listed = ok(&cluster, &["task", "files", "work"]).await?;
    assert!(
        listed.contains("folder/") && listed.contains("ready"),
        "{listed}"
    );
    let listed = ok(&cluster, &["task", "files", "work", "folder"]).await?;
    assert!(
        listed.contains("file") && listed.contains("7 B"),
        "{listed}"
    );
    let printed = ok(&cluster, &["task", "cat", "work", "folder/file"]).await?;
    assert_eq!(printed, "inside\n");
    // How long a file is that has not been read nobody says; least of all that it is empty.
    let file = format!("/v1/tasks/{id}/files/folder/file?form=bytes");
    for index in 0..3 {
        let url = format!("{}{file}", cluster.url_of_master(index));
        let head = reqwest::Client::new().head(url).send().await?;
        assert_eq!(head.status(), 200);
        assert_eq!(head.headers().get("content-length"), None);
    }
    let download = ["task", "download", "work", "folder/file", "--to", "-"];
    assert_eq!(ok(&cluster, &download).await?, "inside\n");
    let place = tempfile::tempdir()?;
    let to = place.path().join("folder.tar");
    let to_text = to.to_str().expect("a path of text");
    let download = ["task", "download", "work", "folder", "--to", to_text];
    ok(&cluster, &download).await?;
    let archive = std::fs::read(&to)?;
    assert!(archive.windows(6).any(|part| part == b"inside"));
    let why = refused(&cluster, &download).await?;
    assert!(why.contains("--to"), "{why}");
    for (path, hint) in [("missing", "`missing`"), ("../stdout", "leads out")] {
        let why = refused(&cluster, &["task", "cat", "work", path]).await?;
        assert!(why.contains(hint), "{path}: {why}");
    }
    let why = refused(&cluster, &["exec", "f1.none.0", "true"]).await?;
    assert!(why.contains("f1.none.0"), "{why}");
    ok(&cluster, &["task", "kill", "work"]).await?;
    cluster.client().ended("work").await;
    let why = refused(&cluster, &["exec", "work", "true"]).await?;
    assert!(why.contains("ended"), "{why}");
    // What it left can be had still.
    let printed = ok(&cluster, &["task", "cat", "work", "folder/file"]).await?;
    assert_eq!(printed, "inside\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_says_is_whole_when_it_does_not_read_all_that_it_is_sent() -> Result {
    let cluster = Cluster::new().masters(3).start().await?;
    cluster
        .client()
        .submit(&Job::shell(WAITING).name("work"))
        .await?;
    cluster.client().running("work").await;
    // More than what lies between the two takes in.
    let input: &'static str = "x".repeat(30_000_000).leak();
    let script = "head -c 3000000 /dev/zero; exit 5";
    for round in 0..6 {
        let args = ["exec", "-i", "work", "sh", "-c", script];
        let output = typed(&cluster.url_of_master(round % 3), &args, input).await?;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{error}");
        assert_eq!(output.stdout.len(), 3_000_000, "{error}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_reads_what_is_typed_where_it_was_started() -> Result {
    let cluster = Cluster::new().start().await?;
    let script = "while read line; do echo got $line; done; exit 5";
    let run = ["run", "-i", "--", "sh", "-c", script];
    let output = typed(cluster.url(), &run, "one\ntwo\n").await?;
    assert_eq!(out(&output), "got one\ngot two\n", "{output:?}");
    assert_eq!(output.status.code(), Some(5));
    let why = refused(&cluster, &["run", "-i", "--count", "2", "--", "cat"]).await?;
    assert!(why.contains("--count"), "{why}");

    cluster
        .client()
        .submit(&Job::shell(WAITING).name("deaf"))
        .await?;
    cluster.client().running("deaf").await;
    let why = refused(&cluster, &["attach", "deaf"]).await?;
    assert!(why.contains("tepui run -i"), "{why}");
    Ok(())
}

/// A process that ends with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_here_leads_to_a_tasks_own() -> Result {
    let cluster = Cluster::new().start().await?;
    let script = "exec python3 -c \"
import http.server, os, sys
http.server.HTTPServer(('127.0.0.1', int(os.environ['TEPUI_PORTS'])),
    http.server.SimpleHTTPRequestHandler).serve_forever()\"";
    let checks = r#"{"readiness": {"probe": {"tcp": {}}, "interval_ms": 100}}"#;
    let job = Job::shell(script).name("site").ports(1).checks(checks);
    cluster.client().submit(&job).await?;
    let id = cluster.client().running("site").await;
    let task = cluster.client().task(&id).await?;
    let port = task.resources.ports.iter().next().expect("it has one");
    eventually("it serves", async || {
        let task = cluster.client().task(&id).await?;
        anyhow::ensure!(task.status.signs.is_some_and(|signs| signs.is_ready()));
        Ok(())
    })
    .await;
    let mut command = Command::new(program("tepui")?);
    command.env("TEPUI_MASTER", cluster.url());
    command.args(["port-forward", "site", &format!("0:{port}")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut forward = Running(command.spawn()?);
    let stdout = forward.0.stdout.take().expect("it is piped");
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
        anyhow::Ok(line)
    });
    let line = line.await??;
    let here: SocketAddr = line.split_whitespace().next().unwrap_or_default().parse()?;
    for _ in 0..3 {
        let mut connection = tokio::net::TcpStream::connect(here).await?;
        connection
            .write_all(b"GET / HTTP/1.0\r\nHost: here\r\n\r\n")
            .await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    }
    Ok(())
}

/// The addresses that a name server gives for a name (RFC 1035): none where there is no such name.
fn look_up(server: SocketAddr, name: &str) -> anyhow::Result<Vec<Ipv4Addr>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    // An id, recursion desired, one question.
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(label.len() as u8);
        packet.extend_from_slice(label.as_bytes());
    }
    // The root; type A, class IN.
    packet.extend_from_slice(&[0, 0, 1, 0, 1]);
    let question = packet.len();
    socket.send_to(&packet, server)?;
    let mut answer = [0; 1500];
    let count = socket.recv(&mut answer)?;
    let answers = usize::from(answer[6]) << 8 | usize::from(answer[7]);
    // Each names the question by a pointer: 2 bytes, then type, class, TTL, length and address.
    let records = answer[question..count].chunks_exact(16).take(answers);
    Ok(records
        .map(|record| Ipv4Addr::new(record[12], record[13], record[14], record[15]))
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_found_by_its_name_while_it_is_ready() -> Result {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let plan = Cluster::new().master_flag("--dns", &server.to_string());
    let cluster = plan.start().await?;
    let run = [
        "run",
        "--detach",
        "--name",
        "front",
        "--label",
        "service=web",
        "--label",
        "port-names=http",
        "--ports",
        "1",
        "--",
        "sh",
        "-c",
        WAITING,
    ];
    ok(&cluster, &run).await?;
    cluster.client().running("front").await;
    let loopback = vec![Ipv4Addr::LOCALHOST];
    eventually("it is found", async || {
        let found = look_up(server, "web.batch.tepui")?;
        anyhow::ensure!(found == loopback, "{found:?}");
        Ok(())
    })
    .await;
    assert_eq!(look_up(server, "front.batch.tepui")?, loopback);
    assert!(look_up(server, "other.batch.tepui")?.is_empty());
    let service: Value = cluster.client().get("/v1/services/batch/web").await?;
    assert_eq!(service["ready"], 1, "{service}");
    let port = &service["list"][0]["ports"][0];
    assert_eq!(port["name"], "http", "{service}");
    let all: Value = cluster.client().get("/v1/services").await?;
    assert_eq!(all["services"][0]["service"], "web", "{all}");
    let why = cluster.client().get_raw("/v1/services/batch/no").await?;
    assert!(why.problem().detail.contains("label"));

    tepui(&cluster, &["task", "kill", "front"]).await?;
    eventually("it is found no more", async || {
        anyhow::ensure!(look_up(server, "web.batch.tepui")?.is_empty());
        Ok(())
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_fetches_restarts_and_has_companions() -> Result {
    let files = tempfile::tempdir()?;
    std::fs::write(files.path().join("words"), "fetched words\n")?;
    let folder = files.path().to_str().expect("a path of text");
    let plan = Cluster::new().agent_flag("--fetch-folder", folder);
    let cluster = plan.start().await?;
    let fetch = format!("file://{folder}/words");
    let named = format!("here={fetch}");
    let run = [
        "run", "--fetch", &fetch, "--fetch", &named, "--", "cat", "words", "here",
    ];
    let twice = "fetched words\nfetched words\n";
    assert_eq!(ok(&cluster, &run).await?, twice);
    let foreign = ["run", "--fetch", "file:///etc/passwd", "--", "true"];
    let why = refused(&cluster, &foreign).await?;
    assert!(why.contains("fetch-outside"), "{why}");

    let script = "echo run; test $(wc -l < ../stdout) -ge 3 || exit 1";
    let revived = [
        "run", "--name", "again", "--revive", "failure", "--", "sh", "-c", script,
    ];
    let output = tepui(&cluster, &revived).await?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(out(&output).lines().count() >= 3, "{output:?}");

    let mut job =
        Job::shell("cat prepared; while ! test -e beside; do sleep 0.05; done").name("pod");
    job.companions(
        r#"[{"name": "prepare", "role": "init", "argv": ["sh", "-c", "echo ready > prepared"]},
            {"name": "helper", "argv": ["sh", "-c", "echo helps; touch beside; sleep 1000"]}]"#,
    );
    cluster.client().submit(&job).await?;
    cluster.client().ended("pod").await;
    assert_eq!(ok(&cluster, &["task", "logs", "pod"]).await?, "ready\n");
    let logs = ["task", "logs", "--member", "helper", "pod"];
    assert_eq!(ok(&cluster, &logs).await?, "helps\n");
    Ok(())
}
