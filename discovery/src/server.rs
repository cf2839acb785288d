//! The DNS server: its sockets, from start to stop.
//!
//! A master runs one, and so does whoever has a [`Published`] directory. Each address is listened
//! on over UDP and TCP, under one port. It answers from whatever directory is published when a
//! question comes, and never waits for its writer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::answerer::Answerer;
use crate::counters::DnsCounts;
use crate::error::DiscoveryError;
use crate::published::Published;
use crate::rate::Rate;
use crate::upstream::Upstreams;
use crate::zone::Zone;
use crate::{tcp, udp};

/// How many questions over UDP are answered at the same time on an address: answers are short work,
/// and the master's processors have other.
const UDP_READERS: usize = 2;
/// How long a stop waits for answers that are being written. Resolvers ask someone else after 5 s.
const STOP: Duration = Duration::from_secs(2);
/// How often another port is tried where any will do, and UDP's is taken by someone.
const PORT_TRIES: usize = 16;

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// Where to listen. On machines of several addresses name them one by one: a reply to a question
    /// at `0.0.0.0` leaves from the address that the system likes best.
    pub listen: Vec<SocketAddr>,
    /// The domain.
    pub zone: Zone,
    /// How much one asker may ask over UDP; none is for networks where no address is forged.
    pub rate: Option<Rate>,
    /// Who answers for other domains, to askers in private networks; they are refused without.
    pub upstreams: Option<Upstreams>,
}

impl DnsConfig {
    /// A server at some addresses, and everything else as it is by default.
    pub fn new(listen: Vec<SocketAddr>) -> Self {
        Self {
            listen,
            zone: Zone::default(),
            rate: Some(Rate::default()),
            upstreams: None,
        }
    }
}

/// Addresses that are listened on; who asks there waits until they are served.
#[derive(Debug)]
pub struct DnsListener {
    sockets: Vec<Sockets>,
}

impl DnsListener {
    /// Listens everywhere, or nowhere and says why.
    pub async fn bind(config: &DnsConfig) -> Result<Self, DiscoveryError> {
        check(config)?;
        let mut sockets = Vec::new();
        for address in &config.listen {
            sockets.push(listen(*address).await?);
        }
        Ok(Self { sockets })
    }

    /// Begins to answer.
    pub fn serve(self, config: &DnsConfig, published: Arc<Published>) -> DnsServer {
        let answerer = Arc::new(Answerer::new(config, published));
        let (stop, stopped) = watch::channel(false);
        let mut server = DnsServer {
            addresses: self.sockets.iter().map(|sockets| sockets.address).collect(),
            answerer: answerer.clone(),
            stop,
            tasks: JoinSet::new(),
        };
        for Sockets { udp, tcp, address } in self.sockets {
            for _ in 0..UDP_READERS {
                let serving = udp::serve(udp.clone(), answerer.clone(), stopped.clone());
                server.tasks.spawn(serving);
            }
            let serving = tcp::serve(tcp, answerer.clone(), stopped.clone());
            server.tasks.spawn(serving);
            tracing::info!(%address, domain = config.zone.domain(), "answering DNS questions");
        }
        server
    }
}

/// A running server. Dropping it ends it at once.
#[derive(Debug)]
pub struct DnsServer {
    addresses: Vec<SocketAddr>,
    answerer: Arc<Answerer>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl DnsServer {
    /// Listens everywhere, or nowhere and says why, and begins to answer.
    pub async fn start(
        config: &DnsConfig,
        published: Arc<Published>,
    ) -> Result<Self, DiscoveryError> {
        let listener = DnsListener::bind(config).await?;
        Ok(listener.serve(config, published))
    }

    /// Where it listens, in the order of the configuration, with the real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What it has done so far.
    pub fn counts(&self) -> DnsCounts {
        self.answerer.counters.read()
    }

    /// Listens no more, and waits a moment for answers that are being written.
    pub async fn stop(mut self) -> DnsCounts {
        self.stop.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        // What has not ended by then is given up with the set.
        let _ = tokio::time::timeout(STOP, ended).await;
        self.tasks.shutdown().await;
        self.counts()
    }
}

#[derive(Debug)]
struct Sockets {
    address: SocketAddr,
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
}

fn check(config: &DnsConfig) -> Result<(), DiscoveryError> {
    let missing = |what, example| Err(DiscoveryError::Missing { what, example });
    if config.listen.is_empty() {
        return missing("address to listen on", "10.0.0.1:53");
    }
    match &config.upstreams {
        Some(upstreams) if upstreams.servers.is_empty() => {
            missing("upstream resolver", "192.0.2.53:53")
        }
        _ => Ok(()),
    }
}

/// Both sockets of an address. Port 0 is any port that both have.
async fn listen(address: SocketAddr) -> Result<Sockets, DiscoveryError> {
    let mut tries = PORT_TRIES;
    loop {
        let failed = |transport, source| DiscoveryError::Listen {
            address,
            transport,
            source,
        };
        let tcp = TcpListener::bind(address).await;
        let tcp = tcp.map_err(|source| failed("TCP", source))?;
        let real = tcp.local_addr().map_err(|source| failed("TCP", source))?;
        match UdpSocket::bind(real).await {
            Ok(udp) => {
                return Ok(Sockets {
                    address: real,
                    udp: Arc::new(udp),
                    tcp,
                });
            }
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && address.port() == 0 && tries > 0 =>
            {
                tries -= 1;
            }
            Err(source) => return Err(failed("UDP", source)),
        }
    }
}
