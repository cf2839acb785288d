//! Versioned bytes: how everything that is stored or sent is wrapped.
//!
//! One byte of version, then postcard. A version's structs are frozen once
//! released; a new shape is a new version, converted on reading.

use std::io::{self, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Nothing at all.
    #[error("the bytes are empty")]
    Empty,
    /// Written by a later release.
    #[error("the bytes are of version {found}, and this release reads version {newest}")]
    Version {
        /// What stands in the bytes.
        found: u8,
        /// What this release knows.
        newest: u8,
    },
    /// Torn or foreign.
    #[error("the bytes do not decode")]
    Malformed(#[from] postcard::Error),
    /// More bytes than the value takes.
    #[error("{0} bytes are left after the value")]
    Trailing(usize),
}

/// `value` as version `version`.
///
/// # Panics
/// Never for the types of this workspace: encoding to memory fails only for
/// sequences of unknown length, which none of them has.
pub fn encode<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    // invariant: see above.
    postcard::to_extend(value, vec![version]).expect("values of known length always encode")
}

/// The same into a writer.
///
/// # Errors
/// The writer's.
pub fn encode_to<T: Serialize, W: Write>(version: u8, value: &T, mut writer: W) -> io::Result<W> {
    writer.write_all(&[version])?;
    postcard::to_io(value, writer).map_err(io::Error::other)
}

/// The value in `bytes`, if they are of version `version`.
pub fn decode<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Result<T, DecodeError> {
    let (found, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if *found != version {
        return Err(DecodeError::Version {
            found: *found,
            newest: version,
        });
    }
    let (value, rest) = postcard::take_from_bytes(body)?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(DecodeError::Trailing(rest.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_versions_torn_and_trailing_bytes_are_refused() {
        let bytes = encode(1, &(7u32, "x"));
        assert_eq!(decode::<(u32, String)>(1, &bytes).unwrap(), (7, "x".into()));
        assert!(matches!(
            decode::<(u32, String)>(2, &bytes),
            Err(DecodeError::Version {
                found: 1,
                newest: 2
            })
        ));
        assert!(decode::<(u32, String)>(1, &bytes[..2]).is_err());
        assert!(matches!(
            decode::<u32>(1, &bytes),
            Err(DecodeError::Trailing(2))
        ));
        assert!(matches!(decode::<u32>(1, &[]), Err(DecodeError::Empty)));
    }
}
