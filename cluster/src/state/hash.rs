//! A digest of the whole state, by which masters find out that one diverged.

use sha2::{Digest as _, Sha256};

use super::State;

/// Bytes that are encoded at once.
const PIECE_BYTES: usize = 1024 * 1024;

impl State {
    /// The SHA-256 of the state's canonical encoding. Takes time in proportion
    /// to the state: compute it on a clone, beside `apply`.
    pub fn hash(&self) -> [u8; 32] {
        Self::hash_of(&self.encode_in_pieces(PIECE_BYTES))
    }

    /// The hash of the state with this encoding.
    pub fn hash_of(pieces: &[Vec<u8>]) -> [u8; 32] {
        let mut hash = Sha256::new();
        pieces.iter().for_each(|piece| hash.update(piece));
        hash.finalize().into()
    }
}
