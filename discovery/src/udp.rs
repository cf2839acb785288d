//! Questions over UDP: one packet in, at most one out.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::answerer::{Answerer, Next};
use crate::message::Transport;

/// Longer than any question; what is longer is cut, and then not to be read.
const MAX_PACKET: usize = 4096;
/// How long to wait after an error of the socket, so that a lasting one does not take a processor.
const PAUSE: Duration = Duration::from_millis(10);

/// Answers until stopped. Answers of upstream resolvers that are still waited for are given up then.
pub(crate) async fn serve(
    socket: Arc<UdpSocket>,
    answerer: Arc<Answerer>,
    mut stop: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; MAX_PACKET];
    let mut forwards = JoinSet::new();
    loop {
        let received = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            Some(_) = forwards.join_next() => continue,
            received = socket.recv_from(&mut buffer) => received,
        };
        let (length, from) = match received {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "failed to receive a question");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match answerer.datagram(&buffer[..length], from.ip()) {
            Next::Nothing => {}
            // Nobody waits for what cannot be sent: the asker asks again.
            Next::Send(answer) => drop(socket.send_to(&answer, from).await),
            Next::Forward(request) => {
                let (socket, answerer) = (socket.clone(), answerer.clone());
                forwards.spawn(async move {
                    if let Some(answer) = answerer.forward(&request, Transport::Udp).await {
                        drop(socket.send_to(&answer, from).await);
                    }
                });
            }
        }
    }
}
