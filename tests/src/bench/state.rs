//! One master with a very large state: how soon it serves again, and how long an image stops it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tepui_cluster::{Accepted, Command, State};
use tepui_master::backup::restore;
use tepui_master::folder::{Folder, Identity};
use tepui_master::proposals::Request;
use tepui_master::raft::{self, Leadership, Options};
use tepui_master::storage::Storage;
use tepui_types::operation::Operation;
use tepui_types::{
    AgentId, AgentInfo, Bytes, ClusterId, Digest, FrameworkInfo, MilliCpus, Principal, Resources,
    Timestamp,
};
use tokio::time::Instant;

use crate::bench::Samples;
use crate::client::Client;
use crate::process::{self, Process};

// Shared with the tests of the cluster's core.
#[allow(dead_code)]
#[path = "../../../cluster/tests/it/makers.rs"]
mod makers;

/// Agents that the tasks are spread over.
const AGENTS: u64 = 1_000;
/// Entries after which an image is written.
const BEFORE_IMAGE: u64 = 2_000;
/// The pause between two looks for the image, each of which reads all that there is of it.
const NEWEST_LOOK: Duration = Duration::from_secs(2);
/// Launches in one turn: as many as it may hold.
const LAUNCHES: u64 = 2_000;
/// Where a master looks for others; there are none.
const NOWHERE: &str = "http://127.0.0.1:1";
/// How long a master may take to be ready, or an image to be written.
const PATIENCE: Duration = Duration::from_secs(300);

/// Seconds from the start of a master's process on a folder with so many tasks until it serves.
pub async fn restart(tasks: u64) -> Result<f64> {
    let place = tempfile::tempdir()?;
    let dir = place.path().join("master");
    drop(prepare(&dir, tasks)?);
    let log = place.path().join("master.log");
    let args = [
        "--dir",
        &dir.display().to_string(),
        "--listen",
        "127.0.0.1:0",
    ];
    let args: Vec<_> = args.iter().map(Into::into).collect();
    let begun = Instant::now();
    let mut master = Process::spawn("master", &process::program("tepui-master")?, &args, &log)?;
    loop {
        if let Some(status) = master.ended() {
            bail!("the master ended with {status}: {}", master.log());
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "the master is not ready: {}",
            master.log()
        );
        if let Ok(url) = std::fs::read_to_string(dir.join("address"))
            && Client::new(url.trim())?.ready().await
        {
            return Ok(begun.elapsed().as_secs_f64());
        }
        // sleep: between two looks.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What small commands waited for, one after another, in milliseconds.
#[derive(Debug, Default)]
pub struct Waits {
    /// From a command's proposal to its outcome.
    pub all: Samples,
    /// Of that, but for the sync of its entry.
    pub without_sync: Samples,
}

/// How long small commands waited while an image of so many tasks was written; and before.
pub async fn while_an_image_is_written(tasks: u64) -> Result<[Waits; 2]> {
    let place = tempfile::tempdir()?;
    let dir = place.path().join("master");
    let (folder, identity) = prepare(&dir, tasks)?;
    let storage = Storage::open(&folder.database())?;
    let options = Options {
        snapshot_entries: BEFORE_IMAGE,
        ..Options::default()
    };
    let (mut log, mut thread) = raft::start(storage.clone(), identity, NOWHERE, options, None)?;
    let leads = |it: &Leadership| matches!(it, Leadership::Leader { .. });
    log.leadership.wait_for(leads).await?;
    let newest =
        || anyhow::Ok(tepui_master::storage::snapshot::latest(&storage)?.map(|it| it.index));
    let before = newest()?;
    let (mut before_it, mut during) = (Waits::default(), Waits::default());
    let begun = Instant::now();
    let mut looked = begun;
    for number in 0_u64.. {
        let size = 1;
        let digest = Digest::of(&number.to_le_bytes());
        let command = Command::RecordArtifact { digest, size };
        let request = Request::new(Principal::loopback_operator(), command);
        let (asked, synced) = (Instant::now(), storage.synced());
        // Its outcome is of no interest: past the bound of artifacts it is refused, in the log.
        log.proposals.submit(request).await?.outcome.ok();
        let millis = |span: Duration| span.as_secs_f64() * 1_000.0;
        let (all, in_sync) = (asked.elapsed(), storage.synced() - synced);
        let waits = match number < BEFORE_IMAGE {
            true => &mut before_it,
            false => &mut during,
        };
        waits.all.add(millis(all));
        waits.without_sync.add(millis(all.saturating_sub(in_sync)));
        if looked.elapsed() > NEWEST_LOOK {
            looked = Instant::now();
            if newest()? != before {
                break;
            }
        }
        ensure!(begun.elapsed() < PATIENCE, "no image was written");
    }
    tokio::task::spawn_blocking(move || thread.stop()).await?;
    Ok([during, before_it])
}

/// A master's folder with so many living tasks in its state.
fn prepare(dir: &Path, tasks: u64) -> Result<(Folder, Identity)> {
    let mut folder = Folder::open(dir)?;
    let storage = Storage::open(&folder.database())?;
    let node = storage.candidate(Identity::draw_node()?)?;
    let state = filled(tasks)?.restored(node, NOWHERE.into());
    let identity = restore::begin(&storage, state, node)?;
    folder.set_identity(identity)?;
    Ok((folder, identity))
}

/// A state with so many living tasks of one framework.
fn filled(tasks: u64) -> Result<State> {
    let mut state = State::new(ClusterId(1));
    let share = tasks.div_ceil(AGENTS) + 1;
    for nonce in 1..=AGENTS {
        let info = machine(nonce, share);
        let command = makers::register(nonce.into(), None, info, Vec::new());
        apply(&mut state, command)?;
    }
    let digest = Digest::of(b"a framework");
    apply(&mut state, Command::RecordArtifact { digest, size: 1 })?;
    let info = FrameworkInfo {
        name: "bench".into(),
        roles: tepui_types::Role::default().into(),
        artifact: digest,
        config: String::new(),
    };
    let deployed = apply(&mut state, Command::DeployFramework(info))?;
    let Accepted::Framework { framework, .. } = deployed else {
        bail!("{deployed:?}");
    };
    let start = makers::start_turn(&state, framework);
    apply(&mut state, Command::Turn(start))?;
    let spec = makers::spec();
    let mut launched = 0;
    while launched < tasks {
        let mut turn = makers::next_turn(&state, framework, spec.clone());
        let end = tasks.min(launched + LAUNCHES);
        turn.operations = (launched..end).map(launch).collect();
        launched = end;
        apply(&mut state, Command::Turn(turn))?;
    }
    ensure!(state.tasks.len() as u64 == tasks, "not all tasks fit");
    Ok(state)
}

fn launch(number: u64) -> Operation {
    let agent = AgentId(number % AGENTS + 1);
    makers::launch(agent, &format!("task-{number}"), amounts(1))
}

fn apply(state: &mut State, body: Command) -> Result<Accepted> {
    let envelope = makers::envelope(1, Timestamp(1_700_000_000_000), body);
    Ok(state.apply(state.index + 1, &envelope).outcome?)
}

fn machine(number: u64, tasks: u64) -> AgentInfo {
    AgentInfo {
        address: None,
        hostname: format!("agent-{number}"),
        resources: amounts(tasks),
        attributes: Default::default(),
        version: env!("CARGO_PKG_VERSION").into(),
        full: None,
    }
}

fn amounts(tasks: u64) -> Resources {
    Resources {
        cpus: MilliCpus(tasks),
        mem: Bytes(tasks * 1024 * 1024),
        ..Resources::default()
    }
}
