//! A port of a task by UDP, for one peer elsewhere: each frame of data, either way, is a datagram.
//!
//! Which of a task's ports are reached is as for connections. Nothing is said of what nobody receives,
//! as with UDP anywhere; the stream ends with its caller, or with the task.

use tepui_types::wire::stream::{ClientFrame, ForwardRequest, MAX_CHUNK, StreamFrame};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{ClientFrames, Sender, StreamError, Subject, forward, refused};

/// After an error of the socket: each is told once, and many in a row keep nobody busy.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

pub(super) async fn serve<C: AsyncRead + AsyncWrite>(
    sender: &mut Sender<'_, C>,
    mut frames: ClientFrames<'_, C>,
    subject: &Subject,
    request: ForwardRequest,
) -> Result<(), StreamError> {
    forward::check(subject, request.port)?;
    let opened = tepui_network::datagrams(&subject.place(), request.port).await;
    let socket = opened.map_err(|why| refused("port-unreachable", why))?;
    sender.send(StreamFrame::Opened).await?;
    let ended = subject.ended.clone().unwrap_or_default();
    let outward = async {
        // None is longer.
        let mut datagram = vec![0; MAX_CHUNK];
        loop {
            let count = tokio::select! {
                received = socket.recv(&mut datagram) => match received {
                    Ok(count) => count,
                    // Nobody listens there yet, or any more; somebody may.
                    Err(_) => {
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                },
                () = ended.cancelled() => return sender.send(StreamFrame::End).await,
            };
            let frame = StreamFrame::Data(datagram[..count].to_vec());
            sender.send(frame).await?;
        }
    };
    let inward = async {
        loop {
            for frame in frames.next_batch().await?.ok_or(StreamError::Gone)? {
                match frame {
                    // One that is not delivered is one that is lost.
                    ClientFrame::Data(bytes) => drop(socket.send(&bytes).await),
                    ClientFrame::End => return Ok(()),
                    ClientFrame::Resize(_) | ClientFrame::Source { .. } => {}
                }
            }
        }
    };
    tokio::select! {
        ended = outward => ended,
        ended = inward => ended,
    }
}
