//! Tasks that listen where they may, and where they may not.

use std::net::TcpListener;

use tepui_types::TaskState;
use tepui_types::resources::PortRanges;
use tepui_types::task::reason;
use tepui_types::wire::agent::TaskLaunch;

use crate::containers::can_contain;
use crate::images::ImageLayout;
use crate::master::{FakeMaster, contained, shell};
use crate::process::AgentProcess;
use crate::runtimes::{self, RUNC};

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

#[tokio::test]
async fn a_container_in_the_machines_network_is_ended_for_others_ports() {
    if can_contain() {
        on_others_ports(&[]).await;
    }
}

#[tokio::test]
async fn so_is_one_that_runc_has_made() {
    if runtimes::can_run() {
        on_others_ports(&["--oci-runtime", RUNC]).await;
    }
}

/// Of an image or of the machine's tree: ended. Where the network is its own, all ports are.
async fn on_others_ports(options: &'static [&'static str]) {
    let image = ImageLayout::make();
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start_with(&master, options);
    let mut session = master.session().await;
    let ports = free_ports(LENT.rev(), 3);
    let image = format!(r#"{{"image": "{}"}}"#, image.name());
    let alone = image.replace('}', r#", "network": "none"}"#);
    let listens = |name: &str, container: &str, on: u16| {
        let port = on.to_string();
        let mut task = contained(name, container, &["/bin/busybox", "nc", "-l", "-p", &port]);
        task.resources.ports = PortRanges::from_range(ports[0], ports[0]);
        task
    };
    let own = listens("own", &image, ports[0]);
    let apart = listens("apart", &alone, ports[1]);
    let taken = listens("taken", &image, ports[1]);
    let isolated = listens("isolated", r#"{"network": "host"}"#, ports[2]);
    for launch in [&own, &apart, &taken, &isolated] {
        session.launch(launch).await;
    }
    for (launch, port) in [(&taken, ports[1]), (&isolated, ports[2])] {
        let report = session.until(&launch.task, TaskState::Failed).await;
        let why = report.reason.unwrap();
        assert_eq!(why.code, reason::PORT_FOREIGN, "{why}");
        assert!(why.message.contains(&port.to_string()), "{why}");
    }
    for launch in [own, apart] {
        let report = &session.latest[&launch.task];
        assert_eq!(report.state, TaskState::Running, "{report:?}");
    }
}
