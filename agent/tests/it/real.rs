//! Programs that people really run: a database that keeps its data through every kill, a script
//! that comes over HTTP, a web service under load.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tepui_types::resources::PortRanges;
use tepui_types::task::reason;
use tepui_types::wire::agent::{TaskLaunch, TaskVolume};
use tepui_types::{Fetch, OperationId, TaskState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::master::{DEADLINE, FakeMaster, Session, eventually, shell, wasm};
use crate::process::{AgentProcess, is_alive};

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Debian's Redis as a task; whoever has the same volume has the same data.
fn redis(name: &str, port: u16) -> TaskLaunch {
    let script = format!(
        "exec redis-server --dir data --appendonly yes --appendfsync always --save '' \
         --bind 127.0.0.1 --port {port}"
    );
    let mut task = shell(name, &script);
    task.resources.ports = PortRanges::from_range(port, port);
    task.volumes.push(TaskVolume {
        made_by: OperationId {
            index: 9,
            ordinal: 0,
        },
        disk: None,
        path: "data".into(),
        bytes: None,
    });
    task
}

/// Whether Redis is installed; says so if it is not.
fn has_redis() -> bool {
    let found = Command::new("redis-server").arg("--version").output();
    if found.is_err() {
        eprintln!("skipped: there is no redis-server; apt-get install redis-server");
    }
    found.is_ok()
}

/// A connection to Redis.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The answer to a command; the error that Redis says is one, too.
    fn ask(&mut self, words: &[&str]) -> io::Result<String> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let line = line
            .strip_suffix("\r\n")
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        match line.split_at_checked(1) {
            Some(("+" | ":", answer)) => Ok(answer.to_owned()),
            Some(("$", len)) => {
                let len: usize = len.parse().map_err(io::Error::other)?;
                let mut text = vec![0; len + 2];
                self.0.read_exact(&mut text)?;
                text.truncate(len);
                String::from_utf8(text).map_err(io::Error::other)
            }
            _ => Err(io::Error::other(line.to_owned())),
        }
    }

    /// The process that answers.
    fn pid(&mut self) -> i32 {
        let info = self.ask(&["INFO", "server"]).unwrap();
        let pid = info
            .lines()
            .find_map(|line| line.strip_prefix("process_id:"));
        pid.unwrap().parse().unwrap()
    }
}

/// Waits until Redis has read its data and answers.
async fn answering(port: u16) -> Client {
    let mut client = None;
    eventually("redis answers", || {
        client = Client::connect(port).ok();
        let pong = client.as_mut().map(|client| client.ask(&["PING"]));
        matches!(pong, Some(Ok(_)))
    })
    .await;
    client.unwrap()
}

async fn running(session: &mut Session, task: &TaskLaunch) -> Client {
    session.launch(task).await;
    session.until(&task.task, TaskState::Running).await;
    let port = task.resources.ports.iter().next().unwrap();
    session.meanwhile(answering(port)).await
}

/// Counts until the connection breaks; what was acknowledged last.
fn count_until_it_breaks(mut client: Client) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut last = 0;
        while let Ok(count) = client.ask(&["INCR", "count"]) {
            last = count.parse().unwrap();
        }
        last
    })
}

/// What was acknowledged is there, and at most the one that was under way besides.
fn check_count(client: &mut Client, acknowledged: u64) {
    let kept: u64 = client.ask(&["GET", "count"]).unwrap().parse().unwrap();
    let may = acknowledged..=acknowledged + 1;
    assert!(may.contains(&kept), "{kept} of {acknowledged}");
}

#[tokio::test]
async fn a_database_that_is_killed_has_its_data_when_it_is_launched_again() {
    if !has_redis() {
        return;
    }
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let port = free_port();
    // Once its own process is killed, and once that of its executor.
    for (number, code) in [reason::SIGNAL, reason::EXECUTOR_TERMINATED]
        .into_iter()
        .enumerate()
    {
        let task = redis(&format!("db{number}"), port);
        let mut client = running(&mut session, &task).await;
        client.ask(&["SET", "count", "0"]).unwrap();
        let pid = client.pid();
        let counting = count_until_it_breaks(client);
        let mut looking = Client::connect(port).unwrap();
        let counts = eventually("it counts", || {
            looking.ask(&["GET", "count"]).unwrap().len() > 1
        });
        session.meanwhile(counts).await;
        let victim = match code {
            reason::SIGNAL => pid,
            _ => executor_of(&agent, pid),
        };
        kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
        let end = session.until(&task.task, TaskState::Failed).await;
        assert_eq!(end.reason.unwrap().code, code);
        assert!(!is_alive(pid));
        let acknowledged = counting.join().unwrap();
        let again = redis(&format!("again{number}"), port);
        let mut client = running(&mut session, &again).await;
        check_count(&mut client, acknowledged);
        session.kill(&again.task, 20_000).await;
        session.until(&again.task, TaskState::Killed).await;
    }
}

/// The executor whose task this process is.
fn executor_of(agent: &AgentProcess, task: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{task}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let parent: i32 = fields.split(' ').nth(1).unwrap().parse().unwrap();
    let executors = agent.executors();
    assert!(executors.iter().any(|executor| executor.pid == parent));
    parent
}

#[tokio::test]
async fn a_database_answers_while_its_agent_is_dead_and_survives_its_executor_then() {
    if !has_redis() {
        return;
    }
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let port = free_port();
    let task = redis("db", port);
    let mut client = running(&mut session, &task).await;
    client.ask(&["SET", "count", "0"]).unwrap();
    let pid = client.pid();
    let executor = executor_of(&agent, pid);
    agent.kill();
    assert_eq!(client.ask(&["INCR", "count"]).unwrap(), "1");
    agent.start_again(&master);
    let mut session = master.session().await;
    session.until(&task.task, TaskState::Running).await;
    assert_eq!(client.ask(&["INCR", "count"]).unwrap(), "2");
    assert_eq!(client.pid(), pid, "the same process");
    // Both at once.
    agent.kill();
    kill(Pid::from_raw(executor), Signal::SIGKILL).unwrap();
    eventually("the executor is dead", || !is_alive(executor)).await;
    agent.start_again(&master);
    let mut session = master.session().await;
    let end = session.until(&task.task, TaskState::Failed).await;
    assert_eq!(end.reason.unwrap().code, reason::EXECUTOR_TERMINATED);
    assert!(!is_alive(pid));
    let again = redis("again", port);
    let mut client = running(&mut session, &again).await;
    assert_eq!(client.ask(&["GET", "count"]).unwrap(), "2");
    session.kill(&again.task, 20_000).await;
    session.until(&again.task, TaskState::Killed).await;
}

/// A program of two files, packed.
fn program() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let package = dir.path().join("program");
    std::fs::create_dir(&package).unwrap();
    let main = "import sys\nfrom words import count\nprint(count('one two two'))\n\
                sys.exit(int(sys.argv[1]))\n";
    let words = "from collections import Counter\n\ndef count(text):\n    \
                 return sorted(Counter(text.split()).items())\n";
    std::fs::write(package.join("main.py"), main).unwrap();
    std::fs::write(package.join("words.py"), words).unwrap();
    let tar = Command::new("tar")
        .args(["-czf", "-", "program"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(tar.status.success());
    tar.stdout
}

#[tokio::test]
async fn a_python_program_is_fetched_unpacked_and_runs_to_its_end() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start_with(&master, &["--fetch-allow", "127.0.0.1"]);
    let mut session = master.session().await;
    let bytes = program();
    let router = Router::new().route("/program.tar.gz", get(async move || bytes));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/program.tar.gz", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    for (name, code, state) in [
        ("good", 0, TaskState::Finished),
        ("bad", 7, TaskState::Failed),
    ] {
        let mut task = shell(name, &format!("exec python3 program/main.py {code}"));
        Arc::make_mut(&mut task.spec).fetch = vec![Fetch {
            extract: true,
            ..Fetch::new(&url)
        }];
        task.spec.validate().unwrap();
        session.launch(&task).await;
        let end = session.until(&task.task, state).await;
        assert_eq!(end.exit_code, Some(code));
        let output = agent.layout().task(&task.task).join("stdout");
        let output = std::fs::read_to_string(output).unwrap();
        assert_eq!(output, "[('one', 1), ('two', 2)]\n");
    }
}

/// A `wasi:http/proxy` component that says hello; the executor's tests have the same.
fn service() -> Vec<u8> {
    let mut module = wat::parse_str(include_str!(
        "../../../executor/tests/it/guests/service.wat"
    ))
    .unwrap();
    let worlds = include_str!("../../../executor/tests/it/guests/worlds.wit");
    let mut resolve = Resolve::default();
    let package = resolve.push_str("worlds.wit", worlds).unwrap();
    let world = resolve.select_world(&[package], Some("service")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let encoder = ComponentEncoder::default().validate(true);
    encoder.module(&module).unwrap().encode().unwrap()
}

/// Asks so often on one connection.
async fn ask_again_and_again(port: u16, requests: usize) {
    let address = (Ipv4Addr::LOCALHOST, port);
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    for _ in 0..requests {
        let request = b"GET /hello HTTP/1.1\r\nhost: web\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("0\r\n\r\n") {
            let mut bytes = [0; 1_024];
            let count = stream.read(&mut bytes).await.unwrap();
            assert!(count > 0, "hung up after {answer}");
            answer.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert_eq!(body, "5\r\nhello\r\n0\r\n\r\n");
    }
}

#[tokio::test]
async fn a_web_service_answers_all_its_requests_beside_a_task_that_spins() {
    const CONNECTIONS: usize = 16;
    const REQUESTS: usize = 2_000;
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let (service, spin) = (
        master.add_artifact(&service()),
        master.add_artifact(&crate::wasm::spin()),
    );
    let mut session = master.session().await;
    let neighbour = wasm("neighbour", spin);
    let port = free_port();
    let mut web = wasm("web", service);
    web.resources.ports = PortRanges::from_range(port, port);
    for task in [&neighbour, &web] {
        session.launch(task).await;
        session.until(&task.task, TaskState::Running).await;
    }
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        asking.spawn(ask_again_and_again(port, REQUESTS / CONNECTIONS));
    }
    session.meanwhile(asking.join_all()).await;
    session.kill(&web.task, 20_000).await;
    let end = session.until(&web.task, TaskState::Killed).await;
    let said = end.reason.unwrap().message;
    assert!(said.contains("taken 2000 requests, 0 of"), "{said}");
    let output = agent.layout().task(&web.task).join("stdout");
    let output = std::fs::read_to_string(output).unwrap();
    assert_eq!(output, "hello".repeat(REQUESTS));
    session.kill(&neighbour.task, 0).await;
    session.until(&neighbour.task, TaskState::Killed).await;
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
}
