//! Frames over asynchronous streams: the master's and the executors'
//! connections alike.
//!
//! Frames that arrived together are handed on together, and what is to be
//! written together goes out in one write: a thousand statuses cost a few
//! system calls, not thousands.

use std::io;
use std::marker::PhantomData;

use bytes::{Buf, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tepui_types::envelope::DecodeError;
use tepui_types::wire::{self, FrameTooLarge, LENGTH_BYTES};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How much is read at once, in bytes: a few hundred small frames.
const READ_BYTES: usize = 64 * 1024;

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// It broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// A frame is larger than any may be.
    #[error(transparent)]
    TooLarge(#[from] FrameTooLarge),
    /// A frame is not of this protocol.
    #[error("a frame does not decode")]
    Malformed(#[from] DecodeError),
}

/// The reading half of a connection.
#[derive(Debug)]
pub struct FrameReader<R, T> {
    io: R,
    version: u8,
    bytes: BytesMut,
    frames: PhantomData<fn() -> T>,
}

impl<R: AsyncRead + Unpin, T: DeserializeOwned> FrameReader<R, T> {
    /// Reads frames of one version from `io`.
    pub fn new(io: R, version: u8) -> Self {
        Self {
            io,
            version,
            bytes: BytesMut::new(),
            frames: PhantomData,
        }
    }

    /// The frames that are here, at least one; none when the stream has ended
    /// between frames. Loses nothing when it is dropped while it waits.
    pub async fn next_batch(&mut self) -> Result<Option<Vec<T>>, FrameError> {
        loop {
            let mut frames = Vec::new();
            while let Some(frame) = self.take_frame()? {
                frames.push(frame);
            }
            if !frames.is_empty() {
                return Ok(Some(frames));
            }
            self.bytes.reserve(READ_BYTES);
            if self.io.read_buf(&mut self.bytes).await? > 0 {
                continue;
            }
            return match self.bytes.is_empty() {
                true => Ok(None),
                false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            };
        }
    }

    fn take_frame(&mut self) -> Result<Option<T>, FrameError> {
        let Some(header) = self.bytes.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let len = wire::frame_len(*header)?;
        if self.bytes.len() < LENGTH_BYTES + len {
            return Ok(None);
        }
        self.bytes.advance(LENGTH_BYTES);
        let body = self.bytes.split_to(len);
        Ok(Some(wire::parse(self.version, &body)?))
    }
}

/// Writes frames in one go.
pub async fn write_frames<W, T>(to: &mut W, version: u8, frames: &[T]) -> Result<(), FrameError>
where
    W: AsyncWrite + Unpin,
    T: Serialize,
{
    let mut bytes = Vec::new();
    for frame in frames {
        bytes.extend_from_slice(&wire::frame(version, frame)?);
    }
    to.write_all(&bytes).await?;
    to.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_that_came_together_are_taken_together() {
        let mut bytes = Vec::new();
        write_frames(&mut bytes, 1, &["a".to_owned(), "b".to_owned()])
            .await
            .unwrap();
        let mut reader = FrameReader::<_, String>::new(bytes.as_slice(), 1);
        assert_eq!(reader.next_batch().await.unwrap().unwrap(), ["a", "b"]);
        assert!(reader.next_batch().await.unwrap().is_none());
        let torn = &bytes[..bytes.len() - 1];
        let mut reader = FrameReader::<_, String>::new(torn, 1);
        assert_eq!(reader.next_batch().await.unwrap().unwrap(), ["a"]);
        assert!(matches!(reader.next_batch().await, Err(FrameError::Io(_))));
    }
}
