//! `tepui port-forward`: ports of this machine that lead to those of a task.
//!
//! Each connection has one of its own to the task's agent, and each direction of it its own end. What
//! goes wrong with one is said, and the others go on.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tepui_types::TaskId;
use tepui_types::wire::stream::{ClientFrame, MAX_CHUNK, StreamFrame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::{output, task};

mod datagrams;

/// Connections at once of one port; others wait to be accepted. Half of what an agent serves of
/// everything.
const MAX_CONNECTIONS: usize = 128;
/// After an accept that failed, as where this process has as many open files as it may: time for some
/// connection to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Which ports lead where.
#[derive(Debug, Args)]
pub struct Options {
    /// Where it is listened
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_name = "ADDRESS")]
    address: IpAddr,
    /// The task's id such as f1.hello.0, or its name for the newest of that name
    task: String,
    /// The task's port, or HERE:THERE where the one here is to be another (0 for any); with /udp for
    /// datagrams
    #[arg(required = true, value_name = "[HERE:]THERE[/udp]")]
    ports: Vec<Ports>,
}

/// A port here, and the task's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    here: u16,
    there: u16,
    protocol: Protocol,
}

/// What is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ports, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some((_, other)) => return Err(format!("`{other}` is neither tcp nor udp")),
        };
        let (here, there) = ports.split_once(':').unwrap_or((ports, ports));
        let number = |text: &str| text.parse().ok();
        match (number(here), number(there)) {
            (Some(here), Some(there)) if there != 0 => Ok(Self {
                here,
                there,
                protocol,
            }),
            _ => Err("write a port, as 8080, or two, as 8080:80 and 5353:53/udp".into()),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "",
            Self::Udp => "/udp",
        })
    }
}

/// A task's port, for those who come to one here.
struct Way {
    client: Client,
    id: TaskId,
}

/// Passes connections and datagrams on until it is stopped.
pub async fn run(options: Options, client: Client) -> Result<()> {
    let id = task::find(&options.task, &client).await?;
    let way = Arc::new(Way { client, id });
    let mut listening = JoinSet::new();
    for ports in options.ports {
        let address = SocketAddr::new(options.address, ports.here);
        let Ports {
            there, protocol, ..
        } = ports;
        let failed =
            || format!("failed to listen at {address}: name another port, as 0:{there}{protocol}");
        let bound = match protocol {
            Protocol::Tcp => {
                let listener = TcpListener::bind(address).await.with_context(failed)?;
                let bound = listener.local_addr()?;
                listening.spawn(accept(listener, way.clone(), there));
                bound
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind(address).await.with_context(failed)?;
                let bound = socket.local_addr()?;
                listening.spawn(datagrams::run(socket, way.clone(), there));
                bound
            }
        };
        let id = &way.id;
        output::line(&format!(
            "{bound}{protocol} leads to port {there}{protocol} of {id}"
        ))?;
    }
    // They do not end.
    while let Some(ended) = listening.join_next().await {
        ended?;
    }
    Ok(())
}

async fn accept(listener: TcpListener, way: Arc<Way>, port: u16) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut has_said = false;
    loop {
        // It is closed never; if it were, there would be no bound, and nothing worse.
        let permit = room.clone().acquire_owned().await;
        let (connection, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if !std::mem::replace(&mut has_said, true) {
                    output::note(&format!(
                        "tepui: connections to port {port} of {} wait: {error}",
                        way.id
                    ));
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        has_said = false;
        let way = way.clone();
        tokio::spawn(async move {
            if let Err(error) = pass(connection, &way, port).await {
                output::note(&format!("tepui: {from}: {error:#}"));
            }
            drop(permit);
        });
    }
}

/// Passes a connection on, until both directions have ended.
async fn pass(connection: TcpStream, way: &Way, port: u16) -> Result<()> {
    let path = format!("/v1/tasks/{}/forward/{port}", way.id);
    let (mut receiver, mut sender) = way.client.channel(&path, &()).await?;
    let (mut read, mut write) = connection.into_split();
    let is_said = CancellationToken::new();
    // Both directions are, as the task has it.
    let is_over = CancellationToken::new();
    let outward = async {
        let mut chunk = vec![0; MAX_CHUNK];
        loop {
            let read = tokio::select! {
                read = read.read(&mut chunk) => read?,
                () = is_over.cancelled() => return Ok(()),
            };
            match read {
                0 => break,
                count => {
                    let frame = ClientFrame::Data(chunk[..count].to_vec());
                    sender.send(&frame).await?;
                }
            }
        }
        sender.send(&ClientFrame::End).await?;
        is_said.cancel();
        anyhow::Ok(())
    };
    let inward = async {
        loop {
            match receiver.next().await? {
                StreamFrame::Data(bytes) => write.write_all(&bytes).await?,
                StreamFrame::End => break,
                _ => {}
            }
        }
        write.shutdown().await?;
        // It may still be sent something, unless it hangs up.
        let hung_up = async { while receiver.next().await.is_ok() {} };
        tokio::select! {
            () = is_said.cancelled() => {}
            () = hung_up => is_over.cancel(),
        }
        Ok(())
    };
    tokio::try_join!(outward, inward)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_one_or_two() {
        let ports = |here, there, protocol| {
            Ok(Ports {
                here,
                there,
                protocol,
            })
        };
        assert_eq!("80".parse(), ports(80, 80, Protocol::Tcp));
        assert_eq!("0:80".parse(), ports(0, 80, Protocol::Tcp));
        assert_eq!("8080:80/tcp".parse(), ports(8080, 80, Protocol::Tcp));
        assert_eq!("5353:53/udp".parse(), ports(5353, 53, Protocol::Udp));
        for bad in [
            "", "x", "80:", ":80", "80:0", "70000", "1:2:3", "80/", "80/sctp", "/udp",
        ] {
            assert!(bad.parse::<Ports>().is_err(), "{bad}");
        }
    }
}
