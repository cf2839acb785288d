//! Datagrams on their way to a task's port and back: each peer here has a connection of its own to the
//! task's agent, so that what the task answers comes back to who asked.
//!
//! Datagrams may be lost, as anywhere: those of peers that are too many, and those that come faster
//! than they are passed on.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tepui_types::wire::stream::{ClientFrame, MAX_CHUNK, StreamFrame};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use super::{ACCEPT_PAUSE, Way};
use crate::output;

/// Peers at once: a quarter of what an agent serves of everything.
const MAX_PEERS: usize = 64;
/// Datagrams of a peer that wait to be passed on.
const QUEUE: usize = 64;
/// How long a peer is remembered to which nothing goes and from which nothing comes: a little longer
/// than resolvers wait.
const IDLE: Duration = Duration::from_secs(60);

/// Those who have sent something lately.
struct Peers {
    socket: Arc<UdpSocket>,
    way: Arc<Way>,
    port: u16,
    all: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>>,
    passing: JoinSet<()>,
    names: HashMap<Id, SocketAddr>,
    has_said: bool,
}

/// Passes datagrams on until it is stopped.
pub async fn run(socket: UdpSocket, way: Arc<Way>, port: u16) {
    let mut peers = Peers {
        socket: Arc::new(socket),
        way,
        port,
        all: HashMap::new(),
        passing: JoinSet::new(),
        names: HashMap::new(),
        has_said: false,
    };
    let socket = peers.socket.clone();
    let mut datagram = vec![0; MAX_CHUNK];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut datagram) => match received {
                Ok((count, from)) => peers.on_datagram(from, &datagram[..count]),
                // That a peer has gone is told here; many in a row keep nobody busy.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(ended) = peers.passing.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                peers.on_ended(id);
            }
        }
    }
}

impl Peers {
    fn on_datagram(&mut self, from: SocketAddr, datagram: &[u8]) {
        if let Some(peer) = self.all.get(&from) {
            // One that is too many is lost.
            let _ = peer.try_send(datagram.to_vec());
            return;
        }
        if self.all.len() >= MAX_PEERS {
            if !std::mem::replace(&mut self.has_said, true) {
                let id = &self.way.id;
                output::note(&format!(
                    "tepui: {MAX_PEERS} peers speak to {id} already: datagrams of others are lost"
                ));
            }
            return;
        }
        let (sender, queue) = mpsc::channel(QUEUE);
        // It is empty.
        let _ = sender.try_send(datagram.to_vec());
        self.all.insert(from, sender);
        let (socket, way, port) = (self.socket.clone(), self.way.clone(), self.port);
        let passing = self.passing.spawn(async move {
            if let Err(error) = pass(&socket, from, queue, &way, port).await {
                output::note(&format!("tepui: {from}: {error:#}"));
            }
        });
        self.names.insert(passing.id(), from);
    }

    fn on_ended(&mut self, id: Id) {
        if let Some(peer) = self.names.remove(&id) {
            self.all.remove(&peer);
        }
        self.has_said = false;
    }
}

/// Passes on what a peer sends, and what comes back, until both are silent.
async fn pass(
    socket: &UdpSocket,
    peer: SocketAddr,
    mut queue: mpsc::Receiver<Vec<u8>>,
    way: &Way,
    port: u16,
) -> Result<()> {
    let path = format!("/v1/tasks/{}/forward/{port}?protocol=udp", way.id);
    let (mut receiver, mut sender) = way.client.channel(&path, &()).await?;
    let mut until = Instant::now() + IDLE;
    loop {
        tokio::select! {
            datagram = queue.recv() => {
                // They are forgotten only when this has ended.
                let Some(datagram) = datagram else { return Ok(()) };
                sender.send(&ClientFrame::Data(datagram)).await?;
            }
            frame = receiver.next() => match frame? {
                // One that is not delivered is one that is lost.
                StreamFrame::Data(datagram) => drop(socket.send_to(&datagram, peer).await),
                StreamFrame::End => return Ok(()),
                _ => {}
            },
            () = tokio::time::sleep_until(until) => return Ok(()),
        }
        until = Instant::now() + IDLE;
    }
}
