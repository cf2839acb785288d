//! A master whose address has changed tells the others where it is now.

use std::time::Duration;

use reqwest::Method;
use tepui_cluster::Command;
use tepui_types::Principal;
use tepui_types::api::master::JoinRequest;

use super::address;
use crate::Master;
use crate::proposals::Request;
use crate::raft::Leadership;

/// Between two tries: a leader may be elected meanwhile.
const PAUSE: Duration = Duration::from_millis(500);

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
