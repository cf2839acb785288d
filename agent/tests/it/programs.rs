//! WebAssembly programs that are stored as images: in docker-registry, as CNCF's Wasm OCI Artifact
//! layout has them.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tepui_types::{Digest, TaskState};

use crate::images::{ImageLayout, run};
use crate::master::{FakeMaster, contained, eventually};
use crate::process::AgentProcess;
use crate::wasm::{hello, spin};

/// docker-registry on a free port of loopback, and what is pushed to it; all of it ends with this.
struct Registry {
    place: TempDir,
    child: Child,
    address: String,
}

impl Registry {
    async fn start() -> Self {
        let place = tempfile::tempdir().unwrap();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n",
            place.path().join("storage").display()
        );
        std::fs::write(place.path().join("config.yml"), config).unwrap();
        let log = std::fs::File::create(place.path().join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(place.path().join("config.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("docker-registry is installed by `cargo xtask test`");
        let mut registry = Self {
            place,
            child,
            address: String::new(),
        };
        eventually("the registry listens", || {
            let log = std::fs::read_to_string(registry.place.path().join("log")).unwrap();
            let port = log.split("listening on ").nth(1);
            let port = port.and_then(|rest| rest.split('"').next());
            registry.address = port.unwrap_or_default().to_owned();
            !registry.address.is_empty()
        })
        .await;
        registry
    }

    /// Stores a program, and answers with the image's name.
    fn push(&self, name: &str, program: &[u8]) -> String {
        let layout = self.place.path().join(name);
        write_layout(&layout, program);
        let image = format!("{}/{name}:1", self.address);
        run(Command::new("skopeo")
            .args(["copy", "-q", "--dest-tls-verify=false"])
            .arg(format!("oci:{}:1", layout.display()))
            .arg(format!("docker://{image}")));
        image
    }

    /// An agent that asks this registry.
    fn agent(&self, master: &FakeMaster) -> AgentProcess {
        let insecure: &str = self.address.clone().leak();
        AgentProcess::start_with(master, vec!["--insecure-registry", insecure].leak())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An OCI layout with one artifact, which `wkg` would call `1`.
fn write_layout(folder: &Path, program: &[u8]) {
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let blob = |media_type: &str, bytes: &[u8], more: &str| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        let size = bytes.len();
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}{more}}}"#)
    };
    let layer = blob("application/wasm", program, "");
    let digest = Digest::of(program);
    let config = format!(r#"{{"architecture":"wasm","os":"wasip1","layerDigests":["{digest}"]}}"#);
    let media_type = "application/vnd.wasm.config.v0+json";
    let config = blob(media_type, config.as_bytes(), "");
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{config},"layers":[{layer}]}}"#
    );
    let named = r#","annotations":{"org.opencontainers.image.ref.name":"1"}"#;
    let manifest = blob(MANIFEST, manifest.as_bytes(), named);
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#);
    std::fs::write(folder.join("index.json"), index).unwrap();
    let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
    std::fs::write(folder.join("oci-layout"), version).unwrap();
}

/// The files of programs that the agent has of images.
fn components(agent: &AgentProcess) -> usize {
    let folder = agent.layout().images().join("components");
    std::fs::read_dir(folder).map_or(0, |entries| entries.flatten().count())
}

#[tokio::test]
async fn a_program_in_a_registry_runs_as_wasm_with_its_arguments() {
    let registry = Registry::start().await;
    let (greeting, arguments) = (
        registry.push("hello", &hello()),
        registry.push("arguments", &exits_with_its_arguments()),
    );
    let mut master = FakeMaster::start().await;
    let agent = registry.agent(&master);
    let mut session = master.session().await;
    for name in ["first", "second"] {
        let task = contained(name, &format!(r#"{{"image": "{greeting}"}}"#), &[]);
        session.launch(&task).await;
        session.until(&task.task, TaskState::Finished).await;
        assert_eq!(agent.stdout(&task.task), "hello\n");
    }
    let container = format!(r#"{{"image": "{arguments}", "pull": "always"}}"#);
    let task = contained("counted", &container, &["one", "two"]);
    session.launch(&task).await;
    let report = session.until(&task.task, TaskState::Failed).await;
    assert_eq!(report.exit_code, Some(3), "its name and two words");
    assert_eq!(master.fetches(), 0, "no master has it");
    assert_eq!(agent.executors().len(), 1, "one trust domain, one process");
    assert_eq!(components(&agent), 2);
}

/// Exits with how many arguments it has, its name among them.
fn exits_with_its_arguments() -> Vec<u8> {
    wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "args_sizes_get"
                (func $sizes (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "_start")
                (drop (call $sizes (i32.const 0) (i32.const 4)))
                (call $exit (i32.load (i32.const 0)))))"#,
    )
    .unwrap()
}

#[tokio::test]
async fn a_program_of_an_image_outlives_its_agent_and_ends_with_the_next() {
    let registry = Registry::start().await;
    let image = registry.push("spin", &spin());
    let mut master = FakeMaster::start().await;
    let mut agent = registry.agent(&master);
    let mut session = master.session().await;
    let task = contained("long", &format!(r#"{{"image": "{image}"}}"#), &[]);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    let executors = agent.executors();
    agent.kill();
    drop(registry);
    agent.start_again(&master);
    let mut session = master.session().await;
    assert_eq!(components(&agent), 1);
    session.kill(&task.task, 0).await;
    session.until(&task.task, TaskState::Killed).await;
    assert_eq!(agent.executors(), executors);
}

#[tokio::test]
async fn what_a_program_does_not_have_is_said_once_its_image_is_known() {
    let registry = Registry::start().await;
    let image = registry.push("hello", &hello());
    let files = ImageLayout::make();
    let mut master = FakeMaster::start().await;
    let agent = registry.agent(&master);
    let mut session = master.session().await;
    let mounted = format!(
        r#"{{"image": "{}", "mounts": [{{"path": "/mnt", "source": {{"image": "{image}"}}}}]}}"#,
        files.name()
    );
    let mut cases = vec![
        (
            contained(
                "user",
                &format!(r#"{{"image": "{image}", "user": "1"}}"#),
                &[],
            ),
            "container-refused",
            "leave out all but its image",
        ),
        (
            contained("mounted", &mounted, &["true"]),
            "image-invalid",
            "a task of its own",
        ),
    ];
    let plain = format!(r#"{{"image": "{}"}}"#, files.name());
    let mut given = contained("given", &plain, &["true"]);
    let tepui_types::Workload::Command(command) =
        &mut std::sync::Arc::make_mut(&mut given.spec).workload
    else {
        panic!("it is a command");
    };
    command.options = serde_json::from_str(r#"{"wasm": {"listen": true}}"#).unwrap();
    cases.push((given, "container-refused", "--connect"));
    for (task, code, words) in cases {
        session.launch(&task).await;
        let report = session.until(&task.task, TaskState::Error).await;
        let reason = report.reason.unwrap();
        assert_eq!(reason.code, code, "{}", reason.message);
        assert!(reason.message.contains(words), "{}", reason.message);
    }
    assert!(agent.executors().is_empty());
}
