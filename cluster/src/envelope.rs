//! Who asked for a command, when, under which request and on which revision.

use serde::{Deserialize, Serialize};
use tepui_types::{Principal, Timestamp};

use crate::command::Command;

/// One entry of the log. Every field stands here from the first entry on:
/// audit, retries and rights cannot be added to logged bytes later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Drawn by the master that took the request; ties log lines together.
    pub request_id: u128,
    /// Who asked.
    pub principal: Principal,
    /// Named by a caller who may ask again: the second time gets the first answer.
    pub idempotency_key: Option<String>,
    /// The revision that the object must still have.
    pub expected_revision: Option<u64>,
    /// The proposing leader's term: a command of an older one is refused.
    pub term: u64,
    /// The proposing master's clock; the state's own never goes back.
    pub time: Timestamp,
    /// What is asked.
    pub body: Command,
}

impl Envelope {
    /// Version of the encoding.
    pub const VERSION: u8 = 1;
    /// The longest idempotency key, in bytes.
    pub const MAX_KEY: usize = 128;

    /// The bytes that are logged.
    pub fn encode(&self) -> Vec<u8> {
        tepui_types::envelope::encode(Self::VERSION, self)
    }

    /// The entry in logged bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, tepui_types::envelope::DecodeError> {
        tepui_types::envelope::decode(Self::VERSION, bytes)
    }
}
