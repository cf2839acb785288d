//! Why a call into the host changed nothing.
//!
//! One list for all calls, so that `?` joins them. An error never undoes what
//! the turn did before: only a panic ends a turn.

/// A refused call. Nothing of it happened; the rest of the turn stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The offer was answered, rescinded or has expired.
    #[error("the offer is not good any more")]
    OfferUnknown,
    /// The tasks ask for more than the offer still holds; names what.
    #[error("the offer holds too little: {0}")]
    OfferExceeded(String),
    /// An argument cannot be; says which and why.
    #[error("{0}")]
    Invalid(String),
    /// A key, a value, a timer or the whole store is above its limit; says which.
    #[error("{0}")]
    TooLarge(String),
    /// The turn is at its limit of operations or bytes, or as much waits to be
    /// seen by this framework as may: return, and go on in
    /// [`on_continued`](crate::Scheduler::on_continued).
    #[error("the turn is full")]
    TurnFull,
    /// What stands in the store is not what was asked for.
    #[error("the value of `{key}` does not decode: {message}")]
    Malformed {
        /// Whose value.
        key: String,
        /// What the decoder says.
        message: String,
    },
}

/// So that `?` works in [`Scheduler::start`](crate::Scheduler::start), which
/// answers in words for the operator.
impl From<Error> for String {
    fn from(error: Error) -> Self {
        error.to_string()
    }
}
