//! Many tasks at once on an agent with few processors: all end as they should, also where executors are
//! killed meanwhile, and the agent has afterwards what it had before.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tepui_types::task::reason;
use tepui_types::wire::agent::{AgentEffect, MasterFrame, StatusReport, TaskLaunch, Welcome};
use tepui_types::{Bytes, Digest, MilliCpus, TaskState};

use crate::master::{FakeMaster, Session, eventually, shell, wasm, welcome};
use crate::process::AgentProcess;

const NATIVE: usize = 300;
const DOMAINS: usize = 20;
const WASM: usize = 200;
/// Tasks of which some must end within the deadline of every wait: a machine may be slow.
const STEP: usize = 20;
/// Descriptors that the agent may have more than at its start, as of connections that it keeps open.
const MORE_DESCRIPTORS: usize = 16;
/// Memory that it may have more after a second storm than after the first, which filled what it keeps.
const MORE_MEMORY: Bytes = Bytes::mib(16);

/// What a native task does, and how it ends.
const SCRIPTS: [(&str, TaskState, &str); 5] = [
    ("true", TaskState::Finished, ""),
    ("exit 3", TaskState::Failed, reason::EXIT_CODE),
    ("kill -9 $$", TaskState::Failed, reason::SIGNAL),
    ("sleep 0.1", TaskState::Finished, ""),
    ("seq 100", TaskState::Finished, ""),
];

/// A session that bears a test which looks at hundreds of files and processes at once.
async fn patient(master: &mut FakeMaster) -> Session {
    let mut session = master.accept().await;
    let welcome = Welcome {
        heartbeat_ms: 1_000,
        ..welcome()
    };
    session.send(MasterFrame::Welcome(welcome)).await;
    session
}

/// Ends by a trap.
fn trap() -> Vec<u8> {
    wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#)
        .unwrap()
}

/// A task, and how it ends where nobody kills its executor.
type Expected = (TaskLaunch, TaskState, &'static str);

fn tasks(storm: usize, hello: Digest, trap: Digest) -> Vec<Expected> {
    let of_domain = |mut launch: TaskLaunch, number: usize, domains: usize| {
        launch.resources.cpus = MilliCpus(100);
        let spec = Arc::make_mut(&mut launch.spec);
        spec.user = format!("user{}", number % domains);
        launch
    };
    let native = (0..NATIVE).map(|number| {
        let (script, state, code) = SCRIPTS[number % SCRIPTS.len()];
        let launch = shell(&format!("native{storm}x{number}"), script);
        (of_domain(launch, number, DOMAINS), state, code)
    });
    let wasm = (0..WASM).map(|number| {
        let (artifact, state, code) = match number % 10 {
            0 => (trap, TaskState::Failed, reason::WASM_TRAP),
            _ => (hello, TaskState::Finished, ""),
        };
        let launch = wasm(&format!("wasm{storm}x{number}"), artifact);
        (of_domain(launch, number, 2), state, code)
    });
    native.chain(wasm).collect()
}

async fn launch_all(session: &mut Session, tasks: &[Expected]) {
    let launches = tasks.iter().map(|(launch, ..)| Box::new(launch.clone()));
    session
        .effects(launches.map(AgentEffect::Launch).collect())
        .await;
}

fn ended<'a>(
    session: &'a Session,
    tasks: &'a [Expected],
) -> impl Iterator<Item = &'a StatusReport> {
    let reports = tasks
        .iter()
        .filter_map(|(launch, ..)| session.latest.get(&launch.task));
    reports.filter(|report| report.state.is_terminal())
}

async fn until_all_ended(session: &mut Session, tasks: &[Expected]) {
    let ids: BTreeSet<_> = tasks.iter().map(|(launch, ..)| &launch.task).collect();
    let mut wanted = 0;
    while wanted < tasks.len() {
        wanted = (ended(session, tasks).count() + STEP).min(tasks.len());
        let step = session.until_all(|latest| {
            let ours = latest.iter().filter(|(id, _)| ids.contains(id));
            ours.filter(|(_, report)| report.state.is_terminal())
                .count()
                >= wanted
        });
        step.await;
    }
}

fn check(report: &StatusReport, (launch, state, code): &Expected, agent: &AgentProcess) {
    let why = report.reason.as_ref();
    let found = why.map_or("", |why| why.code.as_str());
    assert_eq!((report.state, found), (*state, *code), "{report:?}");
    let stdout = agent.layout().task(&launch.task).join("stdout");
    let lines = std::fs::read_to_string(stdout).unwrap_or_default();
    let lines = lines.lines().count();
    let is_counting = launch.task.name.to_string().starts_with("native")
        && matches!(&launch.spec.workload, tepui_types::Workload::Command(command)
            if command.argv[2].starts_with("seq"));
    assert!(!is_counting || lines == 100, "{lines} lines of {report:?}");
}

/// Looks at one after another, and keeps the session alive meanwhile.
async fn check_all(session: &mut Session, tasks: &[Expected], agent: &AgentProcess) {
    let latest = session.latest.clone();
    let checks = async {
        for expected in tasks {
            check(&latest[&expected.0.task], expected, agent);
            tokio::task::yield_now().await;
        }
    };
    session.meanwhile(checks).await;
}

/// Ends the processes that wait for more tasks, and waits until the agent has forgotten them.
async fn end_spare(session: &mut Session, agent: &AgentProcess) {
    let over = eventually("no executor is left", || {
        for executor in agent.executors() {
            let _ = kill(Pid::from_raw(executor.pid), Signal::SIGKILL);
        }
        let folder = std::fs::read_dir(agent.layout().executors()).unwrap();
        folder.count() == 0 && agent.processes_in_cgroups().is_empty()
    });
    session.meanwhile(over).await;
}

fn descriptors(agent: &AgentProcess) -> usize {
    let folder = format!("/proc/{}/fd", agent.pid());
    std::fs::read_dir(folder).unwrap().count()
}

fn memory(agent: &AgentProcess) -> Bytes {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    Bytes(kib * 1024)
}

/// Waits until the agent has no more descriptors than this.
async fn has_descriptors(session: &mut Session, agent: &AgentProcess, most: usize) {
    let few = eventually("what was opened is closed", || descriptors(agent) <= most);
    session.meanwhile(few).await;
}

#[tokio::test]
async fn a_launch_storm_ends_as_it_should_and_leaves_the_agent_as_it_was() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let (hello, trap) = (
        master.add_artifact(&crate::wasm::hello()),
        master.add_artifact(&trap()),
    );
    let mut session = patient(&mut master).await;
    let first = shell("first", "true");
    session.launch(&first).await;
    session.until(&first.task, TaskState::Finished).await;
    end_spare(&mut session, &agent).await;
    let (before, mut had) = (descriptors(&agent), None);
    for storm in 0..2 {
        let tasks = tasks(storm, hello, trap);
        launch_all(&mut session, &tasks).await;
        until_all_ended(&mut session, &tasks).await;
        check_all(&mut session, &tasks, &agent).await;
        end_spare(&mut session, &agent).await;
        has_descriptors(&mut session, &agent, before + MORE_DESCRIPTORS).await;
        let has = memory(&agent);
        eprintln!(
            "after a storm: {has}, {} descriptors of {before}",
            descriptors(&agent)
        );
        let most = had.map_or(Bytes(u64::MAX), |had: Bytes| Bytes(had.0 + MORE_MEMORY.0));
        assert!(has <= most, "{has} after {had:?}");
        had = Some(has);
    }
}

#[tokio::test]
async fn executors_killed_in_a_launch_storm_take_their_own_tasks_with_them_alone() {
    const KILLS: usize = 60;
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let (hello, trap) = (
        master.add_artifact(&crate::wasm::hello()),
        master.add_artifact(&trap()),
    );
    let mut session = patient(&mut master).await;
    let first = shell("first", "true");
    session.launch(&first).await;
    session.until(&first.task, TaskState::Finished).await;
    end_spare(&mut session, &agent).await;
    let before = descriptors(&agent);
    let tasks = tasks(0, hello, trap);
    launch_all(&mut session, &tasks).await;
    let mut killed = BTreeSet::new();
    let killing = async {
        // The same order in every run, as far as that is ours to say.
        let mut random: usize = 7;
        while killed.len() < KILLS {
            let executors = agent.executors();
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            if let Some(victim) = executors.get((random >> 33) % executors.len().max(1)) {
                let _ = kill(Pid::from_raw(victim.pid), Signal::SIGKILL);
                killed.insert(victim.pid);
            }
            // sleep: others go on between two kills.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ends = until_all_ended(&mut session, &tasks);
    // Where all tasks have ended there is nothing to kill for.
    tokio::join!(ends, async {
        let _ = tokio::time::timeout(Duration::from_secs(20), killing).await;
    });
    let mut spared = tasks;
    let all = spared.len();
    spared.retain(|(launch, ..)| {
        let why = session.latest[&launch.task].reason.as_ref();
        why.is_none_or(|why| why.code != reason::EXECUTOR_TERMINATED)
    });
    let taken = all - spared.len();
    check_all(&mut session, &spared, &agent).await;
    eprintln!("{} kills took {taken} tasks", killed.len());
    assert!(taken < all);
    end_spare(&mut session, &agent).await;
    has_descriptors(&mut session, &agent, before + MORE_DESCRIPTORS).await;
    assert!(Path::new(&format!("/proc/{}", agent.pid())).exists());
}
