//! A master's log and frameworks, without HTTP and agents' connections.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tepui_cluster::state::frameworks::Framework;
use tepui_cluster::{Accepted, Command, HttpAnswer};
use tepui_master::artifacts::Artifacts;
use tepui_master::folder::Folder;
use tepui_master::frameworks::{Compiler, Frameworks, HttpRequest, Options, RequestError};
use tepui_master::leader::allocation::Allocation;
use tepui_master::leader::offers::Offers;
use tepui_master::proposals::Request;
use tepui_master::raft::{self, Leadership, Log, LogThread};
use tepui_master::storage::Storage;
use tepui_types::{
    AgentInfo, Digest, FrameworkId, FrameworkInfo, MilliCpus, Principal, Resources, Role,
};

use crate::env;

/// Far beyond what anything here takes: who waits longer waits for ever.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// As much of a master as frameworks need.
pub struct Master {
    pub log: Log,
    _thread: LogThread,
    pub frameworks: Frameworks,
    artifacts: Artifacts,
    leading: tokio::task::JoinHandle<()>,
    // Dropped after the log: the lock is given back last.
    pub folder: Folder,
    /// Where all of it is.
    pub place: Arc<TempDir>,
}

impl Master {
    pub async fn start(discard_instances: Option<u32>) -> Self {
        let place = tempfile::tempdir().unwrap();
        Self::start_at(place.into(), compiler(), discard_instances).await
    }

    /// Again, perhaps, in a folder that was used before.
    pub async fn start_at(
        place: Arc<TempDir>,
        compiler: Compiler,
        discard_instances: Option<u32>,
    ) -> Self {
        let mut folder = take(&place.path().join("master")).await;
        let storage = Storage::open(&folder.database()).unwrap();
        let (mut log, thread) = env::start(storage, &mut folder, raft::Options::default())
            .await
            .unwrap();
        let term = term_of(&mut log).await;
        let artifacts = Artifacts::new(&folder.artifacts(), u64::MAX).unwrap();
        let offers = Offers::new(log.clock.clone());
        let frameworks = Frameworks::new(
            &log.proposals,
            &log.clock,
            &log.view,
            &offers,
            &artifacts,
            Options {
                code: folder.code(),
                compiler,
                discard_instances,
            },
        );
        let frameworks = frameworks.unwrap();
        frameworks.lead(term);
        let leading = tokio::spawn(lead(&log, offers, frameworks.clone()));
        Self {
            log,
            _thread: thread,
            frameworks,
            artifacts,
            leading,
            folder,
            place,
        }
    }

    /// Begins to lead its frameworks anew, as after a term in which another master led.
    pub async fn lead_again(&mut self) {
        self.frameworks.stop_leading();
        let term = term_of(&mut self.log).await;
        self.frameworks.lead(term);
    }

    pub async fn submit(&self, body: Command) -> Accepted {
        let request = Request::new(Principal::loopback_operator(), body);
        self.log
            .proposals
            .submit(request)
            .await
            .unwrap()
            .outcome
            .unwrap()
    }

    pub async fn upload(&self, bytes: Vec<u8>) -> Digest {
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        let body = futures::stream::iter([Ok::<_, Infallible>(Bytes::from(bytes))]);
        self.artifacts.put(digest, body).await.unwrap();
        self.submit(Command::RecordArtifact { digest, size }).await;
        digest
    }

    pub async fn deploy(&self, name: &str, config: &str) -> FrameworkId {
        self.deploy_component(std::fs::read(guest()).unwrap(), name, config)
            .await
    }

    pub async fn deploy_component(
        &self,
        component: Vec<u8>,
        name: &str,
        config: &str,
    ) -> FrameworkId {
        let artifact = self.upload(component).await;
        self.frameworks.validate(artifact).await.unwrap();
        let (name, roles) = (name.to_owned(), Role::default().into());
        let info = FrameworkInfo {
            name,
            roles,
            artifact,
            config: config.to_owned(),
        };
        match self.submit(Command::DeployFramework(info)).await {
            Accepted::Framework { framework, .. } => framework,
            other => panic!("{other:?}"),
        }
    }

    pub async fn request(
        &self,
        framework: FrameworkId,
        method: &str,
        path: &str,
    ) -> Result<HttpAnswer, RequestError> {
        self.request_with(framework, method, path, None).await
    }

    pub async fn request_with(
        &self,
        framework: FrameworkId,
        method: &str,
        path: &str,
        key: Option<&str>,
    ) -> Result<HttpAnswer, RequestError> {
        let request = http(method, path, 0);
        let caller = Principal::User("ann".into());
        let answer = self
            .frameworks
            .request(framework, request, caller, key.map(str::to_owned));
        tokio::time::timeout(PATIENCE, answer).await.unwrap()
    }

    pub async fn text(&self, framework: FrameworkId, method: &str, path: &str) -> String {
        let answer = self.request(framework, method, path).await.unwrap();
        String::from_utf8(answer.body).unwrap()
    }

    pub fn framework(&self, id: FrameworkId) -> Arc<Framework> {
        self.log.view.load().framework(id).unwrap().clone()
    }

    /// Waits for a command that makes this true.
    pub async fn until(
        &self,
        id: FrameworkId,
        is_so: impl Fn(&Framework) -> bool,
    ) -> Arc<Framework> {
        let wait = async {
            while !is_so(&self.framework(id)) {
                self.log.view.wait_for(self.log.view.applied() + 1).await;
            }
            self.framework(id)
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap()
    }

    pub async fn register_agent(&self) {
        let info = AgentInfo {
            address: None,
            hostname: "one".into(),
            resources: Resources {
                cpus: MilliCpus(4000),
                mem: tepui_types::Bytes::gib(4),
                ..Resources::default()
            },
            attributes: Default::default(),
            version: "0".into(),
            full: None,
        };
        self.submit(Command::RegisterAgent {
            nonce: 1,
            boot: 1,
            agent: None,
            info,
            tasks: Vec::new(),
        })
        .await;
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.leading.abort();
        self.frameworks.stop_leading();
    }
}

/// Takes the folder. A process that another test is just starting holds what this one had locked,
/// too, until it executes its program.
async fn take(path: &Path) -> Folder {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match Folder::open(path) {
            Ok(folder) => return folder,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error:?}"),
        }
        // sleep: between two tries.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The term in which it leads, once it does.
async fn term_of(log: &mut Log) -> u64 {
    let leads = |leadership: &Leadership| matches!(leadership, Leadership::Leader { .. });
    match *log.leadership.wait_for(leads).await.unwrap() {
        Leadership::Leader { term } => term,
        Leadership::Follower { .. } => unreachable!("it was waited for"),
    }
}

/// The leader's loop, as far as frameworks need it.
fn lead(
    log: &Log,
    offers: Offers,
    frameworks: Frameworks,
) -> impl Future<Output = ()> + Send + 'static {
    let (mailbox, view) = (log.mailbox.clone(), log.view.clone());
    let allocation = Allocation::new(offers.clone(), log.clock.clone());
    async move {
        loop {
            let changes = tokio::select! {
                delivery = mailbox.take() => delivery.changes,
                () = offers.changed() => Default::default(),
            };
            frameworks.on_changes(&changes);
            frameworks.on_decisions(allocation.run(&view, &changes));
        }
    }
}

pub fn http(method: &str, path: &str, body: usize) -> HttpRequest {
    HttpRequest {
        method: method.into(),
        path: path.into(),
        query: None,
        headers: vec![("accept".into(), "*/*".into())],
        body: vec![b'x'; body],
    }
}

pub fn guest() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let release = test.parent().and_then(|deps| deps.parent()).unwrap();
    let guest = release.join("test-frameworks/unruly.wasm");
    assert!(
        guest.is_file(),
        "{} is missing: run `cargo xtask test`",
        guest.display()
    );
    guest
}

/// The compiler as it is deployed: this test is no `tepui-master` itself.
pub fn compiler() -> Compiler {
    Compiler {
        program: env!("CARGO_BIN_EXE_tepui-master").into(),
        ..Compiler::default()
    }
}
