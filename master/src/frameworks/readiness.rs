//! Every master holds the frameworks' components compiled, so that one that comes to lead has them
//! running in milliseconds.

use std::collections::BTreeSet;

use tepui_types::Digest;

use super::Frameworks;
use crate::feed::Feed;
use crate::view::View;

/// Compiles what the state's frameworks are made of, now and whenever one is deployed; runs until it
/// is dropped.
pub async fn keep_ready(frameworks: Frameworks, view: View, feed: Feed) {
    let mut changes = feed.programs();
    let mut ready = BTreeSet::new();
    loop {
        // From here on nothing is missed: what came before is in the state.
        changes.mark_unchanged();
        compile_all(&frameworks, &view, &mut ready).await;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn compile_all(frameworks: &Frameworks, view: &View, ready: &mut BTreeSet<Digest>) {
    let state = view.load();
    let artifacts = state.frameworks.values().map(|known| known.info.artifact);
    let artifacts: BTreeSet<Digest> = artifacts.collect();
    ready.retain(|digest| artifacts.contains(digest));
    for digest in artifacts {
        if ready.contains(&digest) {
            continue;
        }
        match frameworks.validate(digest).await {
            Ok(()) => drop(ready.insert(digest)),
            // Whoever starts the framework here says so louder.
            Err(error) => tracing::debug!(%digest, %error, "a framework is not ready here"),
        }
    }
}
