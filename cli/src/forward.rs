//! `tepui port-forward`: ports of this machine that lead to those of a task.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use tepui_types::TaskId;
use tepui_types::wire::stream::{ClientFrame, MAX_CHUNK, StreamFrame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::client::Client;
use crate::{output, task};

/// Which ports lead where.
#[derive(Debug, Args)]
pub struct Options {
    /// Where it is listened
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_name = "ADDRESS")]
    address: IpAddr,
    /// The task's id such as f1.hello.0, or its name for the newest of that name
    task: String,
    /// The task's port, or HERE:THERE where the one here is to be another (0 for any)
    #[arg(required = true, value_name = "[HERE:]THERE")]
    ports: Vec<Ports>,
}

/// A port here, and the task's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    here: u16,
    there: u16,
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (here, there) = text.split_once(':').unwrap_or((text, text));
        let number = |text: &str| text.parse().ok();
        match (number(here), number(there)) {
            (Some(here), Some(there)) if there != 0 => Ok(Self { here, there }),
            _ => Err("write a port, as 8080, or two, as 8080:80".into()),
        }
    }
}

/// Passes connections on until it is stopped.
pub async fn run(options: Options, client: Client) -> Result<()> {
    let id = task::find(&options.task, &client).await?;
    let client = Arc::new(client);
    let mut listening = Vec::new();
    for ports in options.ports {
        let address = SocketAddr::new(options.address, ports.here);
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| {
            format!(
                "failed to listen at {address}: name another port, as 0:{}",
                ports.there
            )
        })?;
        let bound = listener.local_addr()?;
        output::line(&format!("{bound} leads to port {} of {id}", ports.there))?;
        let (client, id) = (client.clone(), id.clone());
        listening.push(tokio::spawn(accept(listener, client, id, ports.there)));
    }
    for one in listening {
        one.await??;
    }
    Ok(())
}

async fn accept(
    listener: TcpListener,
    client: Arc<Client>,
    id: TaskId,
    port: u16,
) -> std::io::Result<()> {
    loop {
        let (connection, from) = listener.accept().await?;
        let (client, id) = (client.clone(), id.clone());
        tokio::spawn(async move {
            if let Err(error) = pass(connection, &client, &id, port).await {
                output::note(&format!("tepui: {from}: {error:#}"));
            }
        });
    }
}

async fn pass(connection: TcpStream, client: &Client, id: &TaskId, port: u16) -> Result<()> {
    let path = format!("/v1/tasks/{id}/forward/{port}");
    let (mut receiver, mut sender) = client.channel(&path, &()).await?;
    let (mut read, mut write) = connection.into_split();
    let outward = async {
        let mut chunk = vec![0; MAX_CHUNK];
        loop {
            let count = read.read(&mut chunk).await.unwrap_or(0);
            if count == 0 {
                sender.send(&ClientFrame::End).await?;
                // The task may go on.
                std::future::pending::<()>().await;
            }
            let frame = ClientFrame::Data(chunk[..count].to_vec());
            sender.send(&frame).await?;
        }
    };
    let inward = async {
        loop {
            match receiver.next().await? {
                StreamFrame::Data(bytes) => write.write_all(&bytes).await?,
                StreamFrame::End => return anyhow::Ok(()),
                _ => {}
            }
        }
    };
    tokio::select! {
        ended = outward => ended,
        ended = inward => ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_one_or_two() {
        let ports = |here, there| Ok(Ports { here, there });
        assert_eq!("80".parse(), ports(80, 80));
        assert_eq!("0:80".parse(), ports(0, 80));
        assert_eq!("8080:80".parse(), ports(8080, 80));
        for bad in ["", "x", "80:", ":80", "80:0", "70000", "1:2:3"] {
            assert!(bad.parse::<Ports>().is_err(), "{bad}");
        }
    }
}
