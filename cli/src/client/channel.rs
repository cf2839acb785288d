//! Connections that go both ways: a request that is upgraded, then frames.

use futures::StreamExt;
use reqwest::header::{CONNECTION, UPGRADE};
use reqwest::{Method, StatusCode, Upgraded};
use serde::Serialize;
use tepui_types::Reason;
use tepui_types::wire::stream::{self, ClientFrame, StreamFrame};
use tepui_types::wire::{self, MAX_FRAME};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use super::{Client, ClientError, Result};

/// What the other side says.
pub struct Receiver(FramedRead<ReadHalf<Upgraded>, LengthDelimitedCodec>);

/// What is said to it.
pub struct Sender(WriteHalf<Upgraded>);

/// Why a connection broke off.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The agent says why.
    #[error("{}", .0.message)]
    Failed(Reason),
    /// Nobody says why.
    #[error("the connection to the task's agent broke off")]
    Broken,
}

impl Client {
    /// Opens a connection; what cannot be is the master's refusal.
    pub async fn channel(&self, path: &str, body: &impl Serialize) -> Result<(Receiver, Sender)> {
        let request = self
            .request(Method::POST, path)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, stream::UPGRADE)
            .json(body);
        let response = request.send().await;
        let response = response.map_err(|source| self.unreachable(source))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refusal(&Method::POST, path, response).await);
        }
        let lost = |source| ClientError::Lost {
            url: self.base().to_owned(),
            source,
        };
        let (read, write) = tokio::io::split(response.upgrade().await.map_err(lost)?);
        let codec = LengthDelimitedCodec::builder()
            .little_endian()
            .max_frame_length(MAX_FRAME)
            .new_codec();
        Ok((Receiver(FramedRead::new(read, codec)), Sender(write)))
    }
}

impl Receiver {
    /// The next frame. Loses nothing when it is dropped while it waits.
    pub async fn next(&mut self) -> std::result::Result<StreamFrame, ChannelError> {
        let bytes = match self.0.next().await {
            Some(Ok(bytes)) => bytes,
            Some(Err(_)) | None => return Err(ChannelError::Broken),
        };
        match wire::parse(stream::VERSION, &bytes) {
            Ok(StreamFrame::Failed(reason)) => Err(ChannelError::Failed(reason)),
            Ok(frame) => Ok(frame),
            Err(_) => Err(ChannelError::Broken),
        }
    }
}

impl Sender {
    /// Says something.
    pub async fn send(&mut self, frame: &ClientFrame) -> std::result::Result<(), ChannelError> {
        let bytes = wire::frame(stream::VERSION, frame).map_err(|_| ChannelError::Broken)?;
        let written = self.0.write_all(&bytes).await;
        written.map_err(|_| ChannelError::Broken)
    }
}
