//! One executor and its folder, seen from its agent.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tepui_executor::output::DEFAULT_LIMIT;
use tepui_executor::privileges::Privileges;
use tepui_executor::runtime::Runtime;
use tepui_executor::spawn::{Spawn, connect, spawn};
use tepui_executor::{cgroup, identity, protocol};
use tepui_types::resources::PortRanges;
use tepui_types::task::{CommandWorkload, TaskSpec, WasmWorkload, Workload};
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::executor::{
    ExecutorLaunch, FromExecutor, LocalDevices, LocalImage, ProcessIdentity, TaskUpdate,
    ToExecutor, UserRange, VolumeFolder,
};
use tepui_types::{
    AgentId, Bytes, Container, Digest, MilliCpus, OperationId, Resources, Role, TaskId, WasmOptions,
};

// Benchmarks have this file at another place.
#[path = "env/beside.rs"]
mod beside;
#[path = "env/packed.rs"]
mod packed;

/// How long anything may take on a busy machine before a test gives up.
pub const DEADLINE: Duration = Duration::from_secs(60);
const TOKEN: u128 = 0x0123_4567_89ab_cdef;

/// The executor's folder, which has one above it as an agent's executors have.
const DIR: &str = "executors/e1";

const NATIVE: &str = env!("CARGO_BIN_EXE_tepui-executor-task");
const WASM: &str = env!("CARGO_BIN_EXE_tepui-executor-wasm");

static GROUPS: AtomicU32 = AtomicU32::new(0);

/// A cgroup of its own, where the machine lets us.
fn new_group() -> Option<String> {
    cgroups().then(|| {
        let number = GROUPS.fetch_add(1, Ordering::Relaxed);
        format!("tepui-test-{}-{number}", std::process::id())
    })
}

/// A running executor, its folder and the connection to it.
pub struct Executor {
    root: tempfile::TempDir,
    stream: UnixStream,
    /// Its process.
    pub identity: ProcessIdentity,
    /// The cgroup above its own and its tasks', where there are cgroups.
    group: Option<String>,
}

impl Executor {
    /// One for a native command, with cgroups where the machine lets us.
    pub fn native() -> Self {
        Self::start(NATIVE, new_group(), DEFAULT_LIMIT)
    }

    /// The same, whose tasks have all privileges.
    pub fn native_with_all_privileges() -> Self {
        Self::start_with(
            NATIVE,
            new_group(),
            DEFAULT_LIMIT,
            Privileges::All,
            None,
            None,
        )
    }

    /// One for a native command, without cgroups.
    pub fn native_without_cgroups() -> Self {
        Self::start(NATIVE, None, DEFAULT_LIMIT)
    }

    /// Two for native commands of whose outputs `limit` is kept: with cgroups
    /// and without.
    pub fn native_keeping(limit: Bytes) -> [Self; 2] {
        [new_group(), None].map(|group| Self::start(NATIVE, group, limit))
    }

    /// One for a container, made by this runtime; none where the machine does not let us.
    pub fn container(runtime: Runtime) -> Option<Self> {
        Self::container_with(Privileges::default(), runtime)
    }

    fn container_with(privileges: Privileges, runtime: Runtime) -> Option<Self> {
        let group = Some(new_group()?);
        let limit = DEFAULT_LIMIT;
        Some(Self::start_with(
            NATIVE,
            group,
            limit,
            privileges,
            Some(&runtime),
            None,
        ))
    }

    /// The same, whose tasks have all privileges.
    pub fn container_with_all_privileges(runtime: Runtime) -> Option<Self> {
        Self::container_with(Privileges::All, runtime)
    }

    /// One for WebAssembly.
    pub fn wasm() -> Self {
        Self::wasm_keeping(DEFAULT_LIMIT)
    }

    /// One for WebAssembly that keeps `limit` of outputs.
    pub fn wasm_keeping(limit: Bytes) -> Self {
        Self::start(WASM, None, limit)
    }

    /// One for WebAssembly whose machine code is kept in `folder`.
    pub fn wasm_with_code(folder: &Path) -> Self {
        let (limit, privileges) = (DEFAULT_LIMIT, Privileges::default());
        Self::start_with(WASM, None, limit, privileges, None, Some(folder))
    }

    fn start(program: &str, group: Option<String>, output_limit: Bytes) -> Self {
        let privileges = Privileges::default();
        Self::start_with(program, group, output_limit, privileges, None, None)
    }

    fn start_with(
        program: &str,
        group: Option<String>,
        output_limit: Bytes,
        privileges: Privileges,
        runtime: Option<&Runtime>,
        code_cache: Option<&Path>,
    ) -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join(DIR);
        let cgroup = group.as_ref().map(|group| format!("{group}/executor"));
        spawn(&Spawn {
            program: Path::new(program),
            dir: &dir,
            token: TOKEN,
            agent: AgentId(3),
            output_limit,
            privileges,
            runtime,
            code_cache,
            packs: Some(&root.path().join("packs")),
            cgroup: cgroup.as_deref(),
        })
        .unwrap();
        let (stream, identity, tasks) = attach(&dir);
        assert_eq!(tasks, []);
        Self {
            root,
            stream,
            identity,
            group,
        }
    }

    /// Its folder.
    pub fn dir(&self) -> PathBuf {
        self.root.path().join(DIR)
    }

    /// The folder of a task: outputs and sandbox.
    pub fn task_dir(&self, name: &str) -> PathBuf {
        self.root.path().join("tasks").join(task(name).to_string())
    }

    /// The cgroup of its tasks, where there are cgroups.
    pub fn task_group(&self) -> Option<String> {
        let group = self.group.as_ref()?;
        Some(format!("{group}/task"))
    }

    /// What a task wrote.
    pub fn output(&self, name: &str, stream: &str) -> String {
        let bytes = self.written(name, stream).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    }

    /// Sends one frame.
    pub fn send(&mut self, frame: &ToExecutor) {
        protocol::write_frame(&mut self.stream, frame).unwrap();
    }

    /// The connection to it, for who reads and writes more than a frame at a time.
    pub fn connection(&self) -> UnixStream {
        self.stream.try_clone().unwrap()
    }

    /// Launches a task.
    pub fn launch(&mut self, builder: Builder) {
        let launch = self.prepare(builder);
        self.send(&ToExecutor::Launch(launch));
    }

    /// Launches a task in another cgroup than its own.
    pub fn launch_in_group(&mut self, builder: Builder, group: &str) {
        let mut launch = self.prepare(builder);
        launch.cgroup = Some(group.into());
        self.send(&ToExecutor::Launch(launch));
    }

    /// Launches a task from another file than its own.
    pub fn launch_with_program(&mut self, builder: Builder, path: &str) {
        let mut launch = self.prepare(builder);
        launch.program = Some(path.into());
        self.send(&ToExecutor::Launch(launch));
    }

    /// A task with all that an agent prepares for it.
    pub fn prepare(&self, builder: Builder) -> Box<ExecutorLaunch> {
        let (task, program) = (builder.task.clone(), builder.program(self.root.path()));
        let sandbox = self.task_dir(task.name.as_str()).join("sandbox");
        Box::new(ExecutorLaunch {
            volumes: builder.volumes.clone(),
            cgroup: self.task_group(),
            sandbox: sandbox.to_str().unwrap().to_owned(),
            program,
            stdin: builder.stdin.clone(),
            image: builder.image.clone(),
            images: builder.images.clone(),
            secrets: builder.secrets.clone(),
            devices: builder.devices.clone(),
            network: None,
            users: builder.users,
            launch: builder.launch(),
        })
    }

    /// Asks for a task's end.
    pub fn kill(&mut self, name: &str, grace_ms: u64) {
        self.send(&ToExecutor::Kill {
            task: task(name),
            grace_ms,
        });
    }

    /// The next update.
    pub fn update(&mut self) -> TaskUpdate {
        loop {
            match protocol::read_frame(&mut self.stream).expect("an update before the deadline") {
                Some(FromExecutor::Update(update)) => return update,
                Some(FromExecutor::Took(_)) => {}
                other => panic!("not an update: {other:?}"),
            }
        }
    }

    /// The end of a task; updates before it are skipped.
    pub fn end(&mut self, name: &str) -> TaskUpdate {
        loop {
            let update = self.update();
            if update.task == task(name) && update.state.is_terminal() {
                return update;
            }
        }
    }

    /// Connects again, as an agent does that was restarted; gives what the
    /// executor told it. The old connection stays until it is dropped.
    pub fn reattach(&mut self) -> (UnixStream, Vec<TaskUpdate>) {
        let (stream, identity, tasks) = attach(&self.dir());
        assert_eq!(identity, self.identity);
        (std::mem::replace(&mut self.stream, stream), tasks)
    }

    /// Hangs up.
    pub fn detach(&mut self) {
        let connection = self.connection();
        connection.shutdown(std::net::Shutdown::Both).unwrap();
    }

    /// A connection that has not said anything.
    pub fn stranger(&self) -> UnixStream {
        timed(connect(&self.dir()).unwrap())
    }

    /// Ends the process as the kernel would.
    pub fn kill_process(&self, signal: Signal) {
        kill(Pid::from_raw(self.identity.pid), signal).unwrap();
    }

    /// Waits until the process is gone.
    pub fn gone(&self) {
        eventually("the executor is gone", || {
            !identity::is_alive(&self.identity)
        });
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        if identity::is_alive(&self.identity) {
            self.kill_process(Signal::SIGKILL);
        }
        if let Some(group) = &self.group {
            let _ = cgroup::destroy(group, Duration::from_secs(10));
        }
        kill_tasks_below(self.root.path());
    }
}

/// Ends processes whose sandbox is below `root`, as far as any are left.
fn kill_tasks_below(root: &Path) {
    let mark = format!("TEPUI_SANDBOX={}", root.display());
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let ours = environment
            .split(|byte| *byte == 0)
            .any(|v| v.starts_with(mark.as_bytes()));
        if let (true, Ok(pid)) = (ours, entry.file_name().to_string_lossy().parse()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn attach(dir: &Path) -> (UnixStream, ProcessIdentity, Vec<TaskUpdate>) {
    let mut stream = timed(connect(dir).unwrap());
    protocol::write_frame(&mut stream, &ToExecutor::Attach { token: TOKEN }).unwrap();
    match protocol::read_frame(&mut stream).unwrap() {
        Some(FromExecutor::Attached {
            identity, tasks, ..
        }) => (stream, identity, tasks),
        other => panic!("not attached: {other:?}"),
    }
}

fn timed(stream: UnixStream) -> UnixStream {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Whether the other side has hung up; waits for it.
pub fn is_hung_up(mut stream: UnixStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        // Hanging up on unread bytes resets the connection.
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// Whether this machine lets us make cgroups; says so when not. Where `TEPUI_TEST_CGROUPS` is
/// `needed`, a machine that does not fails its tests.
pub fn cgroups() -> bool {
    match cgroup::available() {
        Ok(()) => true,
        Err(error) => {
            let needed = std::env::var_os("TEPUI_TEST_CGROUPS").is_some_and(|v| v == "needed");
            assert!(!needed, "without cgroups: {error}");
            eprintln!("without cgroups: {error}");
            false
        }
    }
}

/// Waits for `condition`.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        // sleep: between two looks; the deadline is above.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The id of the task of that name.
pub fn task(name: &str) -> TaskId {
    format!("f1.{name}.0").parse().unwrap()
}

/// A task to be launched.
pub struct Builder {
    task: TaskId,
    /// What it runs.
    pub workload: Workload,
    bytes: Option<Vec<u8>>,
    resources: Resources,
    array_index: Option<u32>,
    stdin: Option<String>,
    image: Option<Arc<LocalImage>>,
    volumes: Vec<VolumeFolder>,
    /// See [`crate::prepared`] for these.
    pub images: BTreeMap<String, Arc<LocalImage>>,
    pub secrets: BTreeMap<String, String>,
    pub devices: Option<Arc<LocalDevices>>,
    pub users: Option<UserRange>,
    pub grace_ms: u64,
}

impl Builder {
    /// A native command.
    pub fn command(name: &str, argv: &[&str]) -> Self {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let workload = CommandWorkload::new(argv);
        Self::new(name, Workload::Command(workload), None)
    }

    /// A shell script.
    pub fn script(name: &str, script: &str) -> Self {
        Self::command(name, &["sh", "-c", script])
    }

    /// A WebAssembly program of these bytes.
    pub fn wasm(name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let artifact = Digest::of(&bytes);
        let workload = WasmWorkload::new(artifact);
        Self::new(name, Workload::Wasm(workload), Some(bytes))
    }

    fn new(name: &str, workload: Workload, bytes: Option<Vec<u8>>) -> Self {
        let resources = Resources {
            cpus: MilliCpus(1000),
            mem: Bytes::mib(64),
            ..Resources::default()
        };
        Self {
            task: task(name),
            workload,
            bytes,
            resources,
            array_index: None,
            stdin: None,
            image: None,
            volumes: Vec::new(),
            images: BTreeMap::new(),
            secrets: BTreeMap::new(),
            devices: None,
            users: None,
            grace_ms: 100,
        }
    }

    /// The container of a command, as JSON.
    pub fn container(mut self, json: &str) -> Self {
        let container: Container = serde_json::from_str(json).unwrap();
        container.validate().unwrap();
        if let Workload::Command(workload) = &mut self.workload {
            workload.container = Some(Box::new(container));
        }
        self
    }

    /// A persistent volume in that folder, at that path below its sandbox.
    pub fn volume(mut self, folder: &Path, path: &str) -> Self {
        self.volumes.push(VolumeFolder {
            folder: folder.to_str().unwrap().to_owned(),
            path: path.to_owned(),
        });
        self
    }

    /// The image that its container has.
    pub fn image(mut self, image: LocalImage) -> Self {
        self.image = Some(Arc::new(image));
        self
    }

    /// Arguments of a WebAssembly program.
    pub fn args(mut self, args: &[&str]) -> Self {
        if let Workload::Wasm(workload) = &mut self.workload {
            workload.args = args.iter().map(|word| (*word).to_owned()).collect();
        }
        self
    }

    /// Options of a WebAssembly program, as JSON.
    pub fn options(mut self, json: &str) -> Self {
        let options: WasmOptions = serde_json::from_str(json).unwrap();
        options.validate().unwrap();
        if let Workload::Wasm(workload) = &mut self.workload {
            workload.options = Some(Box::new(options));
        }
        self
    }

    /// The file of its standard input.
    pub fn stdin(mut self, path: &Path) -> Self {
        self.stdin = Some(path.to_str().unwrap().to_owned());
        self
    }

    /// Its one port.
    pub fn port(mut self, port: u16) -> Self {
        self.resources.ports = PortRanges::from_range(port, port);
        self
    }

    /// One more variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        let env = match &mut self.workload {
            Workload::Wasm(workload) => &mut workload.env,
            Workload::Command(workload) => &mut workload.env,
        };
        env.insert(name.into(), value.into());
        self
    }

    /// The most processes of a command.
    pub fn pids(mut self, pids: u32) -> Self {
        if let Workload::Command(workload) = &mut self.workload {
            workload.pids = Some(pids);
        }
        self
    }

    /// Its memory.
    pub fn mem(mut self, mem: Bytes) -> Self {
        self.resources.mem = mem;
        self
    }

    /// Its disk.
    pub fn disk(mut self, disk: Bytes) -> Self {
        self.resources.disk = disk;
        self
    }

    /// Its cpus.
    pub fn cpus(mut self, cpus: MilliCpus) -> Self {
        self.resources.cpus = cpus;
        self
    }

    /// Its place in an array.
    pub fn index(mut self, index: u32) -> Self {
        self.array_index = Some(index);
        self
    }

    /// The file of the program's bytes, as an agent keeps it.
    fn program(&self, root: &Path) -> Option<String> {
        let bytes = self.bytes.as_ref()?;
        let path = root.join(Digest::of(bytes).hex());
        if !path.exists() {
            fs::write(&path, bytes).unwrap();
        }
        Some(path.to_str().unwrap().to_owned())
    }

    fn launch(self) -> TaskLaunch {
        let spec = TaskSpec {
            kill_grace_ms: self.grace_ms,
            checks: None,
            ..TaskSpec::new(self.workload)
        };
        TaskLaunch {
            operation: OperationId {
                index: 1,
                ordinal: 0,
            },
            task: self.task,
            framework_name: "batch".into(),
            role: Role::default(),
            spec: Arc::new(spec),
            resources: self.resources,
            revocable: Resources::default(),
            volumes: Vec::new(),
            array_index: self.array_index,
            after: None,
        }
    }
}

/// State, code of the reason, message and exit code of an end.
pub fn parts(update: &TaskUpdate) -> (String, String, String, Option<i32>) {
    let (code, message) = match &update.reason {
        Some(reason) => (reason.code.clone(), reason.message.clone()),
        None => Default::default(),
    };
    (update.state.to_string(), code, message, update.exit_code)
}

/// Checks state, code of the reason and exit code, and that the message holds `words`.
#[track_caller]
pub fn check(update: &TaskUpdate, state: &str, code: &str, exit: Option<i32>, words: &str) {
    let (found_state, found_code, message, found_exit) = parts(update);
    assert_eq!(
        (found_state.as_str(), found_code.as_str(), found_exit),
        (state, code, exit),
        "{message}"
    );
    assert!(message.contains(words), "{message}");
}
