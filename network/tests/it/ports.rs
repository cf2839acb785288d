//! Processes that listen on ports that are not theirs.

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};

use tepui_network::{Lookout, Protocol, Tenant};
use tepui_types::resources::PortRanges;

use crate::host::on_a_host;

/// Tells a process that it is the one that listens.
const LISTENS: &str = "TEPUI_NETWORK_TEST_LISTENS";
const READY: &str = "listening";

/// A process of this test that listens; killed when dropped.
struct Listening(Child);

impl Listening {
    fn start(test: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(LISTENS, "")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let started = Self(child);
        let mut lines = stdout.lines();
        assert!(lines.any(|line| line.unwrap().contains(READY)));
        started
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Listens on ports of all kinds until it is killed.
fn listen() {
    let server = TcpListener::bind("127.0.0.1:4001").unwrap();
    let _client = TcpStream::connect("127.0.0.1:4001").unwrap();
    let _accepted = server.accept().unwrap();
    let _all = TcpListener::bind("[::]:4002").unwrap();
    let _udp = UdpSocket::bind("0.0.0.0:4003").unwrap();
    let _udp6 = UdpSocket::bind("[::1]:4004").unwrap();
    let connected = UdpSocket::bind("127.0.0.1:4005").unwrap();
    connected.connect("127.0.0.1:4003").unwrap();
    // On a port of the kernel's choice, as clients have it.
    let _client = UdpSocket::bind("0.0.0.0:0").unwrap();
    println!("{READY}");
    // The other end is closed with the test that has started it.
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn whoever_listens_on_ports_that_are_not_allowed_is_found() {
    if std::env::var_os(LISTENS).is_some() {
        return listen();
    }
    on_a_host(|_| {
        let test = "ports::whoever_listens_on_ports_that_are_not_allowed_is_found";
        let listening = Listening::start(test);
        let pid = listening.0.id();
        let tenant = |pids: &[u32], allowed: &[u16]| Tenant {
            pids: pids.to_vec(),
            ports: PortRanges::from_ranges(allowed.iter().map(|port| (*port, *port)).collect()),
        };
        let found = |pids: &[u32], allowed: &[u16]| {
            let tenants = || vec![tenant(&[], &[]), tenant(pids, allowed)];
            let all = Lookout::default().look(|_| true, tenants).unwrap();
            assert!(all.iter().all(|stray| stray.tenant == 1));
            let plain = all.into_iter();
            let plain = plain.map(|one| (one.protocol, one.port, one.address.to_string()));
            plain.collect::<Vec<_>>()
        };
        let plain = |protocol, port, address: &str| (protocol, port, address.to_owned());
        let all = [
            plain(Protocol::Tcp, 4001, "127.0.0.1"),
            plain(Protocol::Tcp, 4002, "::"),
            plain(Protocol::Udp, 4003, "0.0.0.0"),
            plain(Protocol::Udp, 4004, "::1"),
        ];
        assert_eq!(found(&[pid], &[]), all);
        assert_eq!(found(&[pid], &[4001, 4003, 4004]), all[1..2]);
        assert_eq!(found(&[pid], &[4001, 4002, 4003, 4004]), []);
        // Others' sockets are none of a process's, and who has ended has none.
        let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
        let of_another = found(&[other.id()], &[]);
        let both = found(&[other.id(), pid], &[]);
        other.kill().unwrap();
        let dead = found(&[other.id(), pid], &[]);
        other.wait().unwrap();
        assert_eq!(of_another, []);
        assert_eq!((both, dead), (all.to_vec(), all.to_vec()));
        assert_eq!(found(&[other.id(), pid], &[]), all);

        let mut lookout = Lookout::default();
        let mine = |port: u16| (4001..4005).contains(&port);
        let own = || vec![tenant(&[pid], &[4001, 4002, 4003, 4004])];
        assert_eq!(lookout.look(mine, own).unwrap(), []);
        let unasked = || panic!("nothing has changed");
        assert_eq!(lookout.look(mine, unasked).unwrap(), []);
        // What concerns nobody is looked at for nobody.
        assert_eq!(Lookout::default().look(|_| false, unasked).unwrap(), []);
        // Sockets of others are settled after a while.
        let mut lookout = Lookout::default();
        while asks(&mut lookout, mine) {}
    });
}

/// Whether the tenants, of which there are none, are asked for.
fn asks(lookout: &mut Lookout, mine: impl Fn(u16) -> bool) -> bool {
    let mut asked = false;
    let tenants = || {
        asked = true;
        Vec::new()
    };
    assert_eq!(lookout.look(mine, tenants).unwrap(), []);
    asked
}
