//! A port of a task, for someone elsewhere: one connection, both ways.
//!
//! On the machine's network only the task's own ports are reached, or anything that listens there
//! would be.

use tepui_types::Workload;
use tepui_types::container::Network;
use tepui_types::wire::stream::{ClientFrame, ForwardRequest, MAX_CHUNK, StreamFrame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{ClientFrames, Sender, StreamError, Subject, refused};

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
        loop {
            match read.read(&mut chunk).await {
                Ok(0) | Err(_) => return sender.send(StreamFrame::End).await,
                Ok(count) => {
                    let bytes = chunk[..count].to_vec();
                    sender.send(StreamFrame::Data(bytes)).await?;
                }
            }
        }
    };
    let inward = async {
        loop {
            for frame in frames.next_batch().await?.ok_or(StreamError::Gone)? {
                let written = match frame {
                    ClientFrame::Data(bytes) => write.write_all(&bytes).await,
                    ClientFrame::End => write.shutdown().await,
                    ClientFrame::Resize(_) => Ok(()),
                };
                if written.is_err() {
                    // What the task still sends is passed on all the same.
                    std::future::pending::<()>().await;
                }
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
