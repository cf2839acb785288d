//! Framing of the agent–executor connection over blocking or buffered streams.
//!
//! The frames are [`ToExecutor`](tepui_types::wire::executor::ToExecutor) and
//! [`FromExecutor`](tepui_types::wire::executor::FromExecutor). Agents, tests
//! and both executors use this; a frame above the limit or of another version
//! is an error, after which the connection is of no more use.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tepui_types::envelope::DecodeError;
use tepui_types::wire::executor::VERSION;
use tepui_types::wire::{FrameTooLarge, LENGTH_BYTES, frame, frame_len, parse};

/// Why a frame could not be sent or read.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The connection failed, or ended inside a frame.
    #[error("the connection to the other side failed")]
    Connection(#[from] io::Error),
    /// A frame is larger than any may be.
    #[error(transparent)]
    TooLarge(#[from] FrameTooLarge),
    /// A frame is not of this protocol.
    #[error("a frame does not decode")]
    Malformed(#[from] DecodeError),
}

/// The bytes of one frame.
///
/// # Errors
/// [`ProtocolError::TooLarge`] alone.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, ProtocolError> {
    Ok(frame(VERSION, value)?)
}

/// Writes one frame.
///
/// # Errors
/// Any [`ProtocolError`] but `Malformed`.
pub fn write_frame<T: Serialize>(to: &mut impl Write, value: &T) -> Result<(), ProtocolError> {
    to.write_all(&encode(value)?)?;
    Ok(())
}

/// Reads one frame, waiting for it; none when the stream ended between frames.
///
/// # Errors
/// Any [`ProtocolError`]; an end inside a frame is `UnexpectedEof`.
pub fn read_frame<T: DeserializeOwned>(from: &mut impl Read) -> Result<Option<T>, ProtocolError> {
    let mut header = [0; LENGTH_BYTES];
    if !read_header(from, &mut header)? {
        return Ok(None);
    }
    let mut body = vec![0; frame_len(header)?];
    from.read_exact(&mut body)?;
    Ok(Some(parse(VERSION, &body)?))
}

/// False when the stream ends before the first byte.
fn read_header(from: &mut impl Read, header: &mut [u8]) -> io::Result<bool> {
    let mut have = 0;
    while have < header.len() {
        match from.read(&mut header[have..]) {
            Ok(0) if have == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Bytes that arrived and are not yet whole frames: for streams that do not block.
///
/// It never holds more than one frame and one read: callers take the frames out
/// after each [`FrameBuffer::extend`].
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    taken: usize,
}

impl FrameBuffer {
    /// Adds what was read.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next whole frame out, if it is there.
    ///
    /// # Errors
    /// `TooLarge` or `Malformed`: hang up.
    pub fn next_frame<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ProtocolError> {
        let rest = &self.bytes[self.taken..];
        let Some((header, rest)) = rest.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let len = frame_len(*header)?;
        let Some(body) = rest.get(..len) else {
            return Ok(None);
        };
        let value = parse(VERSION, body)?;
        self.taken += LENGTH_BYTES + len;
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use tepui_types::wire::executor::ToExecutor;

    use super::*;

    #[test]
    fn frames_come_back_whole_from_single_bytes() {
        let mut bytes = encode(&ToExecutor::Attach { token: 7 }).unwrap();
        bytes.extend(encode(&ToExecutor::Retire).unwrap());
        let mut buffer = FrameBuffer::default();
        let mut frames = Vec::new();
        for byte in bytes {
            buffer.extend(&[byte]);
            while let Some(frame) = buffer.next_frame::<ToExecutor>().unwrap() {
                frames.push(frame);
            }
        }
        assert_eq!(
            frames,
            [ToExecutor::Attach { token: 7 }, ToExecutor::Retire]
        );
    }

    #[test]
    fn an_end_inside_a_frame_is_an_error_and_between_frames_is_none() {
        let bytes = encode(&ToExecutor::Retire).unwrap();
        let mut whole = bytes.as_slice();
        assert_eq!(read_frame(&mut whole).unwrap(), Some(ToExecutor::Retire));
        assert!(read_frame::<ToExecutor>(&mut whole).unwrap().is_none());
        for cut in 1..bytes.len() {
            assert!(
                read_frame::<ToExecutor>(&mut &bytes[..cut]).is_err(),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let mut buffer = FrameBuffer::default();
        buffer.extend(b"GET / HTTP/1.1\r\n\r\n");
        assert!(matches!(
            buffer.next_frame::<ToExecutor>(),
            Err(ProtocolError::TooLarge(_))
        ));
    }
}
