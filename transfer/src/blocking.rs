//! Work on a thread or task of its own, which may end without a result.

/// The work ended without a result: it panicked, or the runtime is going down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interrupted {
    /// What it was for.
    pub what: String,
}

/// Waits for work that a runtime's thread must not do. It goes on where nobody waits any longer, and
/// what it returns is dropped then.
///
/// # Errors
/// Those of the work, and [`Interrupted`].
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Interrupted> + Send + 'static,
{
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|_| {
        Err(E::from(Interrupted {
            what: "what was asked for".into(),
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_panics_is_interrupted_and_ends_nobody_else() {
        let worked = blocking(|| Ok::<_, Interrupted>(7)).await;
        assert_eq!(worked, Ok(7));
        let panicked = blocking(|| -> Result<(), Interrupted> { panic!("it broke") }).await;
        assert!(panicked.is_err());
    }
}
