//! The leader invites a master that waits to be added; that one then joins by itself, as with `--join`.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use tepui_cluster::Rejection;
use tepui_types::NodeId;
use tepui_types::api::master::{Introduction, Invitation};
use tepui_types::api::problem::Problem;
use tokio::time::timeout;

use super::address;
use super::founding::{INTRODUCTION_PATH, INVITATION_PATH};
use crate::Master;
use crate::http::error::ApiError;

/// How long the master may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Invites the master at this address; gives its id.
pub async fn invite(master: &Master, url: &str) -> Result<NodeId, ApiError> {
    if address::is_unspecified(&master.url) {
        return conflict(format!(
            "this master is listed at {}, where others cannot reach it: start it again with \
             --advertise before others come",
            master.url
        ));
    }
    let request = master.peers.request(Method::GET, url, INTRODUCTION_PATH);
    let answer = answer(url, request).await?;
    let introduction: Introduction = answer.json().await.map_err(|error| {
        let why = format!("{url} does not answer as a master does ({error}): check the address");
        ApiError::Rejected(Rejection::Conflict(why))
    })?;
    check(master, url, &introduction)?;
    let invitation = Invitation {
        cluster: master.view.load().cluster,
        via: master.url.clone(),
    };
    let request = master.peers.request(Method::POST, url, INVITATION_PATH);
    self::answer(url, request.json(&invitation)).await?;
    tracing::info!(node = %introduction.id, url, "invited a master");
    Ok(introduction.id)
}

/// Whether the master waits to be added.
fn check(master: &Master, url: &str, introduction: &Introduction) -> Result<(), ApiError> {
    let state = master.view.load();
    match introduction.cluster {
        Some(cluster) if cluster == state.cluster => conflict(format!(
            "master {} at {url} is in this cluster already",
            introduction.id
        )),
        Some(cluster) => conflict(format!(
            "the master at {url} belongs to another cluster, {cluster}: start it with \
             --await-invitation and an empty folder"
        )),
        None if !introduction.peers.is_empty() => conflict(format!(
            "the master at {url} founds a cluster with {}: start it with --await-invitation \
             instead of --peers",
            introduction.peers.join(", ")
        )),
        None => Ok(()),
    }
}

/// A good answer of the master there.
async fn answer(url: &str, request: RequestBuilder) -> Result<Response, ApiError> {
    let hint = "is a master running there, started with --await-invitation?";
    let away = |why: String| ApiError::Unavailable(format!("{url} {why}: {hint}"));
    let answer = match timeout(ANSWER, request.send()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(away(format!("cannot be reached ({error})"))),
        Err(_) => return Err(away(format!("did not answer in {} s", ANSWER.as_secs()))),
    };
    match answer.status() {
        status if status.is_success() => Ok(answer),
        StatusCode::UNAUTHORIZED => conflict(format!(
            "{url} refuses this cluster's token: give every master the same file with --token-file"
        )),
        status => {
            let problem = timeout(ANSWER, answer.json::<Problem>()).await;
            let why = match problem {
                Ok(Ok(problem)) => problem.detail,
                Ok(Err(_)) | Err(_) => status.to_string(),
            };
            Err(away(format!("answered: {why}")))
        }
    }
}

fn conflict<T>(why: String) -> Result<T, ApiError> {
    Err(ApiError::Rejected(Rejection::Conflict(why)))
}
