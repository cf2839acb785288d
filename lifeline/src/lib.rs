//! How a TCP connection learns that nobody is at its other end: a machine that is cut off or loses its power
//! says no goodbye.
//!
//! Masters, agents and the command line set this on every connection that they accept from each other or
//! dial. Where nothing is said the kernel asks ([`watch`]); without that a connection on which one side
//! only listens stays for ever, and with it what runs for whoever is gone. Where something was said and is
//! not acknowledged the kernel does not ask but sends it again, for a quarter of an hour unless it has less
//! time ([`give_up`]).
//!
//! That time must not be short: it runs also while the other side is there and takes nothing, such as a
//! terminal that was stopped to be read. So it is only set where whoever takes nothing for as long is
//! given up anyway, and never where input may wait for a command that reads when it likes.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use reqwest::ClientBuilder;
use socket2::{SockRef, TcpKeepalive};

/// How long nothing may be said before the other side is asked.
const IDLE: Duration = Duration::from_secs(30);
/// How often it is asked.
const INTERVAL: Duration = Duration::from_secs(10);
/// How many questions may stay unanswered: who cannot be reached for a minute in all has most likely gone,
/// and whoever has not comes back over another connection.
const PROBES: u32 = 3;
/// How long the other side may take nothing of what it is sent, or be gone and not say so. A person who has
/// stopped their terminal to read may take minutes.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Has the other side of a connection asked whether it is there, once nothing is said.
///
/// # Errors
/// Those of setsockopt(2).
pub fn watch(connection: &impl AsFd) -> io::Result<()> {
    let keepalive = TcpKeepalive::new();
    let keepalive = keepalive.with_time(IDLE).with_interval(INTERVAL);
    SockRef::from(connection).set_tcp_keepalive(&keepalive.with_retries(PROBES))
}

/// Gives up a connection on which nothing that was sent is taken for [`PATIENCE`]; with
/// [`watch`], also one on which nothing is said and no question is answered for as long.
///
/// # Errors
/// Those of setsockopt(2).
pub fn give_up(connection: &impl AsFd) -> io::Result<()> {
    SockRef::from(connection).set_tcp_user_timeout(Some(PATIENCE))
}

/// The same as [`watch`] for all that a client dials, and nothing is ever given up that is only not
/// taken.
pub fn watched(client: ClientBuilder) -> ClientBuilder {
    client
        .tcp_keepalive(IDLE)
        .tcp_keepalive_interval(INTERVAL)
        .tcp_keepalive_retries(PROBES)
        // Otherwise half a minute.
        .tcp_user_timeout(None)
}

/// The same as [`watch`] and [`give_up`] for all that a client dials.
pub fn watched_and_given_up(client: ClientBuilder) -> ClientBuilder {
    watched(client).tcp_user_timeout(PATIENCE)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
    use std::os::fd::{BorrowedFd, OwnedFd};

    use super::*;

    /// When it is asked, how often, how many times, and when it is given up.
    fn set_on(connection: &impl AsFd) -> (bool, Duration, Duration, u32, Option<Duration>) {
        let socket = SockRef::from(connection);
        (
            socket.keepalive().unwrap(),
            socket.tcp_keepalive_time().unwrap(),
            socket.tcp_keepalive_interval().unwrap(),
            socket.tcp_keepalive_retries().unwrap(),
            socket.tcp_user_timeout().unwrap(),
        )
    }

    fn watched_until(end: Option<Duration>) -> (bool, Duration, Duration, u32, Option<Duration>) {
        (true, IDLE, INTERVAL, PROBES, end)
    }

    #[test]
    fn a_connection_is_watched_and_given_up_only_where_that_is_said() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!set_on(&connection).0);
        watch(&connection).unwrap();
        assert_eq!(set_on(&connection), watched_until(None));
        give_up(&connection).unwrap();
        assert_eq!(set_on(&connection), watched_until(Some(PATIENCE)));
    }

    /// This process's own end of a connection, as it is seen from the other.
    fn end_at(address: SocketAddr) -> OwnedFd {
        for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
            let number = entry.unwrap().file_name().into_string().unwrap();
            // SAFETY: what is not open any more is refused below, and what is stays so: the client that
            // has it is held by the caller.
            let fd = unsafe { BorrowedFd::borrow_raw(number.parse().unwrap()) };
            let local = SockRef::from(&fd).local_addr();
            if local.is_ok_and(|local| local.as_socket() == Some(address)) {
                return fd.try_clone_to_owned().unwrap();
            }
        }
        panic!("no connection from {address}");
    }

    #[tokio::test]
    async fn what_a_client_dials_is_watched() {
        type Set = fn(ClientBuilder) -> ClientBuilder;
        let cases: [(Set, _); 2] = [(watched, None), (watched_and_given_up, Some(PATIENCE))];
        for (set, end) in cases {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let client = set(ClientBuilder::new().no_proxy()).build().unwrap();
            let asking = tokio::spawn(async move { client.get(url).send().await });
            let accept = tokio::task::spawn_blocking(move || listener.accept().unwrap());
            let (_theirs, address) = accept.await.unwrap();
            assert_eq!(set_on(&end_at(address)), watched_until(end));
            asking.abort();
        }
    }
}
