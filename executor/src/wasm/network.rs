//! Whom a task may reach, and where it may listen.
//!
//! Asked at every use of a socket, and before a request by HTTP leaves. Nothing is allowed unless
//! the task's options say so. A name is looked up when it is asked for, so what it means now counts.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tepui_types::WasmOptions;
use tepui_types::resources::PortRanges;
use tepui_types::wasm::{Destination, Host};
use tokio::net::lookup_host;
use tokio::time::timeout;
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::sockets::SocketAddrUse;

/// How long a name may take to be looked up: two rounds of a resolver's usual five seconds.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(10);

/// What a task may do on the network.
#[derive(Debug, Default)]
pub struct Network {
    connect: Vec<Destination>,
    /// Its own, if it may listen.
    ports: PortRanges,
}

impl Network {
    /// What these options allow a task that has these ports.
    pub fn new(options: &WasmOptions, ports: &PortRanges) -> Arc<Self> {
        Arc::new(Self {
            connect: options.connect.clone(),
            ports: match options.listen {
                true => ports.clone(),
                false => PortRanges::default(),
            },
        })
    }

    /// Gives an instance the sockets that are allowed.
    pub fn grant(self: &Arc<Self>, wasi: &mut WasiCtxBuilder) {
        let any = !self.connect.is_empty() || !self.ports.is_empty();
        wasi.allow_tcp(any).allow_udp(any);
        wasi.allow_ip_name_lookup(!self.connect.is_empty());
        if any {
            let network = self.clone();
            wasi.socket_addr_check(move |address, usage| {
                let network = network.clone();
                Box::pin(async move { network.permits(address, usage).await })
            });
        }
    }

    async fn permits(&self, address: SocketAddr, usage: SocketAddrUse) -> bool {
        match usage {
            // What connects is bound to a port that nobody chose; to listen there is another use.
            SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => {
                address.port() == 0 || self.holds_port(address.port())
            }
            SocketAddrUse::TcpListen => self.holds_port(address.port()),
            SocketAddrUse::TcpAccept => !self.ports.is_empty(),
            // Answers come from those that were asked, and questions to who listens.
            SocketAddrUse::UdpReceive => !self.ports.is_empty() || self.reaches(address).await,
            SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend => self.reaches(address).await,
        }
    }

    fn holds_port(&self, port: u16) -> bool {
        self.ports
            .ranges()
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&port))
    }

    /// Whether it may connect to this address. Names are looked up last.
    async fn reaches(&self, address: SocketAddr) -> bool {
        if self.connect.iter().any(|one| one.holds(address)) {
            return true;
        }
        let ip = address.ip().to_canonical();
        for destination in &self.connect {
            let Host::Name(name) = &destination.host else {
                continue;
            };
            if !destination.holds_port(address.port()) {
                continue;
            }
            let found = look_up(name, address.port()).await.unwrap_or_default();
            if found.iter().any(|found| found.ip().to_canonical() == ip) {
                return true;
            }
        }
        false
    }

    /// The addresses of `host` that it may connect to; none if there are no such.
    pub async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if self.connect.is_empty() {
            return Ok(Vec::new());
        }
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = literal.parse::<IpAddr>() {
            let address = SocketAddr::new(ip, port);
            let allowed = self.reaches(address).await;
            return Ok(allowed.then_some(address).into_iter().collect());
        }
        let is_named = self.connect.iter().any(|one| {
            let named = matches!(&one.host, Host::Name(name) if name.eq_ignore_ascii_case(host));
            named && one.holds_port(port)
        });
        // Who may reach nothing at this port asks nobody for names.
        if !is_named && !self.connect.iter().any(|one| one.holds_port(port)) {
            return Ok(Vec::new());
        }
        let mut found = look_up(host, port).await?;
        if !is_named {
            found.retain(|address| self.connect.iter().any(|one| one.holds(*address)));
        }
        Ok(found)
    }
}

async fn look_up(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = timeout(LOOKUP_PATIENCE, lookup_host((name, port)))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(found.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(connect: &[&str], listen: bool) -> Arc<Network> {
        let options = WasmOptions {
            connect: connect.iter().map(|text| text.parse().unwrap()).collect(),
            listen,
            ..WasmOptions::default()
        };
        Network::new(&options, &PortRanges::from_range(31_000, 31_001))
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn who_may_connect_may_not_listen_and_the_other_way_round() {
        use SocketAddrUse::{TcpAccept, TcpBind, TcpConnect, TcpListen, UdpReceive, UdpSend};
        let connects = network(&["10.0.0.0/8:5432"], false);
        let listens = network(&[], true);
        for (usage, at, may_connect, may_listen) in [
            (TcpBind, "0.0.0.0:0", true, true),
            (TcpBind, "0.0.0.0:31000", false, true),
            (TcpBind, "0.0.0.0:31002", false, false),
            (TcpListen, "0.0.0.0:31001", false, true),
            (TcpListen, "0.0.0.0:0", false, false),
            (TcpListen, "0.0.0.0:40000", false, false),
            (TcpAccept, "10.1.1.1:9", false, true),
            (TcpConnect, "10.1.1.1:5432", true, false),
            (TcpConnect, "11.1.1.1:5432", false, false),
            (UdpSend, "10.1.1.1:5432", true, false),
            (UdpReceive, "10.1.1.1:5432", true, true),
            (UdpReceive, "10.1.1.1:9", false, true),
        ] {
            let found = (
                connects.permits(address(at), usage).await,
                listens.permits(address(at), usage).await,
            );
            assert_eq!(found, (may_connect, may_listen), "{usage:?} {at}");
        }
    }

    #[tokio::test]
    async fn names_are_what_the_machine_finds_under_them() {
        let named = network(&["localhost:80"], false);
        assert!(named.reaches(address("127.0.0.1:80")).await);
        assert!(!named.reaches(address("127.0.0.1:81")).await);
        assert!(!named.reaches(address("127.0.0.2:80")).await);
        assert!(!named.addresses("LocalHost", 80).await.unwrap().is_empty());
        assert!(named.addresses("localhost", 81).await.unwrap().is_empty());
        assert_eq!(
            named.addresses("127.0.0.1", 80).await.unwrap(),
            [address("127.0.0.1:80")]
        );
        // Another name leads where networks allow it, and only there.
        let networked = network(&["127.0.0.0/8:80", "192.0.2.0/24:81"], false);
        let found = networked.addresses("localhost", 80).await.unwrap();
        assert_eq!(found, [address("127.0.0.1:80")]);
        assert!(
            networked
                .addresses("localhost", 81)
                .await
                .unwrap()
                .is_empty()
        );
        assert!(networked.addresses("[::1]", 80).await.unwrap().is_empty());
    }
}
