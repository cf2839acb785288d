//! Images of the state on their way from one master to another.
//!
//! An image goes over HTTP and not through raft's messages, so that a large one holds up no
//! heartbeat: first its record, then its pieces, each behind its length. The one who fetches writes
//! piece after piece beside its log; nothing of it counts before all of it was read back and has
//! the hash that the record promises.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use reqwest::{Method, StatusCode};
use tepui_cluster::State;
use tepui_types::envelope::{self, DecodeError};
use tepui_types::wire::MAX_FRAME;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};
use tokio_util::io::StreamReader;

use super::peers::Peers;
use crate::error::StorageError;
use crate::raft::Lent;
use crate::storage::snapshot::{self, SnapshotRecord};
use crate::storage::{Family, Storage};

/// Version of what is sent.
const VERSION: u8 = 1;
/// The path of the newest image; `?index=N` asks for that one alone.
pub const PATH: &str = "/v1/masters/image";
/// How long the other may take for one piece, or to begin.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why an image could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody answers, or the connection broke.
    #[error("failed to reach the master that has the image")]
    Unreachable(#[from] reqwest::Error),
    /// It has another one by now, or none for us.
    #[error("the other master answered {0}")]
    Status(StatusCode),
    /// It has another token.
    #[error(
        "the other master does not know this one's token: start both with the same (--token-file)"
    )]
    OtherToken,
    /// It took too long.
    #[error("nothing came for {} s", PATIENCE.as_secs())]
    Slow,
    /// It broke off.
    #[error("the image broke off")]
    Cut,
    /// The stream broke, or a piece is too large.
    #[error("failed to read a piece of the image")]
    Piece(#[source] io::Error),
    /// The record cannot be understood.
    #[error("failed to decode the image's record")]
    Record(#[source] DecodeError),
    /// It could not be written here, or is not what its record says.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The master is stopping.
    #[error("the master is stopping")]
    Stopping,
}

/// The newest image as a stream of bytes, by which it is lent; none if it is not of `index`.
pub fn send(
    storage: Storage,
    lent: Lent,
    index: Option<u64>,
) -> Result<Option<impl Stream<Item = io::Result<Bytes>>>, StorageError> {
    let record = snapshot::latest(&storage)?;
    let Some(record) = record.filter(|record| index.is_none_or(|index| record.index == index))
    else {
        return Ok(None);
    };
    let head = piece(&envelope::encode(VERSION, &record));
    let pieces = stream::iter(0..record.chunks).then(move |number| {
        let _for_as_long_as_it_takes = &lent;
        let (storage, index) = (storage.clone(), record.index);
        async move {
            let chunk = spawn_blocking(move || snapshot::read_chunk(&storage, index, number));
            match chunk.await.map_err(io::Error::other)? {
                Ok(Some(chunk)) => Ok(piece(&chunk)),
                Ok(None) => Err(io::Error::other("the image was replaced by a newer one")),
                Err(error) => Err(io::Error::other(error)),
            }
        }
    });
    Ok(Some(stream::iter([Ok(head)]).chain(pieces)))
}

fn piece(bytes: &[u8]) -> Bytes {
    // A piece is far below four gigabytes.
    let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
    framed.extend_from_slice(bytes);
    framed.into()
}

/// Brings the image of `index`, or the newest, from the master at `url` into the database, where it
/// counts for nothing until its record is written.
pub async fn fetch(
    peers: &Peers,
    url: &str,
    index: Option<u64>,
    storage: &Storage,
) -> Result<(SnapshotRecord, State), FetchError> {
    let path = match index {
        Some(index) => format!("{PATH}?index={index}"),
        None => PATH.to_owned(),
    };
    let response = timeout(PATIENCE, peers.request(Method::GET, url, &path).send());
    let response = response.await.map_err(|_| FetchError::Slow)??;
    match response.status() {
        StatusCode::UNAUTHORIZED => return Err(FetchError::OtherToken),
        status if !status.is_success() => return Err(FetchError::Status(status)),
        _ => {}
    }
    let codec = LengthDelimitedCodec::builder()
        .little_endian()
        .max_frame_length(MAX_FRAME)
        .new_codec();
    let bytes = StreamReader::new(response.bytes_stream().map_err(io::Error::other));
    let mut pieces = FramedRead::new(bytes, codec);
    let mut next = async || {
        let piece = timeout(PATIENCE, pieces.next()).await;
        let piece = piece.map_err(|_| FetchError::Slow)?;
        piece.ok_or(FetchError::Cut)?.map_err(FetchError::Piece)
    };
    let record: SnapshotRecord =
        envelope::decode(VERSION, &next().await?).map_err(FetchError::Record)?;
    for number in 0..record.chunks {
        let (chunk, storage, index) = (next().await?, storage.clone(), record.index);
        blocking(move || snapshot::write_chunk(&storage, index, number, &chunk)).await?;
    }
    let storage = storage.clone();
    blocking(move || {
        storage.flush(Family::Snapshot)?;
        let state = snapshot::load(&storage, &record)?;
        Ok((record, state))
    })
    .await
}

async fn blocking<T: Send + 'static>(
    step: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, FetchError> {
    let result = spawn_blocking(step).await;
    Ok(result.map_err(|_| FetchError::Stopping)??)
}
