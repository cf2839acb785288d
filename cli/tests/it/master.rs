//! A master of one task, `f1.t.0`, and of its job: it answers requests as a test says, one connection
//! for each.

use std::time::Duration;

use serde_json::json;
use tepui_types::command::{CommandOptions, CommandStdin, CommandWorkload};
use tepui_types::task::TaskSpec;
use tepui_types::wire::stream::{self, ClientFrame, StreamFrame};
use tepui_types::wire::{self, LENGTH_BYTES};
use tepui_types::{TaskId, Workload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long a test waits for anything.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits, but not for ever.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("waited too long")
}

/// The master.
pub struct Master {
    listener: TcpListener,
    pub url: String,
    /// What its task reads.
    pub stdin: CommandStdin,
}

/// A request that was not answered yet.
pub struct Request {
    connection: TcpStream,
    /// Its method and its path.
    pub line: String,
    /// What it carries.
    pub body: Vec<u8>,
}

/// A connection that goes both ways.
pub struct Channel(TcpStream);

impl Master {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Self {
            listener,
            url,
            stdin: CommandStdin::Open,
        }
    }

    /// The next request. Whoever asks for its health, since it takes its time, hears that it has it.
    pub async fn request(&self) -> Request {
        loop {
            let request = self.any_request().await;
            match request.line.ends_with("/healthz") {
                true => request.bytes(b"{}").await,
                false => return request,
            }
        }
    }

    async fn any_request(&self) -> Request {
        let (mut connection, _) = within(self.listener.accept()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within(connection.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head.split("content-length: ").nth(1);
        let length = length.map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
        let mut body = vec![0; length];
        within(connection.read_exact(&mut body)).await.unwrap();
        let words: Vec<&str> = head.split(' ').take(2).collect();
        let line = words.join(" ");
        Request {
            connection,
            line,
            body,
        }
    }

    /// The next request with that in its line; whoever asks meanwhile how the task or its job is hears
    /// that attempt `attempt` runs.
    pub async fn until(&self, wanted: &str, attempt: u64) -> Request {
        loop {
            let request = self.request().await;
            if request.line.contains(wanted) {
                return request;
            }
            let is_of_job = request.line.contains("/jobs");
            assert!(
                is_of_job || request.line.starts_with("get /v1/tasks/f1.t."),
                "{}",
                request.line
            );
            let answer = match is_of_job {
                true => job(attempt, "running"),
                false => task(attempt, self.stdin),
            };
            request.json(&answer).await;
        }
    }
}

impl Request {
    /// Answers with a document.
    pub async fn json(self, body: &serde_json::Value) {
        self.bytes(body.to_string().as_bytes()).await;
    }

    /// Answers with a problem; one of status 503 is asked again at once.
    pub async fn refuse(self, status: u16, detail: &str) {
        let problem = json!({
            "type": "about:blank", "title": "no", "status": status, "code": "refused",
            "detail": detail,
        });
        self.answer(status, problem.to_string().as_bytes()).await;
    }

    /// Answers with bytes.
    pub async fn bytes(self, body: &[u8]) {
        self.answer(200, body).await;
    }

    async fn answer(mut self, status: u16, body: &[u8]) {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} So\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Retry-After: 0\r\nContent-Length: {length}\r\n\r\n"
        );
        self.connection.write_all(head.as_bytes()).await.unwrap();
        self.connection.write_all(body).await.unwrap();
    }

    /// Answers with some of more bytes, of which the first has that place, and breaks off.
    pub async fn part(mut self, place: u64, body: &[u8]) {
        let head = format!(
            "HTTP/1.1 200 OK\r\nTepui-Log-Offset: {place}\r\nContent-Length: 1000000\r\n\r\n"
        );
        self.connection.write_all(head.as_bytes()).await.unwrap();
        self.connection.write_all(body).await.unwrap();
    }

    /// Speaks frames from now on.
    pub async fn upgrade(mut self) -> Channel {
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: \
                    tepui-stream/1\r\n\r\n";
        self.connection.write_all(head.as_bytes()).await.unwrap();
        Channel(self.connection)
    }
}

impl Channel {
    pub async fn say(&mut self, frame: StreamFrame) {
        let bytes = wire::frame(stream::VERSION, &frame).unwrap();
        self.0.write_all(&bytes).await.unwrap();
    }

    /// The next frame; none when the other side has hung up.
    pub async fn next(&mut self) -> Option<ClientFrame> {
        let mut header = [0; LENGTH_BYTES];
        within(self.0.read_exact(&mut header)).await.ok()?;
        let mut body = vec![0; wire::frame_len(header).unwrap()];
        within(self.0.read_exact(&mut body)).await.unwrap();
        Some(wire::parse(stream::VERSION, &body).unwrap())
    }

    /// The next frame's bytes.
    pub async fn data(&mut self) -> String {
        match self.next().await {
            Some(ClientFrame::Data(bytes)) => String::from_utf8(bytes).unwrap(),
            other => panic!("no data: {other:?}"),
        }
    }

    /// Which input is sent, and from where on.
    pub async fn source(&mut self) -> (u128, u64) {
        match self.next().await {
            Some(ClientFrame::Source { id, at }) => (id, at),
            other => panic!("no input: {other:?}"),
        }
    }
}

/// The id of an attempt.
pub fn id(attempt: u64) -> TaskId {
    format!("f1.t.{attempt}").parse().unwrap()
}

/// A task that reads what it is sent.
pub fn task(attempt: u64, stdin: CommandStdin) -> serde_json::Value {
    let mut command = CommandWorkload::new(vec!["cat".into()]);
    command.options = Some(Box::new(CommandOptions {
        stdin,
        ..CommandOptions::default()
    }));
    json!({
        "id": id(attempt),
        "framework_name": "batch",
        "role": tepui_types::Role::default(),
        "agent": tepui_types::AgentId(1),
        "hostname": "here",
        "status": {"state": "running", "reason": null, "exit_code": null, "usage": null, "time": 1},
        "resources": tepui_types::Resources::default(),
        "spec": TaskSpec::new(Workload::Command(command)),
        "array_index": null,
        "launched_at": 1,
        "started_at": 1,
        "ended_at": null,
        "revision": 1,
    })
}

/// The job of that task.
pub fn job(attempt: u64, state: &str) -> serde_json::Value {
    let is_over = state == "finished";
    json!({
        "name": "t", "user": "", "state": state,
        "resources": tepui_types::resources::ResourceRequest::default(),
        "count": 1, "waiting": 0, "active": u32::from(!is_over), "finished": u32::from(is_over),
        "failed": 0, "killed": 0, "restarts": attempt, "priority": 0, "reason": null,
        "task": {
            "id": id(attempt), "state": state, "exit_code": is_over.then_some(0),
        },
    })
}
