//! A port of a task, for someone elsewhere: one connection, both ways, each until its own end.
//!
//! On the machine's network only the task's own ports are reached, or anything that listens there
//! would be.

use tepui_types::Workload;
use tepui_types::container::Network;
use tepui_types::wire::stream::{ClientFrame, ForwardRequest, MAX_CHUNK, StreamFrame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::{ClientFrames, PROBE, Sender, StreamError, Subject, refused};

pub(super) async fn serve<C: AsyncRead + AsyncWrite>(
    sender: &mut Sender<'_, C>,
    mut frames: ClientFrames<'_, C>,
    subject: &Subject,
    request: ForwardRequest,
) -> Result<(), StreamError> {
    check(subject, request.port)?;
    let place = subject.place();
    let connected = tepui_network::connect(&place, request.port).await;
    let connection = connected.map_err(|why| refused("port-unreachable", why))?;
    sender.send(StreamFrame::Opened).await?;
    let (mut read, mut write) = connection.into_split();
    // The caller has no more to say, or nobody hears it.
    let is_said = CancellationToken::new();
    let outward = async {
        let mut chunk = vec![0; MAX_CHUNK];
        let mut probe = tokio::time::interval(PROBE);
        let mut is_open = true;
        loop {
            let frame = tokio::select! {
                read = read.read(&mut chunk), if is_open => match read {
                    Ok(0) => {
                        is_open = false;
                        StreamFrame::End
                    }
                    Ok(count) => StreamFrame::Data(chunk[..count].to_vec()),
                    // The task wants no more of it, either way.
                    Err(_) => {
                        is_open = false;
                        is_said.cancel();
                        StreamFrame::End
                    }
                },
                () = is_said.cancelled(), if !is_open => return Ok(()),
                // Tells whether the caller is still there.
                _ = probe.tick() => StreamFrame::Data(Vec::new()),
            };
            sender.send(frame).await?;
        }
    };
    let inward = async {
        loop {
            for frame in frames.next_batch().await?.ok_or(StreamError::Gone)? {
                let is_last = match frame {
                    _ if is_said.is_cancelled() => continue,
                    ClientFrame::Data(bytes) => write.write_all(&bytes).await.is_err(),
                    ClientFrame::End => {
                        // One that is gone needs no end.
                        let _ = write.shutdown().await;
                        true
                    }
                    ClientFrame::Resize(_) | ClientFrame::Source { .. } => false,
                };
                if is_last {
                    // What the task still sends is passed on also when it reads no more.
                    is_said.cancel();
                }
            }
        }
    };
    tokio::select! {
        ended = outward => ended,
        ended = inward => ended,
    }
}

pub(super) fn check(subject: &Subject, port: u16) -> Result<(), StreamError> {
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
