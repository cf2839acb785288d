//! A port of a task, for someone elsewhere: one connection, both ways.
//!
//! On the machine's network only the task's own ports are reached, or anything that listens there
//! would be.

use tepui_types::Workload;
use tepui_types::container::Network;
use tepui_types::wire::stream::{ClientFrame, ForwardRequest, MAX_CHUNK, StreamFrame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{ClientFrames, Sender, StreamError, Subject, refused};

/// How often it is looked whether the caller is still there.
const PROBE: std::time::Duration = std::time::Duration::from_secs(5);

pub(super) async fn serve<C: AsyncRead + AsyncWrite>(
    sender: &mut Sender<'_, C>,
    mut frames: ClientFrames<C>,
    subject: &Subject,
    request: ForwardRequest,
) -> Result<(), StreamError> {
    check(subject, request.port)?;
    let place = subject.place();
    let connected = tepui_network::connect(&place, request.port).await;
    let connection = connected.map_err(|why| refused("port-unreachable", why))?;
    sender.send(StreamFrame::Opened).await?;
    let (mut read, mut write) = connection.into_split();
    let outward = async {
        let mut chunk = vec![0; MAX_CHUNK];
        let mut probe = tokio::time::interval(PROBE);
        loop {
            let frame = tokio::select! {
                read = read.read(&mut chunk) => match read {
                    Ok(0) | Err(_) => return sender.send(StreamFrame::End).await,
                    Ok(count) => StreamFrame::Data(chunk[..count].to_vec()),
                },
                // Tells whether the caller is still there.
                _ = probe.tick() => StreamFrame::Data(Vec::new()),
            };
            sender.send(frame).await?;
        }
    };
    let inward = async {
        // What the task still sends is passed on also when it reads no more.
        let mut is_read = true;
        loop {
            for frame in frames.next_batch().await?.ok_or(StreamError::Gone)? {
                let written = match frame {
                    ClientFrame::Data(bytes) if is_read => write.write_all(&bytes).await,
                    ClientFrame::End if is_read => write.shutdown().await,
                    ClientFrame::Data(_) | ClientFrame::End | ClientFrame::Resize(_) => Ok(()),
                };
                is_read &= written.is_ok();
            }
        }
    };
    tokio::select! {
        ended = outward => ended,
        ended = inward => ended,
    }
}

fn check(subject: &Subject, port: u16) -> Result<(), StreamError> {
    let launch = subject.launch()?;
    let network = match &launch.spec.workload {
        Workload::Command(command) => command.container.as_ref().map(|it| &it.network),
        Workload::Wasm(_) => None,
    };
    match network {
        Some(Network::Named(_)) => Ok(()),
        Some(Network::None) => Err(refused(
            "port-unreachable",
            "the task's container is connected to nothing",
        )),
        Some(Network::Host) | None if launch.resources.ports.iter().any(|own| own == port) => {
            Ok(())
        }
        Some(Network::Host) | None => Err(refused(
            "port-foreign",
            format!(
                "port {port} is not the task's own, which are {}",
                launch.resources.ports
            ),
        )),
    }
}
