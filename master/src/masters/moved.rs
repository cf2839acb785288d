//! Masters whose addresses have changed: how they find each other, and how the state gets to know.
//!
//! One that has moved while the others stayed dials them, and they see by its hello where it is. Where
//! all have moved at once nobody is where the state says; then the list of peers that an operator
//! starts them with tells where to look, and whoever answers there says who it is. As soon as there
//! is a leader each has its address recorded.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use tepui_cluster::Command;
use tepui_types::Principal;
use tepui_types::api::master::{Introduction, JoinRequest};
use tokio::time::timeout;

use super::address;
use crate::Master;
use crate::proposals::Request;
use crate::raft::Leadership;

/// Between two tries: a leader may be elected meanwhile.
const PAUSE: Duration = Duration::from_millis(500);

/// How long one may take to say who it is.
const ANSWER: Duration = Duration::from_secs(2);

/// Looks for the other masters at these addresses for as long as no leader is known.
pub async fn look_for_others(master: Arc<Master>, addresses: Vec<String>) {
    let mut strangers = BTreeSet::new();
    let mut leadership = master.leadership.clone();
    let lacks_leader = |it: &Leadership| matches!(it, Leadership::Follower { leader: None });
    loop {
        if leadership.wait_for(lacks_leader).await.is_err() {
            return;
        }
        for url in addresses.iter().filter(|url| **url != master.url) {
            let Some(introduction) = introduction(&master, url).await else {
                continue;
            };
            let state = master.view.load();
            // One without a cluster is on its way into one.
            let is_stranger = introduction
                .cluster
                .is_some_and(|cluster| cluster != state.cluster);
            let known = state.master(introduction.id);
            if is_stranger {
                if strangers.insert(url.clone()) {
                    tracing::warn!(url, "the master there is of another cluster: check --peers");
                }
            } else if known.is_some_and(|known| known.url != *url) {
                master.log.introduce(introduction.id, url.clone());
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What the master there says of itself; none where nobody answers, or not yet.
async fn introduction(master: &Master, url: &str) -> Option<Introduction> {
    match timeout(ANSWER, master.peers.introduction(url)).await.ok()? {
        Ok(introduction) => Some(introduction),
        Err(error) => {
            tracing::debug!(%error, url, "no master says there who it is");
            None
        }
    }
}

/// Returns once the state has this master's address. One that is not listed has been removed, or
/// belongs to a cluster without a list, and tells nobody.
pub async fn tell(master: &Master) {
    // One that lets the system choose is where it was.
    if address::is_unspecified(&master.url) {
        return;
    }
    loop {
        let state = master.view.load();
        match state.master(master.node) {
            Some(known) if known.url != master.url => {}
            Some(_) | None => return,
        }
        let leadership = *master.leadership.borrow();
        match leadership {
            Leadership::Leader { .. } => {
                let command = Command::AddMaster {
                    master: master.node,
                    url: master.url.clone(),
                };
                let request = Request::new(Principal::Leader, command);
                if let Err(error) = master.proposals.submit(request).await {
                    tracing::debug!(%error, "this master's new address is not recorded yet");
                }
            }
            Leadership::Follower { leader } => {
                let leader = leader.and_then(|leader| state.master(leader));
                if let Some(leader) = leader {
                    let body = JoinRequest {
                        id: master.node,
                        url: master.url.clone(),
                    };
                    let request = master
                        .peers
                        .request(Method::POST, &leader.url, "/v1/masters");
                    if let Err(error) = request.json(&body).send().await {
                        tracing::debug!(%error, "this master's new address is not recorded yet");
                    }
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
