//! Artifacts on their way between masters.
//!
//! The leader acknowledges an upload once a majority of masters holds it; the others fetch what the
//! log names and they lack, at once in the background and at the latest when it is asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use reqwest::Method;
use tepui_types::{Digest, NodeId};
use tokio::time::timeout;
use tokio_util::io::ReaderStream;

use super::Artifacts;
use crate::feed::Feed;
use crate::masters::peers::Peers;
use crate::view::View;

/// How long one master may take to answer, or to take a whole artifact over: a gigabyte on a slow
/// network.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes read from disk at once.
const READ_CHUNK: usize = 64 * 1024;

/// Too few masters hold an artifact.
#[derive(Debug, thiserror::Error)]
#[error(
    "only {held} of {masters} masters hold the artifact, and a majority must: are the others up? \
     Send it again in a moment"
)]
pub struct TooFew {
    held: usize,
    masters: usize,
}

/// The other masters.
#[derive(Clone)]
pub struct Source {
    node: NodeId,
    view: View,
    peers: Peers,
    /// One fetch of each at a time: whoever comes meanwhile waits for it.
    fetching: Arc<Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Source {
    /// Those of the state, but this one.
    pub fn new(node: NodeId, view: View, peers: Peers) -> Self {
        Self {
            node,
            view,
            peers,
            fetching: Arc::default(),
        }
    }

    fn others(&self) -> Vec<String> {
        let state = self.view.load();
        let others = state.staying_masters();
        let others = others.filter(|other| other.id != self.node);
        others.map(|other| other.url.clone()).collect()
    }

    /// Looks for an artifact at each of the others, until one has it.
    pub(super) async fn fetch(&self, artifacts: &Artifacts, digest: Digest) {
        let turn = self.fetching().entry(digest).or_default().clone();
        let _turn = turn.lock().await;
        if !artifacts.contains(digest) {
            self.fetch_from_others(artifacts, digest).await;
        }
        self.fetching().remove(&digest);
    }

    fn fetching(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>> {
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch_from_others(&self, artifacts: &Artifacts, digest: Digest) {
        for url in self.others() {
            let request = self.peers.request(Method::GET, &url, &path(digest));
            let Ok(Ok(response)) = timeout(PATIENCE, request.send()).await else {
                continue;
            };
            if !response.status().is_success() {
                continue;
            }
            let put = timeout(PATIENCE, artifacts.put(digest, response.bytes_stream()));
            let Ok(put) = put.await else {
                continue;
            };
            match put {
                Ok(bytes) => {
                    return tracing::info!(%digest, bytes, from = url, "fetched an artifact");
                }
                Err(error) => {
                    tracing::warn!(%error, %digest, from = url, "failed to fetch an artifact")
                }
            }
        }
    }

    /// Gives an artifact that is here to the others; returns once a majority of all has it.
    pub async fn spread(&self, artifacts: &Artifacts, digest: Digest) -> Result<(), TooFew> {
        let others = self.others();
        let masters = others.len() + 1;
        let mut held = 1;
        let mut gifts: FuturesUnordered<_> = others
            .into_iter()
            .map(|url| {
                let (source, artifacts) = (self.clone(), artifacts.clone());
                // One that is slower than the majority still gets it.
                tokio::spawn(async move { source.give(&artifacts, &url, digest).await })
            })
            .collect();
        while held <= masters / 2 {
            match gifts.next().await {
                Some(Ok(true)) => held += 1,
                Some(_) => {}
                None => return Err(TooFew { held, masters }),
            }
        }
        Ok(())
    }

    async fn give(&self, artifacts: &Artifacts, url: &str, digest: Digest) -> bool {
        let Ok(Some((file, size))) = artifacts.open_here(digest).await else {
            return false;
        };
        let bytes = ReaderStream::with_capacity(file, READ_CHUNK);
        let request = self
            .peers
            .request(Method::PUT, url, &path(digest))
            .header(reqwest::header::CONTENT_LENGTH, size)
            .body(reqwest::Body::wrap_stream(bytes));
        match timeout(PATIENCE, request.send()).await {
            Ok(Ok(response)) if response.status().is_success() => true,
            Ok(Ok(response)) => {
                tracing::warn!(%digest, to = url, status = %response.status(), "an artifact was not taken");
                false
            }
            Ok(Err(error)) => {
                tracing::warn!(%digest, to = url, %error, "an artifact could not be given");
                false
            }
            Err(_) => false,
        }
    }
}

/// Fetches whatever the log names and this master lacks; runs until it is dropped. What could not be
/// had is tried again when others come.
pub async fn keep_up(artifacts: Artifacts, view: View, feed: Feed) {
    let mut changes = feed.programs();
    loop {
        // From here on nothing is missed: what came before is in the state.
        changes.mark_unchanged();
        let known: Vec<Digest> = view.load().artifacts.keys().copied().collect();
        for digest in known {
            if !artifacts.contains(digest)
                && let Err(error) = artifacts.open(digest).await
            {
                tracing::warn!(%error, %digest, "an artifact is not to be had");
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn path(digest: Digest) -> String {
    format!("/v1/masters/artifacts/{digest}")
}
