//! Filling sandboxes before their tasks start, with what these are to find there.

use std::sync::Arc;

use tepui_fetch::{Extract, FetchConfig, Fetcher, Item, Progress, Request, Source};
use tepui_types::task::reason;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::{Bytes, Fetch, Reason};

use crate::error::AgentError;
use crate::fetcher::Fetcher as Artifacts;
use crate::sandbox::Layout;

/// Fills them.
#[derive(Debug)]
pub struct Sandboxes {
    layout: Layout,
    artifacts: Arc<Artifacts>,
    fetcher: Fetcher,
    /// What a task may have that asks for no disk.
    most: u64,
}

impl Sandboxes {
    /// Takes up what earlier tasks have left for later ones.
    ///
    /// # Errors
    /// When the folder of that cannot be used.
    pub async fn open(
        layout: &Layout,
        config: FetchConfig,
        artifacts: Arc<Artifacts>,
    ) -> Result<Self, AgentError> {
        let most = config.max_download_bytes;
        let fetcher = Fetcher::open(&layout.fetched(), config).await;
        let fetcher = fetcher.map_err(|error| AgentError::Containers(error.into()))?;
        Ok(Self {
            layout: layout.clone(),
            artifacts,
            fetcher,
            most,
        })
    }

    /// Fills a task's: with all that it fetches, or nothing.
    ///
    /// # Errors
    /// With what cannot be had, and why.
    pub async fn fill(
        &self,
        launch: &TaskLaunch,
        progress: impl Fn(Reason) + Send + Sync,
    ) -> Result<(), Reason> {
        let fetch = &launch.spec.fetch;
        if fetch.is_empty() {
            return Ok(());
        }
        let mut items = Vec::with_capacity(fetch.len());
        for one in fetch {
            items.push(self.item(one).await?);
        }
        let sandbox = self.layout.sandbox(&launch.task);
        let made = tokio::fs::create_dir_all(&sandbox).await;
        made.map_err(|error| {
            let message = format!("the sandbox could not be made: {error}");
            Reason::new(reason::FETCH_FAILED, message)
        })?;
        let limit = match launch.resources.disk.0 {
            0 => self.most,
            disk => disk,
        };
        let request = Request {
            sandbox,
            items,
            owner: None,
            limit,
        };
        // Of one that does not answer nothing more may come.
        let from = fetch.iter().map(|one| one.from.as_str());
        let asked = format!(
            "filling the sandbox from {}",
            from.collect::<Vec<_>>().join(", ")
        );
        progress(Reason::new(reason::PREPARING, asked));
        let filled = self
            .fetcher
            .fetch(&request, |far| progress(said(&far)))
            .await;
        match filled {
            Ok(filled) => {
                let bytes = Bytes(filled.bytes);
                tracing::debug!(task = %launch.task, %bytes, "the sandbox is filled");
                Ok(())
            }
            Err(error) => {
                let code = error.code();
                Err(Reason::new(
                    code,
                    format!("{:#}", anyhow::Error::from(error)),
                ))
            }
        }
    }

    async fn item(&self, fetch: &Fetch) -> Result<Item, Reason> {
        let source = match fetch.artifact() {
            Some(digest) => {
                self.artifacts.fetch(digest).await?;
                Source::Local(self.layout.artifact(&digest))
            }
            None => Source::Url(fetch.from.clone()),
        };
        let extract = match fetch.extract {
            true => Extract::Required,
            false => Extract::None,
        };
        Ok(Item {
            sha256: fetch.digest.map(|digest| digest.hex()),
            destination: fetch.place().map(Into::into),
            extract,
            executable: fetch.executable,
            cache: fetch.cache,
            ..Item::new(source)
        })
    }
}

/// How far it is, for people.
fn said(progress: &Progress) -> Reason {
    let done = Bytes(progress.done);
    let message = match progress.total {
        Some(total) => format!("filling the sandbox: {done} of {}", Bytes(total)),
        None => format!("filling the sandbox: {done}"),
    };
    Reason::new(reason::PREPARING, message)
}
