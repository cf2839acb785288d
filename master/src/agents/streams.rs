//! Data connections: bytes that agents send on request, each on a connection of
//! its own, so that TCP's window is the flow control.

use std::collections::HashMap;
use std::future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, Request};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tepui_types::wire::stream::{StreamFrame, UPGRADE, VERSION};
use tepui_types::wire::{self, MAX_FRAME};
use tepui_types::{AgentId, Reason};
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use super::{check_upgrade, switching};
use crate::Master;
use crate::http::error::ApiError;

/// How long an agent may take to dial.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);
/// Streams that are waited for at once; each holds a caller's connection.
const MAX_PENDING: usize = 10_000;

/// Why there are no bytes.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The agent has no session with this master.
    #[error("agent {0} is not connected: its tasks can be looked into when it comes back")]
    NotConnected(AgentId),
    /// It did not dial.
    #[error("the agent did not send what was asked for in time: try again")]
    Timeout,
    /// It cannot.
    #[error("{0}")]
    Refused(Reason),
    /// Something was to be left out.
    #[error("{0} bytes were rotated away before they were read: ask again for what follows them")]
    Missed(u64),
    /// Too many are waited for.
    #[error("too many outputs are being opened: try again")]
    TooMany,
    /// No randomness for the stream's name.
    #[error("the system gave no randomness")]
    Random,
    /// The connection broke, or said what is not a frame.
    #[error("the agent's connection broke off")]
    Broken,
}

/// The bytes of a stream.
pub type StreamBytes = Pin<Box<dyn Stream<Item = Result<Bytes, StreamError>> + Send>>;

/// Something of a stream.
#[derive(Debug)]
pub enum Piece {
    /// The next bytes.
    Bytes(Bytes),
    /// The next bytes begin there in what was ever written.
    Place(u64),
}

/// The bytes of a stream, with their places where it tells them.
pub type StreamPieces = Pin<Box<dyn Stream<Item = Result<Piece, StreamError>> + Send>>;

/// A connection that an agent has made.
pub type Connection = TokioIo<Upgraded>;

type Dialled = Result<Connection, Reason>;

/// The data connections that are waited for, by the number that names each.
/// Numbers are random and used once: knowing one is the right to answer.
#[derive(Debug, Default)]
pub struct Streams {
    pending: Arc<Mutex<HashMap<u128, oneshot::Sender<Dialled>>>>,
}

/// A data connection that an agent is asked for.
#[derive(Debug)]
pub struct Pending {
    id: u128,
    dialled: oneshot::Receiver<Dialled>,
    pending: Arc<Mutex<HashMap<u128, oneshot::Sender<Dialled>>>>,
}

impl Streams {
    /// Makes room for a connection to come.
    pub fn expect(&self) -> Result<Pending, StreamError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| StreamError::Random)?;
        let id = u128::from_le_bytes(id);
        let (sender, dialled) = oneshot::channel();
        let mut pending = lock(&self.pending);
        if pending.len() >= MAX_PENDING {
            return Err(StreamError::TooMany);
        }
        pending.insert(id, sender);
        Ok(Pending {
            id,
            dialled,
            pending: self.pending.clone(),
        })
    }

    /// The agent cannot serve this stream.
    pub fn refuse(&self, id: u128, reason: Reason) {
        if let Some(sender) = self.take(id) {
            // Who no longer waits needs no answer.
            let _ = sender.send(Err(reason));
        }
    }

    fn take(&self, id: u128) -> Option<oneshot::Sender<Dialled>> {
        lock(&self.pending).remove(&id)
    }
}

impl Pending {
    /// Names the stream to the agent.
    pub fn id(&self) -> u128 {
        self.id
    }

    /// Waits for the agent to dial.
    async fn dialled(mut self) -> Result<Connection, StreamError> {
        let dialled = tokio::time::timeout(DIAL_DEADLINE, &mut self.dialled).await;
        dialled
            .map_err(|_| StreamError::Timeout)?
            .map_err(|_| StreamError::Broken)?
            .map_err(StreamError::Refused)
    }

    /// Waits for the agent to dial and to say that what was asked for is there: the caller and the
    /// agent speak to each other from then on.
    pub async fn opened(self) -> Result<Connection, StreamError> {
        let mut connection = self.dialled().await?;
        let first = tokio::time::timeout(DIAL_DEADLINE, first_frame(&mut connection)).await;
        match first.map_err(|_| StreamError::Timeout)?? {
            StreamFrame::Opened => Ok(connection),
            StreamFrame::Failed(reason) => Err(StreamError::Refused(reason)),
            StreamFrame::Data(_)
            | StreamFrame::ErrorData(_)
            | StreamFrame::End
            | StreamFrame::Exited(_)
            | StreamFrame::Begins { .. }
            | StreamFrame::Taken(_) => Err(StreamError::Broken),
        }
    }

    /// The bytes that the agent sends.
    pub async fn bytes(self) -> Result<StreamBytes, StreamError> {
        let pieces = self.pieces().await?;
        let bytes = pieces.filter_map(|piece| {
            future::ready(match piece {
                Ok(Piece::Bytes(bytes)) => Some(Ok(bytes)),
                Ok(Piece::Place(_)) => None,
                Err(error) => Some(Err(error)),
            })
        });
        Ok(bytes.boxed())
    }

    /// The same, and where they begin.
    pub async fn pieces(self) -> Result<StreamPieces, StreamError> {
        let connection = self.dialled().await?;
        let codec = LengthDelimitedCodec::builder()
            .little_endian()
            .max_frame_length(MAX_FRAME)
            .new_codec();
        let frames = FramedRead::new(connection, codec);
        Ok(stream::unfold(Some(frames), |frames| async {
            let mut frames = frames?;
            let frame = match frames.next().await {
                Some(Ok(bytes)) => wire::parse(VERSION, &bytes).map_err(|_| StreamError::Broken),
                Some(Err(_)) | None => Err(StreamError::Broken),
            };
            match frame {
                Ok(StreamFrame::Data(bytes)) => {
                    Some((Ok(Piece::Bytes(bytes.into())), Some(frames)))
                }
                Ok(StreamFrame::Begins { at, .. }) => Some((Ok(Piece::Place(at)), Some(frames))),
                Ok(StreamFrame::End) => None,
                Ok(StreamFrame::Failed(reason)) => Some((Err(StreamError::Refused(reason)), None)),
                Ok(
                    StreamFrame::ErrorData(_)
                    | StreamFrame::Exited(_)
                    | StreamFrame::Opened
                    | StreamFrame::Taken(_),
                ) => Some((Err(StreamError::Broken), None)),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed())
    }
}

/// The first frame, and not a byte more.
async fn first_frame(connection: &mut Connection) -> Result<StreamFrame, StreamError> {
    let broken = |_| StreamError::Broken;
    let mut header = [0; wire::LENGTH_BYTES];
    connection.read_exact(&mut header).await.map_err(broken)?;
    let len = wire::frame_len(header).map_err(|_| StreamError::Broken)?;
    let mut body = vec![0; len];
    connection.read_exact(&mut body).await.map_err(broken)?;
    wire::parse(VERSION, &body).map_err(|_| StreamError::Broken)
}

impl Drop for Pending {
    fn drop(&mut self) {
        lock(&self.pending).remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The table is whole after every statement, also after a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `GET /v1/agents/streams/{stream}`: an agent's data connection.
pub async fn connect(
    Extension(master): Extension<Arc<Master>>,
    Path(stream): Path<String>,
    mut request: Request,
) -> Result<Response, ApiError> {
    check_upgrade(&request, UPGRADE)?;
    let id = u128::from_str_radix(&stream, 16).ok();
    let Some(sender) = id.and_then(|id| master.sessions.streams().take(id)) else {
        return Err(ApiError::NotFound(
            "nobody waits for this stream any more".into(),
        ));
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            // A reader that has gone closes the connection by dropping it.
            Ok(connection) => drop(sender.send(Ok(TokioIo::new(connection)))),
            Err(error) => tracing::debug!(%error, "a data connection's upgrade failed"),
        }
    });
    Ok(switching(UPGRADE))
}
