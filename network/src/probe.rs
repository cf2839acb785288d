//! Probes, made: a connection, a request, a command, each within its time.
//!
//! A socket belongs to the network namespace that it was made in, whoever uses it later. So only
//! the making is done in a task's namespace, by a thread that ends with it; the rest runs on the
//! agent's own runtime. How many are under way is bounded.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tepui_types::check::Probe;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::namespace::{self, NamespaceError};

/// The most probes under way at once: each has a descriptor or a process. Others wait, and their
/// time begins when they begin.
const MAX_PROBES: usize = 256;

/// Where a task is to be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its network namespace, if it has one of its own.
    pub netns: Option<PathBuf>,
    /// Its address, as seen from there.
    pub address: IpAddr,
}

impl Default for Place {
    /// The machine itself.
    fn default() -> Self {
        Self {
            netns: None,
            address: Ipv4Addr::LOCALHOST.into(),
        }
    }
}

/// Makes probes.
#[derive(Debug)]
pub struct Prober {
    permits: Semaphore,
}

impl Default for Prober {
    fn default() -> Self {
        Self {
            permits: Semaphore::new(MAX_PROBES),
        }
    }
}

impl Prober {
    /// Makes a probe; an error says, for people, what is wrong. A command is run by the caller,
    /// where the task runs: `command` answers with its exit code, or with why there is none, and
    /// is dropped when the time is over.
    pub async fn probe<F>(
        &self,
        probe: &Probe,
        place: &Place,
        timeout: Duration,
        command: impl FnOnce(Vec<String>) -> F,
    ) -> Result<(), String>
    where
        F: Future<Output = Result<i32, String>>,
    {
        // It is closed never; if it were, there would be no bound, and nothing worse.
        let _permit = self.permits.acquire().await;
        let made = async {
            match probe {
                Probe::Command(run) => exit(command(run.argv.clone()).await?),
                Probe::Http(http) => get(place, http.port, &http.path).await,
                Probe::Tcp(tcp) => connect(place, tcp.port).await.map(drop),
            }
        };
        let made = tokio::time::timeout(timeout, made).await;
        made.unwrap_or_else(|_| Err(format!("it took more than {} ms", timeout.as_millis())))
    }
}

fn exit(code: i32) -> Result<(), String> {
    match code {
        0 => Ok(()),
        code => Err(format!("the command exited with {code}")),
    }
}

async fn get(place: &Place, port: u16, path: &str) -> Result<(), String> {
    let stream = connect(place, port).await?;
    let address = SocketAddr::new(place.address, port);
    let failed = |what: &dyn std::fmt::Display| format!("GET {path} at {address}: {what}");
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .header(USER_AGENT, "tepui-agent")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let connection = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connection.map_err(|error| failed(&error))?;
    // Whatever of the answer is not read ends with this set.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let response = sender.send_request(request).await;
    let status = response.map_err(|error| failed(&error))?.status();
    if (200..400).contains(&status.as_u16()) {
        return Ok(());
    }
    Err(failed(&format_args!("it was answered with {status}")))
}

/// A connection to who listens there; an error says, for people, what is wrong.
///
/// # Errors
/// When nobody listens, or the namespace is gone.
pub async fn connect(place: &Place, port: u16) -> Result<TcpStream, String> {
    let address = SocketAddr::new(place.address, port);
    let failed = |error: &dyn std::fmt::Display| format!("no connection to {address}: {error}");
    let make = move || open(address, SockType::Stream);
    let fd = match &place.netns {
        Some(netns) => made_within(netns.clone(), make).await?,
        None => make().map_err(|error| failed(&error))?,
    };
    TcpSocket::from_std_stream(fd.into())
        .connect(address)
        .await
        .map_err(|error| failed(&error))
}

/// A socket whose datagrams go to who listens there, and come from there alone; an error says, for
/// people, what is wrong.
///
/// # Errors
/// When the namespace is gone, or the system gives no socket.
pub async fn datagrams(place: &Place, port: u16) -> Result<UdpSocket, String> {
    let address = SocketAddr::new(place.address, port);
    let failed = |error: &dyn std::fmt::Display| format!("no way to {address}: {error}");
    let make = move || open(address, SockType::Datagram);
    let fd = match &place.netns {
        Some(netns) => made_within(netns.clone(), make).await?,
        None => make().map_err(|error| failed(&error))?,
    };
    let socket = UdpSocket::from_std(fd.into()).map_err(|error| failed(&error))?;
    let connected = socket.connect(address).await;
    connected.map_err(|error| failed(&error))?;
    Ok(socket)
}

async fn made_within(
    netns: PathBuf,
    make: impl FnOnce() -> io::Result<OwnedFd> + Send + 'static,
) -> Result<OwnedFd, String> {
    let said = |error: NamespaceError| format!("{error}: {}", error.os_error());
    let made = move || namespace::within(&netns, make).map_err(said);
    match tokio::task::spawn_blocking(made).await {
        Ok(made) => made,
        Err(error) => Err(format!("no socket: {error}")),
    }
}

/// A socket of the calling thread's namespace.
fn open(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(family, kind, flags, None)?)
}
