//! Questions outside the domain, asked of the operator's resolvers.
//!
//! Each question goes out from a port and under an id of its own, and only an answer to that very
//! question from that very resolver counts. What always holds: no more questions wait than the
//! configuration says, none for longer than its timeout; whoever is not in a private network is
//! refused, so that this never is a resolver for strangers.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::counters::Kind;
use crate::message::{Handled, Request, Transport};

/// The longest message over UDP, in bytes, from resolvers that send more than was asked for.
const MAX_PACKET: usize = 4096;

/// The resolvers that answer for other domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstreams {
    /// Asked one after the other until one answers.
    pub servers: Vec<SocketAddr>,
    /// How long each may take.
    pub timeout: Duration,
    /// How many questions may wait at once; more are answered with SERVFAIL.
    pub most_waiting: usize,
}

impl Upstreams {
    /// These resolvers, 2 s each (half of what stub resolvers wait), 512 questions at once (as many
    /// sockets, of the 1024 files that processes often have).
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            timeout: Duration::from_secs(2),
            most_waiting: 512,
        }
    }
}

/// Asks upstream resolvers.
#[derive(Debug)]
pub(crate) struct Forwarder {
    upstreams: Upstreams,
    waiting: Semaphore,
    asked: AtomicU64,
    hash: RandomState,
}

impl Forwarder {
    pub fn new(upstreams: Upstreams) -> Self {
        Self {
            waiting: Semaphore::new(upstreams.most_waiting),
            upstreams,
            asked: AtomicU64::new(0),
            hash: RandomState::new(),
        }
    }

    /// Asks for someone, and makes their answer.
    pub async fn forward(&self, request: &Request, transport: Transport) -> Handled {
        let Ok(_permit) = self.waiting.try_acquire() else {
            return request.refuse(ResponseCode::ServFail, Kind::Failed);
        };
        for server in &self.upstreams.servers {
            let asking = self.ask(request, transport, *server);
            if let Ok(Some(answer)) = timeout(self.upstreams.timeout, asking).await {
                return request.relay(answer);
            }
        }
        request.refuse(ResponseCode::ServFail, Kind::Failed)
    }

    async fn ask(
        &self,
        request: &Request,
        transport: Transport,
        server: SocketAddr,
    ) -> Option<Message> {
        // Keyed, so that who sees some ids cannot tell the next.
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let id = self.hash.hash_one(number) as u16;
        let question = request.to_upstream(id)?;
        match transport {
            Transport::Udp => ask_udp(request, id, &question, server).await,
            Transport::Tcp => ask_tcp(request, id, &question, server).await,
        }
    }
}

/// Whether others' questions are asked for an address.
pub(crate) fn is_near(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            // 100.64/10 is what providers and overlays use as private.
            let [a, b, ..] = v4.octets();
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || (a == 100 && b & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

async fn ask_udp(
    request: &Request,
    id: u16,
    question: &[u8],
    server: SocketAddr,
) -> Option<Message> {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(server).await.ok()?;
    socket.send(question).await.ok()?;
    let mut buffer = vec![0; MAX_PACKET];
    loop {
        let length = socket.recv(&mut buffer).await.ok()?;
        let message = Message::from_vec(&buffer[..length]).ok();
        // Whatever else comes is not waited for any less.
        if let Some(message) = message.filter(|message| answers(message, request, id)) {
            return Some(message);
        }
    }
}

async fn ask_tcp(
    request: &Request,
    id: u16,
    question: &[u8],
    server: SocketAddr,
) -> Option<Message> {
    let mut stream = TcpStream::connect(server).await.ok()?;
    let length = u16::try_from(question.len()).ok()?;
    let framed = [&length.to_be_bytes(), question].concat();
    stream.write_all(&framed).await.ok()?;
    let length = stream.read_u16().await.ok()?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await.ok()?;
    let message = Message::from_vec(&buffer).ok()?;
    answers(&message, request, id).then_some(message)
}

fn answers(message: &Message, request: &Request, id: u16) -> bool {
    let same = message.queries.as_slice() == std::slice::from_ref(&request.query);
    message.metadata.message_type == MessageType::Response && message.metadata.id == id && same
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_networks_are_near() {
        for (address, near) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("100.64.0.1", true),
            ("100.128.0.1", false),
            ("::ffff:192.168.1.1", true),
            ("fd00::1", true),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_near(address.parse().unwrap()), near, "{address}");
        }
    }
}
