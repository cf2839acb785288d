//! A master reduced to its wire: it accepts sessions, records every status
//! unless told otherwise, serves artifacts and takes data connections.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::routing::get;
use axum::serve::ListenerExt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tepui_agent::frames::{FrameReader, write_frames};
use tepui_types::task::{CommandWorkload, TaskSpec, WasmWorkload};
use tepui_types::wire::agent::*;
use tepui_types::wire::stream::{
    self, ClientFrame, LogRequest, Output, StreamFrame, StreamRequest,
};
use tepui_types::{
    AgentId, ClusterId, Digest, FrameworkId, OperationId, Reason, Resources, Role, TaskId,
    TaskState, Workload,
};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// How long a test waits for anything.
pub const DEADLINE: Duration = Duration::from_secs(30);

type Io = TokioIo<Upgraded>;

/// A master.
pub struct FakeMaster {
    pub url: String,
    shared: Arc<Shared>,
    sessions: mpsc::UnboundedReceiver<Io>,
    streams: mpsc::UnboundedReceiver<(u128, Io)>,
}

struct Shared {
    artifacts: Mutex<HashMap<Digest, Bytes>>,
    fetches: Mutex<Vec<Digest>>,
    sessions: mpsc::UnboundedSender<Io>,
    streams: mpsc::UnboundedSender<(u128, Io)>,
}

impl FakeMaster {
    pub async fn start() -> Self {
        let (session_sender, sessions) = mpsc::unbounded_channel();
        let (stream_sender, streams) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            artifacts: Mutex::default(),
            fetches: Mutex::default(),
            sessions: session_sender,
            streams: stream_sender,
        });
        let router = Router::new()
            .route(CONNECT_PATH, get(connect))
            .route("/v1/agents/streams/{id}", get(open_stream))
            .route("/v1/artifacts/{digest}", get(artifact))
            .with_state(shared.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        // Small frames must not wait for the other side's acknowledgements.
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            url,
            shared,
            sessions,
            streams,
        }
    }

    pub fn add_artifact(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.add_bytes(digest, bytes);
        digest
    }

    /// Bytes that may not be the digest's.
    pub fn add_bytes(&self, digest: Digest, bytes: &[u8]) {
        self.shared
            .artifacts
            .lock()
            .unwrap()
            .insert(digest, Bytes::copy_from_slice(bytes));
    }

    pub fn fetches(&self) -> usize {
        self.shared.fetches.lock().unwrap().len()
    }

    /// The next connection, with its hello; not yet welcomed.
    pub async fn accept(&mut self) -> Session {
        let io = within(self.sessions.recv()).await.unwrap();
        let (read, write) = tokio::io::split(io);
        let reader = FrameReader::new(read, VERSION);
        let hello = Hello {
            cluster: None,
            agent: None,
            nonce: 0,
            process: 0,
            boot: 0,
            info: tepui_types::AgentInfo {
                address: None,
                hostname: String::new(),
                resources: Resources::default(),
                attributes: Default::default(),
                version: String::new(),
                full: None,
            },
            tasks: Vec::new(),
        };
        let mut session = Session {
            reader,
            write,
            hello,
            inbox: Vec::new(),
            latest: BTreeMap::new(),
            machine: None,
            records: true,
        };
        let AgentFrame::Hello(hello) = session.next().await else {
            panic!("no hello")
        };
        session.hello = hello;
        session
    }

    /// The next connection, welcomed into term 1.
    pub async fn session(&mut self) -> Session {
        let mut session = self.accept().await;
        session.send(MasterFrame::Welcome(welcome())).await;
        session
    }

    /// All bytes of a stream, and how it ended.
    pub async fn stream(&mut self, id: u128) -> Stream {
        let (found, io) = within(self.streams.recv()).await.unwrap();
        assert_eq!(found, id);
        let (read, write) = tokio::io::split(io);
        Stream {
            reader: FrameReader::new(read, stream::VERSION),
            write,
            text: String::new(),
            bytes: Vec::new(),
            error: String::new(),
            exited: None,
            taken: 0,
            places: Vec::new(),
            end: None,
        }
    }
}

pub struct Stream {
    reader: FrameReader<ReadHalf<Io>, StreamFrame>,
    write: WriteHalf<Io>,
    pub text: String,
    /// The same, if it is no text.
    pub bytes: Vec<u8>,
    pub error: String,
    pub exited: Option<i32>,
    /// How many frames of input were taken.
    pub taken: u64,
    /// Where bytes of the standard output begin that do not follow on others, and how many came before.
    pub places: Vec<(u64, usize)>,
    pub end: Option<Result<(), Reason>>,
}

impl Stream {
    pub async fn until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            for frame in within(self.reader.next_batch()).await.unwrap().unwrap() {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                match frame {
                    StreamFrame::Opened => {}
                    StreamFrame::Taken(count) => self.taken = count,
                    StreamFrame::Begins { output, at } => {
                        if output == Output::Stdout {
                            self.places.push((at, self.text.len()));
                        }
                    }
                    StreamFrame::Data(bytes) => {
                        self.text.push_str(&text(&bytes));
                        self.bytes.extend(bytes);
                    }
                    StreamFrame::ErrorData(bytes) => self.error.push_str(&text(&bytes)),
                    StreamFrame::Exited(code) => {
                        self.exited = Some(code);
                        self.end = Some(Ok(()));
                    }
                    StreamFrame::End => self.end = Some(Ok(())),
                    StreamFrame::Failed(reason) => self.end = Some(Err(reason)),
                }
            }
        }
    }

    /// Waits until the agent hangs up.
    pub async fn until_hung_up(&mut self) {
        while let Ok(Some(_)) = within(self.reader.next_batch()).await {}
    }

    pub async fn say(&mut self, frame: ClientFrame) {
        write_frames(&mut self.write, stream::VERSION, &[frame])
            .await
            .unwrap();
    }

    /// The same, where the agent may have hung up.
    pub async fn try_say(&mut self, frame: ClientFrame) -> Result<(), String> {
        let written = write_frames(&mut self.write, stream::VERSION, &[frame]).await;
        written.map_err(|error| error.to_string())
    }

    pub async fn all(mut self) -> (String, Result<(), Reason>) {
        self.until(|stream| stream.end.is_some()).await;
        (self.text, self.end.unwrap())
    }
}

pub fn welcome() -> Welcome {
    Welcome {
        cluster: ClusterId(7),
        agent: AgentId(1),
        term: 1,
        // Four of them are missed before an agent leaves: a busy machine takes its time.
        heartbeat_ms: 400,
        timeout_ms: 5_000,
        masters: Vec::new(),
    }
}

/// The latest status of each task.
pub type Latest = BTreeMap<TaskId, StatusReport>;

/// A session with one agent.
pub struct Session {
    reader: FrameReader<ReadHalf<Io>, AgentFrame>,
    write: WriteHalf<Io>,
    pub hello: Hello,
    inbox: Vec<AgentFrame>,
    /// The latest status of each task.
    pub latest: Latest,
    /// What the agent's machine has, if it has said so since its hello.
    pub machine: Option<tepui_types::AgentInfo>,
    /// Whether statuses are answered with `Recorded`.
    pub records: bool,
}

impl Session {
    pub async fn send(&mut self, frame: MasterFrame) {
        write_frames(&mut self.write, VERSION, &[frame])
            .await
            .unwrap();
    }

    /// The next frame; `None` when the agent hung up.
    pub async fn try_next(&mut self) -> Option<AgentFrame> {
        if self.inbox.is_empty() {
            match within(self.reader.next_batch()).await {
                Ok(Some(frames)) => self.inbox = frames,
                Ok(None) | Err(_) => return None,
            }
        }
        Some(self.inbox.remove(0))
    }

    pub async fn next(&mut self) -> AgentFrame {
        self.try_next().await.expect("the agent hung up")
    }

    /// Waits until the agent hangs up.
    pub async fn until_hung_up(&mut self) {
        while self.try_next().await.is_some() {}
    }

    pub async fn effects(&mut self, effects: Vec<AgentEffect>) {
        self.send(MasterFrame::Effects { term: 1, effects }).await;
    }

    pub async fn launch(&mut self, launch: &TaskLaunch) {
        self.effects(vec![AgentEffect::Launch(Box::new(launch.clone()))])
            .await;
    }

    pub async fn kill(&mut self, task: &TaskId, grace_ms: u64) {
        self.effects(vec![AgentEffect::Kill {
            task: task.clone(),
            grace_ms,
        }])
        .await;
    }

    pub async fn open_stream(&mut self, id: u128, task: &TaskId, offset: i64, follow: bool) {
        let request = LogRequest {
            task: task.clone(),
            member: None,
            output: Output::Stdout,
            offset,
            follow,
        };
        self.open(id, StreamRequest::Logs(request)).await;
    }

    pub async fn open(&mut self, id: u128, request: StreamRequest) {
        self.send(MasterFrame::OpenStream {
            stream: id,
            request,
        })
        .await;
    }

    /// Waits for something else and keeps the session alive, however long that takes.
    pub async fn meanwhile<T>(&mut self, what: impl Future<Output = T>) -> T {
        tokio::select! {
            value = what => value,
            () = self.until_all(|_| false) => unreachable!("it waits for ever"),
        }
    }

    /// Waits until a status of `task` has `state`.
    pub async fn until(&mut self, task: &TaskId, state: TaskState) -> StatusReport {
        self.until_all(|latest| latest.get(task).is_some_and(|report| report.state == state))
            .await;
        self.latest[task].clone()
    }

    pub async fn until_all(&mut self, done: impl Fn(&Latest) -> bool) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while !done(&self.latest) {
            self.hear(deadline).await;
        }
    }

    /// The same, for what may take longer: whether it was seen in that time.
    pub async fn is_seen(&mut self, done: impl Fn(&Latest) -> bool) -> bool {
        let end = tokio::time::Instant::now() + DEADLINE;
        while !done(&self.latest) && tokio::time::Instant::now() < end {
            self.hear(end + DEADLINE).await;
        }
        done(&self.latest)
    }

    /// Waits until the agent has said that of its machine.
    pub async fn until_machine(&mut self, done: impl Fn(&tepui_types::AgentInfo) -> bool) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while !self.machine.as_ref().is_some_and(&done) {
            self.hear(deadline).await;
        }
    }

    /// Takes in a frame and answers it.
    async fn hear(&mut self, deadline: tokio::time::Instant) {
        assert!(
            tokio::time::Instant::now() < deadline,
            "only saw {:?} and {:?}",
            self.latest,
            self.machine
        );
        match self.next().await {
            AgentFrame::Statuses(reports) => {
                assert!(reports.len() <= MAX_BATCH);
                if self.records {
                    let recorded = reports
                        .iter()
                        .map(|report| (report.task.clone(), report.state));
                    self.send(MasterFrame::Recorded(recorded.collect())).await;
                }
                for report in reports {
                    self.latest.insert(report.task.clone(), report);
                }
            }
            AgentFrame::Heartbeat(_) => self.send(MasterFrame::Heartbeat).await,
            AgentFrame::Machine(info) => self.machine = Some(*info),
            _ => {}
        }
    }
}

/// Waits, but not for ever.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("waited too long")
}

/// Waits until `probe` is true.
pub async fn eventually(what: &str, mut probe: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !probe() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "waited too long: {what}"
        );
        // sleep: between two looks.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn launch(name: &str, workload: Workload, resources: Resources) -> TaskLaunch {
    TaskLaunch {
        operation: OperationId {
            index: 1,
            ordinal: 0,
        },
        task: TaskId {
            framework: FrameworkId(1),
            name: name.parse().unwrap(),
            attempt: 0,
        },
        framework_name: "batch".into(),
        role: Role::default(),
        spec: Arc::new(TaskSpec {
            kill_grace_ms: 1_000,
            user: "ada".into(),
            ..TaskSpec::new(workload)
        }),
        resources,
        revocable: Resources::default(),
        volumes: Vec::new(),
        array_index: None,
        after: None,
    }
}

/// A shell script.
pub fn shell(name: &str, script: &str) -> TaskLaunch {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let workload = Workload::Command(CommandWorkload::new(argv));
    let resources = Resources {
        cpus: tepui_types::MilliCpus(1_000),
        mem: tepui_types::Bytes::mib(64),
        ..Resources::default()
    };
    launch(name, workload, resources)
}

/// A command in a container, which is JSON.
pub fn contained(name: &str, container: &str, argv: &[&str]) -> TaskLaunch {
    let argv = argv.iter().map(|word| (*word).to_owned()).collect();
    let mut command = CommandWorkload::new(argv);
    let container: tepui_types::Container = serde_json::from_str(container).unwrap();
    container.validate().unwrap();
    command.container = Some(Box::new(container));
    let resources = Resources {
        cpus: tepui_types::MilliCpus(1_000),
        mem: tepui_types::Bytes::mib(64),
        ..Resources::default()
    };
    launch(name, Workload::Command(command), resources)
}

/// A WebAssembly program.
pub fn wasm(name: &str, artifact: Digest) -> TaskLaunch {
    let workload = Workload::Wasm(WasmWorkload::new(artifact));
    let resources = Resources {
        cpus: tepui_types::MilliCpus(1_000),
        mem: tepui_types::Bytes::mib(16),
        ..Resources::default()
    };
    launch(name, workload, resources)
}

fn upgrade(
    mut request: Request,
    protocol: &'static str,
    take: impl FnOnce(Io) + Send + 'static,
) -> Response<Body> {
    assert_eq!(request.headers()[header::UPGRADE], protocol);
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move { take(TokioIo::new(upgrade.await.unwrap())) });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
        .headers_mut()
        .insert(header::UPGRADE, HeaderValue::from_static(protocol));
    response
}

async fn connect(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    upgrade(request, UPGRADE, move |io| drop(shared.sessions.send(io)))
}

async fn open_stream(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Response<Body> {
    let id = u128::from_str_radix(&id, 16).unwrap();
    upgrade(request, stream::UPGRADE, move |io| {
        drop(shared.streams.send((id, io)))
    })
}

async fn artifact(
    State(shared): State<Arc<Shared>>,
    Path(digest): Path<String>,
) -> Result<Bytes, StatusCode> {
    let digest: Digest = digest.parse().unwrap();
    shared.fetches.lock().unwrap().push(digest);
    shared
        .artifacts
        .lock()
        .unwrap()
        .get(&digest)
        .cloned()
        .ok_or(StatusCode::NOT_FOUND)
}
