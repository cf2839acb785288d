//! Frames of the connections between masters, agents and executors.
//!
//! A connection is a stream of frames: four bytes of length, little-endian,
//! then that many bytes of one value in a [versioned
//! envelope](crate::envelope). Each connection's version stands in its
//! handshake, and its frames in one file here.

pub mod agent;
pub mod executor;
pub mod peer;
pub mod stream;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::envelope::{self, DecodeError};

/// The largest frame, in bytes. Senders split batches well below it; readers
/// hang up on more, so that no peer can make them allocate without end.
pub const MAX_FRAME: usize = 16 * 1024 * 1024;

/// Bytes of the length in front of each frame.
pub const LENGTH_BYTES: usize = 4;

/// A frame that announces more than [`MAX_FRAME`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes is above the limit of {MAX_FRAME}")]
pub struct FrameTooLarge(pub usize);

/// Length and value, ready to be written.
pub fn frame<T: Serialize>(version: u8, value: &T) -> Result<Vec<u8>, FrameTooLarge> {
    let body = envelope::encode(version, value);
    if body.len() > MAX_FRAME {
        return Err(FrameTooLarge(body.len()));
    }
    let mut bytes = Vec::with_capacity(LENGTH_BYTES + body.len());
    // The limit is far below four bytes' worth.
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The length that stands in front of a frame.
pub fn frame_len(header: [u8; LENGTH_BYTES]) -> Result<usize, FrameTooLarge> {
    let len = u32::from_le_bytes(header) as usize;
    if len > MAX_FRAME {
        Err(FrameTooLarge(len))
    } else {
        Ok(len)
    }
}

/// The value of a frame's body.
pub fn parse<T: DeserializeOwned>(version: u8, body: &[u8]) -> Result<T, DecodeError> {
    envelope::decode(version, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_carry_their_length_and_have_a_limit() {
        let bytes = frame(1, &"hello").unwrap();
        let (header, body) = bytes.split_first_chunk().unwrap();
        assert_eq!(frame_len(*header), Ok(body.len()));
        assert_eq!(parse::<String>(1, body).unwrap(), "hello");
        assert_eq!(frame_len([0xff; 4]), Err(FrameTooLarge(u32::MAX as usize)));
        assert!(frame(1, &vec![0u8; MAX_FRAME]).is_err());
    }
}
