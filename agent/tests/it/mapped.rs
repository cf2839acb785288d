//! Ports of the machine that lead to containers, for as long as their tasks live and no longer.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tepui_types::TaskState;
use tepui_types::resources::PortRanges;
use tepui_types::task::reason;
use tepui_types::wire::agent::TaskLaunch;

use crate::bridge::{Bridge, PORTMAP, has_plugins};
use crate::containers::{can_contain, stdout};
use crate::images::ImageLayout;
use crate::master::{DEADLINE, FakeMaster, Session, contained, eventually};
use crate::process::{AgentProcess, is_alive};

/// A port that nobody listens on.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("0.0.0.0", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A web server at port 80 of its container, to which a port of the machine leads.
fn web(name: &str, image: &ImageLayout, port: u16) -> TaskLaunch {
    let container = format!(
        r#"{{"image": "{}", "network": {{"named": {{"name": "tests", "ports": [{{"container": 80}}]}}}}}}"#,
        image.name()
    );
    let script = "cd $TEPUI_SANDBOX; echo served > index.html; exec httpd -f -p 80";
    let mut task = contained(name, &container, &["sh", "-c", script]);
    task.resources.ports = PortRanges::from_range(port, port);
    task
}

/// What is answered at an address; an error where nobody listens.
fn ask(address: &str, port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((address, port))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Rules of the machine that name a port.
fn rules_of(port: u16) -> Vec<String> {
    let output = Command::new("iptables").args(["-t", "nat", "-S"]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let names_it = |line: &&str| line.split([' ', ',']).any(|word| word == port.to_string());
    text.lines().filter(names_it).map(str::to_owned).collect()
}

async fn serving(session: &mut Session, task: &TaskLaunch, bridge: &Bridge, port: u16) {
    session.launch(task).await;
    session.until(&task.task, TaskState::Running).await;
    let serves = eventually("it serves", || {
        ask(&bridge.gateway(), port).is_ok_and(|text| text.ends_with("served\n"))
    });
    session.meanwhile(serves).await;
}

async fn is_gone(bridge: &Bridge, port: u16) {
    eventually("nothing is left of the port", || {
        ask(&bridge.gateway(), port).is_err() && rules_of(port).is_empty() && bridge.leases() == 0
    })
    .await;
}

#[tokio::test]
async fn a_port_of_the_machine_leads_to_its_container_until_its_task_ends() {
    if !can_contain() || !has_plugins() {
        return;
    }
    let (image, bridge) = (ImageLayout::make(), Bridge::make(&[PORTMAP]));
    let mut master = FakeMaster::start().await;
    let arguments = vec!["--network-config", bridge.folder()].leak();
    let agent = AgentProcess::start_with(&master, arguments);
    let mut session = master.session().await;
    let port = free_port();
    let web = web("web", &image, port);
    serving(&mut session, &web, &bridge, port).await;
    assert!(!rules_of(port).is_empty());

    // From outside the machine's own namespace as well: another container asks.
    let container = format!(
        r#"{{"image": "{}", "network": {{"named": {{"name": "tests"}}}}}}"#,
        image.name()
    );
    let url = format!("http://{}:{port}/index.html", bridge.gateway());
    let client = contained("client", &container, &["wget", "-q", "-O", "-", &url]);
    session.launch(&client).await;
    session.until(&client.task, TaskState::Finished).await;
    assert_eq!(stdout(&agent, &client), "served\n");

    session.kill(&web.task, 1000).await;
    session.until(&web.task, TaskState::Killed).await;
    session.meanwhile(is_gone(&bridge, port)).await;
}

#[tokio::test]
async fn a_mapped_port_goes_on_without_its_agent_and_ends_with_its_executor() {
    if !can_contain() || !has_plugins() {
        return;
    }
    let (image, bridge) = (ImageLayout::make(), Bridge::make(&[PORTMAP]));
    let mut master = FakeMaster::start().await;
    let arguments = vec!["--network-config", bridge.folder()].leak();
    let mut agent = AgentProcess::start_with(&master, arguments);
    let mut session = master.session().await;
    let port = free_port();
    let web = web("web", &image, port);
    serving(&mut session, &web, &bridge, port).await;
    agent.kill();
    assert!(ask(&bridge.gateway(), port).is_ok());
    let executor = agent.executors().remove(0).pid;
    kill(Pid::from_raw(executor), Signal::SIGKILL).unwrap();
    eventually("the executor is dead", || !is_alive(executor)).await;
    agent.start_again(&master);
    let mut session = master.session().await;
    let end = session.until(&web.task, TaskState::Failed).await;
    assert_eq!(end.reason.unwrap().code, reason::EXECUTOR_TERMINATED);
    session.meanwhile(is_gone(&bridge, port)).await;
}

#[tokio::test]
async fn a_port_that_a_stranger_has_is_not_taken_from_it() {
    if !can_contain() || !has_plugins() {
        return;
    }
    let (image, bridge) = (ImageLayout::make(), Bridge::make(&[PORTMAP]));
    let mut master = FakeMaster::start().await;
    let arguments = vec!["--network-config", bridge.folder()].leak();
    let _agent = AgentProcess::start_with(&master, arguments);
    let mut session = master.session().await;
    let stranger = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    let taken = web("taken", &image, port);
    session.launch(&taken).await;
    let end = session.until(&taken.task, TaskState::Error).await;
    let why = end.reason.unwrap();
    assert_eq!(why.code, reason::PORT_TAKEN);
    assert!(why.message.contains(&format!("port {port}")), "{why}");
    assert!(why.message.contains("listens on 0.0.0.0"), "{why}");
    assert_eq!((rules_of(port).len(), bridge.leases()), (0, 0));
    // Once it has gone, the port is the next task's.
    drop(stranger);
    let next = web("next", &image, port);
    serving(&mut session, &next, &bridge, port).await;
    session.kill(&next.task, 1000).await;
    session.until(&next.task, TaskState::Killed).await;
    session.meanwhile(is_gone(&bridge, port)).await;
}
