//! Ports that lead to those of a task.

use std::net::SocketAddr;

use tepui_types::wire::stream::{ClientFrame, StreamFrame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::master::{Master, within};
use crate::process::Tepui;

/// Where it says that it listens.
async fn address(tepui: &mut Tepui) -> SocketAddr {
    let line = tepui.line().await;
    let address = line.split(['/', ' ']).next().unwrap();
    address.parse().unwrap_or_else(|_| panic!("{line}"))
}

async fn connect(address: SocketAddr) -> TcpStream {
    within(TcpStream::connect(address)).await.unwrap()
}

#[tokio::test]
async fn each_direction_of_a_connection_ends_on_its_own() {
    let master = Master::start().await;
    let mut tepui = Tepui::start(&master, &["port-forward", "f1.t.0", "0:80"]);
    let address = address(&mut tepui).await;
    // Who has said all hears the answer.
    let mut here = connect(address).await;
    let asked = master.request().await;
    assert_eq!(asked.line, "post /v1/tasks/f1.t.0/forward/80");
    let mut there = asked.upgrade().await;
    here.write_all(b"asked").await.unwrap();
    here.shutdown().await.unwrap();
    assert_eq!(there.data().await, "asked");
    assert_eq!(there.next().await, Some(ClientFrame::End));
    there.say(StreamFrame::Data(b"answered".to_vec())).await;
    there.say(StreamFrame::End).await;
    let mut answer = String::new();
    within(here.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "answered");
    assert_eq!(there.next().await, None);
    // Whom the task has told all may go on.
    let mut here = connect(address).await;
    let mut there = master.request().await.upgrade().await;
    there.say(StreamFrame::Data(b"hello".to_vec())).await;
    there.say(StreamFrame::End).await;
    let mut hello = String::new();
    within(here.read_to_string(&mut hello)).await.unwrap();
    assert_eq!(hello, "hello");
    here.write_all(b"late").await.unwrap();
    here.shutdown().await.unwrap();
    assert_eq!(there.data().await, "late");
    assert_eq!(there.next().await, Some(ClientFrame::End));
    assert_eq!(there.next().await, None);
}

#[tokio::test]
async fn connections_wait_while_there_are_no_descriptors_for_them() {
    let master = Master::start().await;
    let mut tepui = Tepui::start(&master, &["port-forward", "f1.t.0", "0:80"]);
    let address = address(&mut tepui).await;
    let set = |limit: &str| {
        let pid = tepui.pid().to_string();
        let mut command = std::process::Command::new("prlimit");
        command.args(["--pid", &pid, &format!("--nofile={limit}:")]);
        assert!(command.status().unwrap().success());
    };
    set("0");
    let mut here = connect(address).await;
    here.write_all(b"asked").await.unwrap();
    // Accepting it fails meanwhile, which shows in the process's own words only; it must not end.
    let first = tokio::time::timeout(std::time::Duration::from_millis(300), master.request()).await;
    assert!(first.is_err(), "it has no descriptor for that");
    set("1024");
    let mut there = master.request().await.upgrade().await;
    assert_eq!(there.data().await, "asked");
}

#[tokio::test]
async fn datagrams_of_each_peer_are_passed_on_and_answers_come_back_to_it() {
    let master = Master::start().await;
    let mut tepui = Tepui::start(&master, &["port-forward", "f1.t.0", "0:53/udp"]);
    let address = address(&mut tepui).await;
    let mut peers = Vec::new();
    for name in ["one", "two"] {
        let here = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        here.send_to(name.as_bytes(), address).await.unwrap();
        let asked = master.request().await;
        assert_eq!(asked.line, "post /v1/tasks/f1.t.0/forward/53?protocol=udp");
        let mut there = asked.upgrade().await;
        assert_eq!(there.data().await, name);
        peers.push((here, there, name));
    }
    for (here, there, name) in &mut peers {
        here.send_to(b"more", address).await.unwrap();
        assert_eq!(there.data().await, "more");
        there.say(StreamFrame::Data(name.as_bytes().to_vec())).await;
        let mut got = [0; 100];
        let (count, from) = within(here.recv_from(&mut got)).await.unwrap();
        assert_eq!((&got[..count], from), (name.as_bytes(), address));
    }
    // A stream that breaks off is one peer's: its next datagram begins another.
    let (here, there, _) = peers.remove(0);
    drop(there);
    let mut there = loop {
        here.send_to(b"again", address).await.unwrap();
        let pause = std::time::Duration::from_millis(50);
        if let Ok(asked) = tokio::time::timeout(pause, master.request()).await {
            break asked.upgrade().await;
        }
    };
    assert_eq!(there.data().await, "again");
}
