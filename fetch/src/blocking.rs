//! Work that blocks, on a thread that may.

use crate::error::FetchError;

/// Waits for work that a runtime's thread must not do. It goes on where nobody waits any longer, and
/// what it returns is dropped then.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    let interrupted = |_| {
        Err(FetchError::Interrupted {
            what: "an item".into(),
        })
    };
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(interrupted)
}
