//! A digest of the whole state, by which masters find out that one diverged.

use sha2::{Digest as _, Sha256};

use super::State;

impl State {
    /// The SHA-256 of the state's canonical encoding. Takes time in proportion
    /// to the state: compute it on a clone, beside `apply`.
    pub fn hash(&self) -> [u8; 32] {
        Self::hash_of(&self.encode())
    }

    /// The hash of the state with this encoding.
    pub fn hash_of(encoding: &[u8]) -> [u8; 32] {
        Sha256::digest(encoding).into()
    }
}
