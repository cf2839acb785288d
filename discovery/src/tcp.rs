//! Questions over TCP: connections, each with one question after another.
//!
//! What always holds: no more connections than [`MAX_CONNECTIONS`] are open, no more than
//! [`MAX_PER_ADDRESS`] of one address; none waits for longer than [`IDLE`] for its other side.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::answerer::{Answerer, Next};
use crate::message::Transport;

/// As many connections at once as leave most of a process's 1024 files to its other work.
const MAX_CONNECTIONS: usize = 256;
/// One machine of many tasks asks over a few; the rest is left to others.
const MAX_PER_ADDRESS: usize = 64;
/// How long a connection may wait for a question, or for its answer to be taken (RFC 7766 asks for
/// seconds).
const IDLE: Duration = Duration::from_secs(10);
/// Longer than any question.
const MAX_QUESTION: u16 = 4096;
/// How long to wait after a failed accept: it often is for want of files, which lasts.
const PAUSE: Duration = Duration::from_millis(50);

/// How many connections each address has.
#[derive(Debug, Clone, Default)]
struct Open(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection in [`Open`], until it is dropped.
struct Place(Open, IpAddr);

impl Open {
    fn take(&self, from: IpAddr) -> Option<Place> {
        // A count is whole after any panic.
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let own = open.get(&from).copied().unwrap_or(0);
        if all >= MAX_CONNECTIONS || own >= MAX_PER_ADDRESS {
            return None;
        }
        open.insert(from, own + 1);
        Some(Place(self.clone(), from))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.1) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(open.remove(&self.1)),
        }
    }
}

/// Takes connections until stopped; then those that are open end after the question they are at.
pub(crate) async fn serve(
    listener: TcpListener,
    answerer: Arc<Answerer>,
    mut stop: watch::Receiver<bool>,
) {
    let open = Open::default();
    let mut connections = JoinSet::new();
    let stopped = stop.clone();
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => match open.take(from.ip().to_canonical()) {
                Some(place) => {
                    let (answerer, stopped) = (answerer.clone(), stopped.clone());
                    connections.spawn(async move {
                        talk(stream, from, &answerer, stopped).await;
                        drop(place);
                    });
                }
                None => answerer.counters.connection_refused(),
            },
            Err(error) => {
                tracing::debug!(%error, "failed to accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Answers one question after another; ends with the first that is none.
async fn talk(
    mut stream: TcpStream,
    from: SocketAddr,
    answerer: &Answerer,
    mut stop: watch::Receiver<bool>,
) {
    // Answers are small, and their asker waits for each.
    let _ = stream.set_nodelay(true);
    loop {
        let question = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            question = timeout(IDLE, read(&mut stream)) => question,
        };
        let Ok(Some(question)) = question else {
            return;
        };
        let answer = match answerer.message(&question, from.ip()) {
            Next::Send(answer) => Some(answer),
            Next::Forward(request) => answerer.forward(&request, Transport::Tcp).await,
            Next::Nothing => None,
        };
        let Some(answer) = answer else {
            return;
        };
        if !matches!(
            timeout(IDLE, write(&mut stream, &answer)).await,
            Ok(Some(()))
        ) {
            return;
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = stream.read_u16().await.ok()?;
    if length > MAX_QUESTION {
        return None;
    }
    let mut question = vec![0; usize::from(length)];
    stream.read_exact(&mut question).await.ok()?;
    Some(question)
}

async fn write(stream: &mut TcpStream, answer: &[u8]) -> Option<()> {
    let length = u16::try_from(answer.len()).ok()?;
    // In one piece: some clients take the length alone for the whole.
    let framed = [&length.to_be_bytes(), answer].concat();
    stream.write_all(&framed).await.ok()
}
