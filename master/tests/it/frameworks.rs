//! The framework host over a real log, with a guest that misbehaves on request
//! (`tests/frameworks/unruly`).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use tempfile::TempDir;
use tepui_cluster::state::frameworks::Framework;
use tepui_cluster::{Accepted, Command, HttpAnswer};
use tepui_master::artifacts::Artifacts;
use tepui_master::folder::Folder;
use tepui_master::frameworks::{ComponentError, Frameworks, HttpRequest, RequestError, limits};
use tepui_master::leader::allocation::Allocation;
use tepui_master::leader::offers::Offers;
use tepui_master::proposals::Request;
use tepui_master::raft::{self, Leadership, Log};
use tepui_types::task::reason;
use tepui_types::{
    AgentInfo, Digest, FrameworkId, FrameworkInfo, FrameworkPhase, MilliCpus, Principal, Reason,
    Resources, Role,
};

/// Far beyond what anything here takes: who waits longer waits for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// A master's log and frameworks, without HTTP and agents' connections.
struct Master {
    log: Log,
    frameworks: Frameworks,
    artifacts: Artifacts,
    leading: tokio::task::JoinHandle<()>,
    // Dropped after the log: the lock is given back last.
    _folder: (Folder, TempDir),
}

impl Master {
    async fn start(discard_instances: Option<u32>) -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(&place.path().join("master")).unwrap();
        let mut log = raft::start(&mut folder, raft::Options::default()).unwrap();
        let leads = |leadership: &Leadership| matches!(leadership, Leadership::Leader { .. });
        log.leadership.wait_for(leads).await.unwrap();
        let artifacts = Artifacts::new(&folder.artifacts(), u64::MAX).unwrap();
        let offers = Offers::default();
        let frameworks = Frameworks::new(
            &log.proposals,
            &log.view,
            &offers,
            &artifacts,
            discard_instances,
        );
        let frameworks = frameworks.unwrap();
        frameworks.lead(1);
        let leading = tokio::spawn(lead(&log, offers, frameworks.clone()));
        Self {
            log,
            frameworks,
            artifacts,
            leading,
            _folder: (folder, place),
        }
    }

    async fn submit(&self, body: Command) -> Accepted {
        let request = Request::new(Principal::loopback_operator(), body);
        self.log
            .proposals
            .submit(request)
            .await
            .unwrap()
            .outcome
            .unwrap()
    }

    async fn upload(&self, bytes: Vec<u8>) -> Digest {
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        let body = futures::stream::iter([Ok::<_, Infallible>(Bytes::from(bytes))]);
        self.artifacts.put(digest, body).await.unwrap();
        self.submit(Command::RecordArtifact { digest, size }).await;
        digest
    }

    async fn deploy(&self, name: &str, config: &str) -> FrameworkId {
        let artifact = self.upload(std::fs::read(guest()).unwrap()).await;
        self.frameworks.validate(artifact).await.unwrap();
        let (name, role) = (name.to_owned(), Role::default());
        let info = FrameworkInfo {
            name,
            role,
            artifact,
            config: config.to_owned(),
        };
        match self.submit(Command::DeployFramework(info)).await {
            Accepted::Framework { framework, .. } => framework,
            other => panic!("{other:?}"),
        }
    }

    async fn request(
        &self,
        framework: FrameworkId,
        method: &str,
        path: &str,
    ) -> Result<HttpAnswer, RequestError> {
        self.request_with(framework, method, path, None).await
    }

    async fn request_with(
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

    async fn text(&self, framework: FrameworkId, method: &str, path: &str) -> String {
        let answer = self.request(framework, method, path).await.unwrap();
        String::from_utf8(answer.body).unwrap()
    }

    fn framework(&self, id: FrameworkId) -> Arc<Framework> {
        self.log.view.load().framework(id).unwrap().clone()
    }

    /// Waits for a command that makes this true.
    async fn until(&self, id: FrameworkId, is_so: impl Fn(&Framework) -> bool) -> Arc<Framework> {
        let wait = async {
            while !is_so(&self.framework(id)) {
                self.log.view.wait_for(self.log.view.applied() + 1).await;
            }
            self.framework(id)
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap()
    }

    async fn register_agent(&self) {
        let info = AgentInfo {
            hostname: "one".into(),
            resources: Resources {
                cpus: MilliCpus(4000),
                mem: tepui_types::Bytes::gib(4),
                ..Resources::default()
            },
            attributes: BTreeMap::new(),
            version: "0".into(),
        };
        self.submit(Command::RegisterAgent {
            nonce: 1,
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

/// The leader's loop, as far as frameworks need it.
fn lead(
    log: &Log,
    offers: Offers,
    frameworks: Frameworks,
) -> impl Future<Output = ()> + Send + 'static {
    let (mailbox, view) = (log.mailbox.clone(), log.view.clone());
    let allocation = Allocation::new(offers.clone());
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

fn http(method: &str, path: &str, body: usize) -> HttpRequest {
    HttpRequest {
        method: method.into(),
        path: path.into(),
        query: None,
        headers: vec![("accept".into(), "*/*".into())],
        body: vec![b'x'; body],
    }
}

fn guest() -> PathBuf {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_trapped_turn_never_was() {
    let master = Master::start(None).await;
    let framework = master.deploy("unruly", "").await;
    assert_eq!(master.text(framework, "POST", "/add").await, "1");
    for deed in ["trap", "allocate"] {
        let path = format!("/add-then-{deed}");
        let error = master.request(framework, "POST", &path).await.unwrap_err();
        let RequestError::Trapped(reason) = error else {
            panic!("{error}")
        };
        match deed {
            "trap" => assert!(reason.message.contains("a trap on request"), "{reason}"),
            _ => assert_eq!(reason.code, reason::MEMORY_LIMIT, "{reason}"),
        }
        let before = master.framework(framework);
        assert_eq!(
            before.reason.as_ref(),
            Some(&reason),
            "operators see it, too"
        );
        master
            .until(framework, |framework| {
                framework.phase == FrameworkPhase::Running
            })
            .await;
        assert_eq!(
            master.text(framework, "GET", "/count").await,
            "1",
            "after {deed}"
        );
    }
    let lines = master.frameworks.logs(framework).read();
    assert!(
        lines.iter().any(|line| line.message == "about to trap"),
        "logs outlive the turn"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spinning_framework_is_stopped_and_delays_no_other() {
    let master = Master::start(None).await;
    let spinning = master.deploy("spinning", "").await;
    let other = master.deploy("other", "").await;
    master.text(other, "POST", "/add").await;
    master.text(spinning, "POST", "/add").await;
    let spin = master.request(spinning, "POST", "/add-then-loop");
    let work = async {
        let mut answers = 0;
        for _ in 0..20 {
            master.text(other, "POST", "/add").await;
            answers += 1;
        }
        answers
    };
    // Twenty turns of the other go by before the one is over.
    let (ended, answers) = tokio::select! {
        biased;
        ended = spin => (Some(ended), 0),
        answers = work => (None, answers),
    };
    assert_eq!(answers, 20, "{ended:?}");
    assert_eq!(master.text(other, "GET", "/count").await, "21");

    let error = master.request(spinning, "POST", "/loop").await.unwrap_err();
    match error {
        RequestError::Deadline(reason) => assert_eq!(reason.code, reason::DEADLINE),
        // The first one was over already.
        RequestError::NotRunning {
            phase: FrameworkPhase::Backoff,
            reason: Some(reason),
        } => {
            assert_eq!(reason.code, reason::DEADLINE);
        }
        other => panic!("{other}"),
    }
    master
        .until(spinning, |framework| {
            framework.phase == FrameworkPhase::Running
        })
        .await;
    assert_eq!(master.text(spinning, "GET", "/count").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_under_a_known_key_is_answered_once() {
    let master = Master::start(None).await;
    let framework = master.deploy("unruly", "").await;
    let first = master
        .request_with(framework, "POST", "/add", Some("k"))
        .await
        .unwrap();
    let again = master
        .request_with(framework, "POST", "/add", Some("k"))
        .await
        .unwrap();
    assert_eq!((first.body.as_slice(), again), (&b"1"[..], first.clone()));
    assert_eq!(master.text(framework, "POST", "/add").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_in_memory_may_be_lost_and_the_store_never() {
    let master = Master::start(Some(1)).await;
    let framework = master.deploy("unruly", "").await;
    for count in 1..=5 {
        assert_eq!(
            master.text(framework, "POST", "/add").await,
            count.to_string()
        );
    }
    let incarnation = master.framework(framework).incarnation;
    assert_eq!(incarnation, 5, "each turn had an instance of its own");

    // A new term finds what the one before has committed, and starts lazily.
    master.frameworks.stop_leading();
    let error = master
        .request(framework, "GET", "/count")
        .await
        .unwrap_err();
    assert!(matches!(error, RequestError::Propose(_)), "{error}");
    master.frameworks.lead(2);
    assert_eq!(master.text(framework, "GET", "/count").await, "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_of_failures_ends_in_failed_until_an_operator_restarts_it() {
    let master = Master::start(None).await;
    let framework = master.deploy("unruly", "").await;
    master.text(framework, "POST", "/add").await;
    // What seven faults in a row leave, without the waits between them.
    while master.framework(framework).phase != FrameworkPhase::Failed {
        let incarnation = master.framework(framework).incarnation;
        let reason = Reason::new(reason::WASM_TRAP, "seven times");
        let body = Command::StopFramework {
            framework,
            incarnation,
            reason,
        };
        // The actor may have started the next incarnation in between.
        let request = Request::new(Principal::Leader, body);
        drop(master.log.proposals.submit(request).await.unwrap().outcome);
    }
    let error = master
        .request(framework, "GET", "/count")
        .await
        .unwrap_err();
    let RequestError::NotRunning {
        phase: FrameworkPhase::Failed,
        reason: Some(reason),
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(reason.message, "seven times");
    assert!(error.to_string().contains("restart it"), "{error}");
    master.submit(Command::RestartFramework { framework }).await;
    assert_eq!(master.text(framework, "GET", "/count").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_says_why_and_is_tried_again() {
    let master = Master::start(None).await;
    let framework = master.deploy("refuses", "start=error").await;
    let stopped = master
        .until(framework, |framework| framework.failures == 2)
        .await;
    let reason = stopped.reason.clone().unwrap();
    assert_eq!(reason.code, reason::START_FAILED);
    assert_eq!(reason.message, "it was told not to start");
    assert_eq!(stopped.incarnation, 0, "no start was committed");
    master.submit(Command::RemoveFramework { framework }).await;
    let error = master
        .request(framework, "GET", "/count")
        .await
        .unwrap_err();
    assert!(matches!(error, RequestError::Gone), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_come_with_demand_and_a_trapped_launch_never_was() {
    let master = Master::start(None).await;
    master.register_agent().await;
    let framework = master.deploy("unruly", "").await;
    assert_eq!(
        master.text(framework, "POST", "/launch-then-trap").await,
        "wanted"
    );
    // It launches in `handle`, counts, and traps.
    let stopped = master
        .until(framework, |framework| framework.failures == 1)
        .await;
    let reason = stopped.reason.clone().unwrap();
    assert!(reason.message.starts_with("`handle` trapped"), "{reason}");
    assert_eq!(
        (
            stopped.tasks.len(),
            stopped.store.len(),
            stopped.next_attempt
        ),
        (0, 0, 0)
    );
    // After its backoff it is offered the same again.
    master
        .until(framework, |framework| framework.failures == 2)
        .await;
    assert!(master.log.view.load().tasks.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_fire_by_themselves() {
    let master = Master::start(None).await;
    let framework = master.deploy("unruly", "").await;
    assert_eq!(master.text(framework, "POST", "/wake/nothing").await, "set");
    let fired = master
        .until(framework, |framework| framework.timers.is_empty())
        .await;
    assert_eq!(
        fired.store.len(),
        1,
        "the store write and the timer are one turn"
    );
    assert_eq!(master.text(framework, "GET", "/count").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_is_full_commits_and_goes_on() {
    let master = Master::start(None).await;
    let framework = master.deploy("unruly", "").await;
    let refusal = master.text(framework, "POST", "/fill").await;
    assert!(refusal.contains("full"), "{refusal}");
    let filled = master.framework(framework).store.len();
    assert!(
        (10..16).contains(&filled),
        "{filled} values of 64 KiB in a turn of 1 MiB"
    );
    assert_eq!(master.text(framework, "POST", "/add").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_bounded_in_size_and_number() {
    let master = Master::start(None).await;
    let framework = master.deploy("unruly", "").await;
    let too_large = http("POST", "/add", limits::REQUEST_BYTES + 1);
    let caller = Principal::loopback_operator;
    let error = master
        .frameworks
        .request(framework, too_large, caller(), None)
        .await
        .unwrap_err();
    assert!(matches!(error, RequestError::TooLarge), "{error}");

    let most = limits::REQUESTS;
    let requests = (0..2 * most).map(|_| master.request(framework, "POST", "/loop"));
    let mut answers = futures::stream::iter(requests).buffer_unordered(2 * most);
    let first = answers.next().await.unwrap().unwrap_err();
    assert!(matches!(first, RequestError::Busy), "{first}");
    assert!(first.to_string().contains("try again"), "{first}");
    let rest: Vec<_> = answers.collect().await;
    // One loops and is stopped; those that wait for it are told so, the others to come again.
    assert!(rest.iter().all(|answer| matches!(
        answer,
        Err(RequestError::Busy | RequestError::Deadline(_) | RequestError::NotRunning { .. })
    )));
    master
        .until(framework, |framework| {
            framework.phase == FrameworkPhase::Running
        })
        .await;
    assert_eq!(master.text(framework, "POST", "/add").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_framework_is_refused_before_it_is_deployed() {
    let master = Master::start(None).await;
    let garbage = master.upload(b"hello".to_vec()).await;
    let error = master.frameworks.validate(garbage).await.unwrap_err();
    assert!(matches!(error, ComponentError::NotWasm(_)), "{error}");
    let unknown = Digest::of(b"nobody has this");
    let error = master.frameworks.validate(unknown).await.unwrap_err();
    assert!(error.to_string().contains("upload it first"), "{error}");
    let mut torn = std::fs::read(guest()).unwrap();
    torn.truncate(torn.len() / 2);
    let torn = master.upload(torn).await;
    let error = master.frameworks.validate(torn).await.unwrap_err();
    assert!(matches!(error, ComponentError::Invalid(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_frameworks_log_ends() {
    let master = Master::start(None).await;
    let framework = master.deploy("unruly", "").await;
    master.request(framework, "POST", "/chatter").await.unwrap();
    let lines = master.frameworks.logs(framework).lines(true);
    master.submit(Command::RemoveFramework { framework }).await;
    let lines: Vec<_> = tokio::time::timeout(PATIENCE, lines.collect())
        .await
        .unwrap();
    assert!(lines.len() <= limits::LOG_LINES, "{} lines", lines.len());
    assert!(lines.last().unwrap().message.contains("left out"));
}
