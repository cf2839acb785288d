//! Tasks that listen where they may, and where they may not.

use std::net::TcpListener;

use tepui_types::TaskState;
use tepui_types::resources::PortRanges;
use tepui_types::task::reason;
use tepui_types::wire::agent::TaskLaunch;

use crate::master::{FakeMaster, shell};
use crate::process::AgentProcess;

/// The ports that an agent lends unless it is told otherwise.
const LENT: std::ops::Range<u16> = 31_000..32_000;

/// Ports of these on which nothing listens now.
fn free_ports(among: impl Iterator<Item = u16>, count: usize) -> Vec<u16> {
    let is_free = |port: &u16| TcpListener::bind(("0.0.0.0", *port)).is_ok();
    let free: Vec<u16> = among.filter(is_free).take(count).collect();
    assert_eq!(free.len(), count);
    free
}

fn listens(name: &str, on: u16, has: &[u16]) -> TaskLaunch {
    let script = format!("exec /bin/busybox nc -l -p {on}");
    let mut launch = shell(name, &script);
    launch.resources.ports =
        PortRanges::from_ranges(has.iter().map(|port| (*port, *port)).collect());
    launch
}

#[tokio::test]
async fn a_task_on_a_port_that_is_lent_to_others_is_ended_and_told_which() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    // Others that look for a free port begin in front.
    let ports = free_ports(LENT.rev(), 2);
    let outside = free_ports(20_000..30_000, 1)[0];
    let own = listens("own", ports[0], &ports[..1]);
    let elsewhere = listens("elsewhere", outside, &[]);
    let taken = listens("taken", ports[1], &ports[..1]);
    for launch in [&own, &elsewhere, &taken] {
        session.launch(launch).await;
    }
    let report = session.until(&taken.task, TaskState::Failed).await;
    let why = report.reason.unwrap();
    assert_eq!(why.code, reason::PORT_FOREIGN);
    let (theirs, told) = (ports[0].to_string(), ports[1].to_string());
    assert!(
        why.message.contains(&theirs) && why.message.contains(&told),
        "{why}"
    );
    // Whoever listens where nobody is lent anything, or on its own, goes on.
    for launch in [own, elsewhere] {
        let report = &session.latest[&launch.task];
        assert_eq!(report.state, TaskState::Running, "{report:?}");
    }
}

#[tokio::test]
async fn where_the_operator_says_so_tasks_listen_on_their_own_ports_alone() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start_with(&master, &["--task-ports", "own"]);
    let mut session = master.session().await;
    let outside = free_ports((20_000..30_000).rev(), 1)[0];
    let elsewhere = listens("elsewhere", outside, &[]);
    session.launch(&elsewhere).await;
    let report = session.until(&elsewhere.task, TaskState::Failed).await;
    let why = report.reason.unwrap();
    assert_eq!(why.code, reason::PORT_FOREIGN);
    assert!(why.message.contains("--ports"), "{why}");
}
