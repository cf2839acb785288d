//! Bad input: each of it gets a clear error, and nothing else is disturbed.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Context;
use reqwest::Method;
use tepui_tests::process::{self, Process};
use tepui_tests::{Client, Cluster, Job, eventually};
use tepui_types::api::job::JobState;
use tepui_types::api::master::MasterView;
use tepui_types::task::reason;
use tepui_types::{Bytes, Digest, TaskState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Result;

/// A program of preview 1 in all but one import:
/// `(module (import "tepui:unknown/thing" "mystery" (func)) (memory (export "memory") 1)
/// (func (export "_start")))`
const WANTS_TOO_MUCH: &[u8] = b"\0asm\x01\0\0\0\
    \x01\x04\x01\x60\0\0\
    \x02\x1f\x01\x13tepui:unknown/thing\x07mystery\0\0\
    \x03\x02\x01\0\
    \x05\x03\x01\0\x01\
    \x07\x13\x02\x06memory\x02\0\x06_start\0\x01\
    \x0a\x04\x01\x02\0\x0b";

/// After whatever was refused, the cluster does its work as before.
async fn still_works(client: &Client) -> Result {
    assert_eq!(
        client.output_of(&Job::command(["echo", "fine"])).await?,
        "fine\n"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_framework_is_refused_with_the_reason() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let program = cluster.guest("tasks/hello.wasm").await?;
    let garbage = client.upload(b"this is not WebAssembly".to_vec()).await?;
    let greedy = cluster.guest("test-frameworks/greedy.wasm").await?;
    for (artifact, word) in [
        (program, ""),
        (garbage, ""),
        (greedy, "tepui:unknown/thing"),
    ] {
        let answer = client.deploy_raw("bad", artifact, "").await?;
        assert_eq!(answer.status, 422, "{}", answer.text());
        let problem = answer.problem();
        assert!(problem.detail.contains(word), "{problem:?}");
    }
    let unknown = client
        .deploy_raw("bad", Digest::of(b"nobody has this"), "")
        .await?;
    assert!(unknown.status.is_client_error(), "{}", unknown.text());
    assert!(unknown.problem().detail.contains("sha256:"));
    assert_eq!(client.frameworks().await?.len(), 1, "nothing was recorded");
    still_works(client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_fits_nowhere_waits_and_says_what_is_short() -> Result {
    let cluster = Cluster::new().agents(2).start().await?;
    let client = cluster.client();
    let job = Job::command(["true"]).cpus(64_000).name("huge");
    let job = client.submit(&job).await?;
    let explanation = eventually("its wait is explained", async || {
        let demands = client.demands().await?;
        let demand = demands
            .into_iter()
            .find(|demand| demand.key.contains("huge"));
        anyhow::Ok(demand.context("no demand of it")?.explanation)
    })
    .await;
    assert_eq!(explanation.agents, 2, "{explanation:?}");
    assert_eq!(explanation.fitting, 0);
    assert_eq!(explanation.too_small.get("cpus"), Some(&2));
    assert_eq!(explanation.too_small.len(), 1, "{explanation:?}");
    assert!(
        explanation.summary.contains("cpus"),
        "{}",
        explanation.summary
    );
    let view = client.job(&job.name).await?;
    assert_eq!(
        (view.state, view.waiting),
        (JobState::Waiting, 1),
        "{view:?}"
    );
    still_works(client).await?;
    client.delete_raw("/frameworks/batch/jobs/huge").await?;
    assert_eq!(client.ended("huge").await.state, JobState::Killed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_artifact_is_named() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let unknown = Digest::of(b"nobody has this");
    let answer = client
        .submit_raw(&Job::wasm(unknown, &[]).name("unknown"))
        .await?;
    assert_eq!(answer.status, 422);
    assert_eq!(answer.problem().code, reason::ARTIFACT_UNKNOWN);
    assert!(answer.problem().detail.contains(&unknown.to_string()));
    let answer = client.get_raw(&format!("/v1/artifacts/{unknown}")).await?;
    assert_eq!(answer.status, 404);
    answer.problem();
    still_works(client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_another_version_is_told_which_releases_go_together() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    for (path, own) in [
        (tepui_types::wire::peer::CONNECT_PATH, "tepui-master/1"),
        (tepui_types::wire::agent::CONNECT_PATH, "tepui-agent/1"),
    ] {
        let other = own.replace("/1", "/2");
        let request = client.request(Method::GET, path);
        let request = request.header("Connection", "upgrade");
        let answer = client.send(request.header("Upgrade", &other)).await?;
        assert_eq!(answer.status, 400, "{}", answer.text());
        let said = answer.problem().detail;
        let words = [
            own,
            &other,
            env!("CARGO_PKG_VERSION"),
            "masters before agents",
        ];
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    still_works(client).await
}

#[test]
fn a_folder_of_a_newer_release_is_refused_and_left_as_it_is() -> Result {
    let place = tempfile::tempdir()?;
    let nowhere = "http://127.0.0.1:1";
    let cases = [
        ("tepui-master", ["--listen", "127.0.0.1:0"]),
        ("tepui-agent", ["--master", nowhere]),
    ];
    for (program, more) in cases {
        let dir = place.path().join(program);
        std::fs::create_dir(&dir)?;
        let format = format!("{program} 2\n");
        std::fs::write(dir.join("format"), &format)?;
        let mut command = std::process::Command::new(process::program(program)?);
        let output = command.arg("--dir").arg(&dir).args(more).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{said}");
        let words = ["is in format 2", "reads up to 1", "the release that"];
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert_eq!(std::fs::read_to_string(dir.join("format"))?, format);
        let left: Vec<_> = std::fs::read_dir(&dir)?.collect();
        assert!(left.len() <= 2, "{left:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_not_whole_is_not_stored() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let bytes = vec![7_u8; 100_000];
    let digest = Digest::of(&bytes);
    let path = format!("/v1/artifacts/{digest}");

    let address = cluster.url().trim_start_matches("http://").to_owned();
    let mut connection = tokio::net::TcpStream::connect(&address).await?;
    let head = format!("PUT {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 100000\r\n\r\n");
    connection.write_all(head.as_bytes()).await?;
    connection.write_all(&bytes[..50_000]).await?;
    connection.shutdown().await?;
    let mut answer = Vec::new();
    // The master may answer or hang up; both are an end.
    let _ = connection.read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || text.starts_with("HTTP/1.1 4"),
        "{text}"
    );
    assert_eq!(client.get_raw(&path).await?.status, 404);

    let wrong = client.request(Method::PUT, &path).body(vec![8_u8; 100_000]);
    let answer = client.send(wrong).await?;
    assert!(answer.status.is_client_error(), "{}", answer.text());
    let problem = answer.problem();
    let actual = Digest::of(&[8; 100_000]).to_string();
    assert!(
        problem.detail.contains(&actual),
        "it says what came: {problem:?}"
    );
    assert_eq!(client.get_raw(&path).await?.status, 404);

    let bad_name = client
        .request(Method::PUT, "/v1/artifacts/md5:00")
        .body("x");
    let answer = client.send(bad_name).await?;
    assert!(answer.status.is_client_error());
    assert!(answer.problem().detail.contains("sha256:"));

    assert_eq!(
        client.upload(bytes).await?,
        digest,
        "the whole of it is welcome"
    );
    let left = std::fs::read_dir(cluster.master_dir().join("artifacts"));
    let left = left
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name());
    let parts: Vec<_> = left
        .filter(|name| name.to_string_lossy().contains("part"))
        .collect();
    assert!(parts.is_empty(), "pieces are removed: {parts:?}");
    still_works(client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_program_is_garbage_fails_with_the_reason() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let garbage = client.upload(b"this is not WebAssembly".to_vec()).await?;
    let greedy = client.upload(WANTS_TOO_MUCH.to_vec()).await?;
    for (artifact, code, word) in [
        (garbage, reason::WASM_INVALID, ""),
        (greedy, reason::WASM_IMPORT_MISSING, "mystery"),
    ] {
        let job = client.run(&Job::wasm(artifact, &[])).await?;
        assert_eq!(job.state, JobState::Failed, "{job:?}");
        let task = client.task(&job.task.context("its task")?.id).await?;
        let why = task.status.reason.context("a reason")?;
        assert_eq!(why.code, code, "{why}");
        assert!(why.message.contains(word), "{why}");
    }
    still_works(client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_cannot_be_are_refused() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    for path in ["/v1/frameworks", "/frameworks/batch/jobs"] {
        for (body, word) in [
            ("{", ""),
            ("", ""),
            ("[]", ""),
            (r#"{"name":"x","surprise":1}"#, "surprise"),
        ] {
            let answer = client.post_text(path, body).await?;
            assert!(
                [400, 422].contains(&answer.status.as_u16()),
                "{path} {body}: {} {}",
                answer.status,
                answer.text()
            );
            let problem = answer.problem();
            assert!(problem.detail.contains(word), "{path} {body}: {problem:?}");
        }
    }
    for (job, word) in [
        (Job::command(["true"]).name("Not A Name"), "Not A Name"),
        (Job::command(["true"]).count(0), "count"),
        (Job::command(["true"]).count(100_001), "count"),
        (Job::command([""; 0]), "argv"),
        (Job::command(["true"]).cpus(0).mem(Bytes(0)), "cpus"),
        (Job::command(["true"]).env("A=B", "c"), "A=B"),
    ] {
        let answer = client.submit_raw(&job).await?;
        assert!(
            [400, 422].contains(&answer.status.as_u16()),
            "{job:?}: {}",
            answer.text()
        );
        let problem = answer.problem();
        assert!(problem.detail.contains(word), "{problem:?}");
    }
    still_works(client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_and_queries_that_cannot_be_are_refused() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    for (path, status) in [
        ("/v1/tasks/f1.nobody.0", 404),
        ("/v1/tasks/what", 400),
        ("/v1/agents/a99", 404),
        ("/v1/frameworks/nobody", 404),
        ("/frameworks/nobody/x", 404),
        ("/frameworks/batch/jobs/nobody", 404),
        ("/v1/nothing", 404),
        ("/v1/tasks?state=sleeping", 400),
        ("/v1/tasks?limit=many", 400),
        ("/v1/tasks?page=nonsense", 400),
    ] {
        let answer = client.get_raw(path).await?;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        answer.problem();
    }
    let answer = client.delete_raw("/v1/cluster").await?;
    assert_eq!(answer.status, 405, "{}", answer.text());
    answer.problem();
    still_works(client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_web_page_can_drive_the_cluster() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    for (name, value) in [
        ("host", "evil.example"),
        ("origin", "http://evil.example"),
        ("origin", "http://127.0.0.1:1"),
        ("origin", "null"),
    ] {
        for path in ["/v1/cluster", "/frameworks/batch/jobs", "/"] {
            let answer = client
                .send(client.request(Method::GET, path).header(name, value))
                .await?;
            assert_eq!(
                answer.status,
                403,
                "{path} with {name}: {value}: {}",
                answer.text()
            );
            answer.problem();
        }
    }
    let own = client
        .request(Method::GET, "/v1/cluster")
        .header("origin", cluster.url());
    assert!(
        client.send(own).await?.status.is_success(),
        "its own pages may ask"
    );
    let request = client
        .request(Method::GET, "/v1/cluster")
        .bearer_auth("not the token");
    let answer = client.send(request).await?;
    assert_eq!(answer.status, 401, "{}", answer.text());
    answer.problem();
    let token = std::fs::read_to_string(cluster.master_dir().join("token"))?;
    let request = client
        .request(Method::GET, "/v1/cluster")
        .bearer_auth(token.trim());
    assert!(client.send(request).await?.status.is_success());
    Ok(())
}

/// Starts a binary that must refuse, and gives what it said.
fn refusal(dir: &Path, program: &str, args: &[&str]) -> anyhow::Result<String> {
    let log = dir.join("refusal.log");
    let _ = std::fs::remove_file(&log);
    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    let mut process = Process::spawn(program, &process::program(program)?, &args, &log)?;
    let status = process.wait();
    assert!(
        !status.success(),
        "{program} {args:?} should not start: {}",
        process.log()
    );
    Ok(process.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_port_is_named() -> Result {
    let cluster = Cluster::new().start().await?;
    let dir = cluster.dir();
    let address = cluster.url().trim_start_matches("http://");
    let other = dir.join("other").display().to_string();
    let said = refusal(dir, "tepui-master", &["--dir", &other, "--listen", address])?;
    assert!(said.contains(address), "{said}");
    assert!(said.contains("--listen"), "it names the fix: {said}");
    let flags = ["--dir", &other, "--listen", "127.0.0.1:0", "--dns", address];
    let said = refusal(dir, "tepui-master", &flags)?;
    assert!(said.contains(address), "{said}");
    assert!(!said.contains("listens on"), "before it serves: {said}");
    still_works(cluster.client()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_used_is_named() -> Result {
    let cluster = Cluster::new().start().await?;
    let dir = cluster.dir();
    let file = dir.join("file");
    std::fs::write(&file, "in the way")?;
    let below = file.join("data").display().to_string();
    let said = refusal(
        dir,
        "tepui-master",
        &["--dir", &below, "--listen", "127.0.0.1:0"],
    )?;
    assert!(said.contains(&below), "{said}");
    let said = refusal(
        dir,
        "tepui-agent",
        &["--dir", &below, "--master", cluster.url()],
    )?;
    assert!(said.contains(&below), "{said}");

    let foreign = dir.join("foreign");
    std::fs::create_dir(&foreign)?;
    std::fs::write(foreign.join("thesis.txt"), "years of work")?;
    let foreign = foreign.display().to_string();
    let said = refusal(
        dir,
        "tepui-master",
        &["--dir", &foreign, "--listen", "127.0.0.1:0"],
    )?;
    assert!(said.contains(&foreign), "{said}");
    // An agent ends and removes executors that it does not know, so it must know the folder.
    std::fs::create_dir_all(Path::new(&foreign).join("executors/1"))?;
    let said = refusal(
        dir,
        "tepui-agent",
        &["--dir", &foreign, "--master", cluster.url()],
    )?;
    assert!(said.contains(&foreign) && said.contains("--dir"), "{said}");
    let left = std::fs::read_dir(&foreign)?.count();
    assert_eq!(left, 2, "nothing was added or removed");
    assert!(Path::new(&foreign).join("executors/1").exists());
    let agent = cluster.agent_dir(0).display().to_string();
    let said = refusal(
        dir,
        "tepui-master",
        &["--dir", &agent, "--listen", "127.0.0.1:0"],
    )?;
    assert!(said.contains(&agent), "{said}");
    still_works(cluster.client()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_executors_does_not_start() -> Result {
    let cluster = Cluster::new().start().await?;
    let dir = cluster.dir();
    let (folder, nowhere) = (dir.join("new"), dir.join("nowhere"));
    let folder = folder.display().to_string();
    let nowhere = nowhere.display().to_string();
    let said = refusal(
        dir,
        "tepui-agent",
        &[
            "--dir",
            &folder,
            "--master",
            cluster.url(),
            "--executors",
            &nowhere,
        ],
    )?;
    assert!(
        said.contains("--executors") && said.contains(&nowhere),
        "{said}"
    );
    assert_eq!(cluster.client().agents().await?.len(), 1);
    still_works(cluster.client()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_on_a_copy_of_a_folder_is_told_so_and_ends_nothing() -> Result {
    let cluster = Cluster::new().start().await?;
    let (dir, client) = (cluster.dir(), cluster.client());
    let job = client.submit(&Job::command(["sleep", "1000"])).await?;
    let task = client.running(&job.name).await;
    let copy = copy(&cluster.agent_dir(0), dir)?;
    is_told_and_ends(
        dir,
        "tepui-agent",
        &["--dir", &copy, "--master", cluster.url()],
    )
    .await?;
    assert_eq!(client.task(&task).await?.status.state, TaskState::Running);
    let agents = client.agents().await?;
    assert_eq!(agents.len(), 1);
    assert!(agents[0].connected, "the first one stays");
    still_works(client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_on_a_copy_of_a_folder_is_told_so_and_stands_in_nobodys_way() -> Result {
    let mut cluster = Cluster::new().masters(3).start().await?;
    let copied = (cluster.leader().await? + 1) % 3;
    cluster.kill_master_at(copied);
    let copy = copy(&cluster.dir_of_master(copied), cluster.dir())?;
    cluster.start_master_at(copied).await?;
    let before = cluster.client().masters().await?;
    let args = ["--dir", &copy, "--listen", "127.0.0.1:0"];
    is_told_and_ends(cluster.dir(), "tepui-master", &args).await?;
    let urls = |masters: &[MasterView]| {
        let urls = masters.iter().map(|master| (master.id, master.url.clone()));
        urls.collect::<Vec<_>>()
    };
    let after = cluster.client().masters().await?;
    assert_eq!(urls(&after), urls(&before), "each is where it was");
    assert!(
        cluster.master_ended(copied).is_none(),
        "the first one stays"
    );
    // It is needed for a majority now.
    cluster.kill_master_at((copied + 1) % 3);
    cluster.speak_to(copied)?;
    still_works(cluster.client()).await
}

/// A copy of a folder, as whoever sets up another machine may make one.
pub(super) fn copy(folder: &Path, dir: &Path) -> anyhow::Result<String> {
    let copy = dir.join("copy");
    let mut command = std::process::Command::new("cp");
    let copied = command.arg("-r").args([folder, &copy]).status()?;
    anyhow::ensure!(copied.success(), "{copied}");
    Ok(copy.display().to_string())
}

/// Starts a program on a copy. The first one is heard of all the while.
async fn is_told_and_ends(dir: &Path, name: &str, args: &[&str]) -> Result {
    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    let program = process::program(name)?;
    let mut second = Process::spawn("copy", &program, &args, &dir.join("copy.log"))?;
    eventually("the copy has ended", async || {
        let status = second.ended().context("it asks again")?;
        anyhow::ensure!(!status.success(), "{status}");
        Ok(())
    })
    .await;
    let log = second.log();
    assert!(log.contains("is a copy"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_used_by_one_process() -> Result {
    let cluster = Cluster::new().start().await?;
    let dir = cluster.dir();
    let master = cluster.master_dir().display().to_string();
    let said = refusal(
        dir,
        "tepui-master",
        &["--dir", &master, "--listen", "127.0.0.1:0"],
    )?;
    assert!(said.contains(&master), "{said}");
    let agent = cluster.agent_dir(0).display().to_string();
    let said = refusal(
        dir,
        "tepui-agent",
        &["--dir", &agent, "--master", cluster.url()],
    )?;
    assert!(said.contains(&agent), "{said}");
    still_works(cluster.client()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_another_cluster_is_refused() -> Result {
    let mut other = Cluster::new().without_batch().start().await?;
    other.stop_agent(0)?;
    let cluster = Cluster::new().start().await?;
    let agent = other.agent_dir(0).display().to_string();
    let said = refusal(
        other.dir(),
        "tepui-agent",
        &["--dir", &agent, "--master", cluster.url()],
    )?;
    assert!(said.contains("cluster"), "{said}");
    assert_eq!(cluster.client().agents().await?.len(), 1);
    still_works(cluster.client()).await
}
