//! Records in a file that only grows, of which a crash may tear the last.
//!
//! A record is a frame and a checksum, so that a torn one ends the reading instead of confusing it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tepui_types::Digest;
use tepui_types::wire::executor::VERSION;
use tepui_types::wire::{LENGTH_BYTES, frame_len, parse};

use crate::protocol::{self, ProtocolError};

/// Bytes of checksum after each frame: the first of its SHA-256.
const CHECKSUM_BYTES: usize = 8;

/// The bytes of one record.
///
/// # Errors
/// [`ProtocolError::TooLarge`] alone.
pub fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, ProtocolError> {
    let mut bytes = protocol::encode(record)?;
    let sum = checksum(&bytes);
    bytes.extend_from_slice(&sum);
    Ok(bytes)
}

/// The records in `bytes`, as far as the first that is torn or of another version.
pub fn decode<T: DeserializeOwned>(mut bytes: &[u8]) -> impl Iterator<Item = T> {
    std::iter::from_fn(move || {
        let (record, rest) = next(bytes)?;
        bytes = rest;
        Some(record)
    })
}

fn next<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let header = bytes.first_chunk::<LENGTH_BYTES>()?;
    let frame_bytes = LENGTH_BYTES + frame_len(*header).ok()?;
    let (frame, rest) = bytes.split_at_checked(frame_bytes)?;
    let (sum, rest) = rest.split_first_chunk::<CHECKSUM_BYTES>()?;
    if *sum != checksum(frame) {
        return None;
    }
    Some((parse(VERSION, &frame[LENGTH_BYTES..]).ok()?, rest))
}

fn checksum(frame: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Digest::of(frame).0;
    std::array::from_fn(|place| digest[place])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<String> {
        decode(bytes).collect()
    }

    #[test]
    fn a_torn_or_foreign_tail_leaves_the_records_before_it() {
        let words = ["one", "two"].map(String::from);
        let first = encode(&words[0]).unwrap();
        let whole = [first.clone(), encode(&words[1]).unwrap()].concat();
        assert_eq!(all(&whole), words);
        for cut in first.len()..whole.len() {
            assert_eq!(all(&whole[..cut]), words[..1], "cut at {cut}");
        }
        for tail in [&b"garbage garbage"[..], &[0; 64], &[0xff; 64]] {
            assert_eq!(all(&[&whole, tail].concat()), words);
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert_eq!(all(&flipped), words[..1]);
    }
}
