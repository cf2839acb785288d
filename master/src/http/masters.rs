//! `/v1/masters`: who replicates the log; and what masters ask of each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State as Extract};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures::future::join_all;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tepui_cluster::{Accepted, Command, Rejection};
use tepui_types::NodeId;
use tepui_types::api::list::Page;
use tepui_types::api::master::{
    Introduction, InviteRequest, InvitedView, JoinRequest, MasterRole, MasterView,
};
use tepui_types::api::problem::Problem;
use tepui_types::wire::peer::UPGRADE;
use tokio::time::timeout;

use crate::Master;
use crate::agents::{check_upgrade, switching};
use crate::http::error::ApiError;
use crate::http::request::{ApiJson, ApiPath, ApiQuery, Caller, read};
use crate::masters::{address, image, invitation, link};
use crate::raft::Leadership;

/// How long a master may take to say of which release it is: the list does not wait for who hangs.
const RELEASE: Duration = Duration::from_millis(500);

/// Lists masters by id.
#[utoipa::path(get, path = "/v1/masters", tag = "masters",
    responses((status = 200, body = Page<MasterView>), (status = 503, body = Problem)))]
pub async fn list(
    Extract(master): Extract<Arc<Master>>,
) -> Result<Json<Page<MasterView>>, ApiError> {
    let state = read(&master).await?;
    let members = master.log.members().await?;
    let leads = matches!(*master.leadership.borrow(), Leadership::Leader { .. });
    let active = members.progress.iter().filter(|known| known.active);
    let releases = releases(&master, active.map(|known| known.id)).await;
    let items: Vec<_> = state
        .masters
        .values()
        .map(|record| {
            let progress = members.progress.iter().find(|known| known.id == record.id);
            let matched = progress.map_or(0, |progress| progress.matched);
            let role = if record.id == master.node && leads {
                MasterRole::Leader
            } else if record.is_leaving {
                MasterRole::Leaving
            } else if members.voters.contains(&record.id) {
                MasterRole::Voter
            } else if members.learners.contains(&record.id) {
                MasterRole::Learner
            } else {
                MasterRole::Joining
            };
            MasterView {
                id: record.id,
                url: record.url.clone(),
                role,
                active: progress.is_some_and(|progress| progress.active),
                matched,
                behind: members.applied.saturating_sub(matched),
                clock_ahead_ms: members.clocks.get(&record.id).copied(),
                state_agrees: progress.and_then(|progress| progress.state_agrees),
                version: releases.get(&record.id).cloned(),
                revision: record.revision,
            }
        })
        .collect();
    Ok(Json(Page {
        total: Some(items.len() as u64),
        items,
        next: None,
        index: state.index,
    }))
}

/// The releases of these masters, as far as they answer at once.
async fn releases(master: &Master, ids: impl Iterator<Item = NodeId>) -> BTreeMap<NodeId, String> {
    let state = master.view.load();
    let asked = ids.map(async |id| {
        if id == master.node {
            return Some((id, env!("CARGO_PKG_VERSION").to_owned()));
        }
        let introduction = master.peers.introduction(&state.master(id)?.url);
        let introduction = timeout(RELEASE, introduction).await.ok()?.ok()?;
        Some((id, introduction.version?))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Takes a master in; it asks for this itself when it is started with `--join`.
#[utoipa::path(post, path = "/v1/masters", tag = "masters",
    request_body = JoinRequest,
    responses(
        (status = 201, description = "It is listed, and becomes a learner, then a voter"),
        (status = 507, description = "The cluster has its most", body = Problem),
    ))]
pub async fn add(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiJson(request): ApiJson<JoinRequest>,
) -> Result<StatusCode, ApiError> {
    let url = check_join(&master, &request).await?;
    let command = Command::AddMaster {
        master: request.id,
        url,
    };
    change(&master, caller, command).await?;
    Ok(StatusCode::CREATED)
}

/// Invites a master that waits to be added: it then joins by itself.
#[utoipa::path(post, path = "/v1/masters/invitations", tag = "masters",
    request_body = InviteRequest,
    responses(
        (status = 202, description = "It was invited; the list says when it has come", body = InvitedView),
        (status = 409, description = "It does not wait to be added", body = Problem),
        (status = 503, description = "It does not answer", body = Problem),
    ))]
pub async fn invite(
    Extract(master): Extract<Arc<Master>>,
    ApiJson(request): ApiJson<InviteRequest>,
) -> Result<(StatusCode, Json<InvitedView>), ApiError> {
    let url = address::parse(&request.url).map_err(ApiError::Unprocessable)?;
    let id = invitation::invite(&master, &url).await?;
    Ok((StatusCode::ACCEPTED, Json(InvitedView { id, url })))
}

/// Removes a master for good: it leaves the group and ends.
#[utoipa::path(delete, path = "/v1/masters/{id}", tag = "masters",
    params(("id" = NodeId, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn remove(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiPath(id): ApiPath<NodeId>,
) -> Result<StatusCode, ApiError> {
    change(&master, caller, Command::RemoveMaster { master: id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The address of a master that may come in.
async fn check_join(master: &Master, request: &JoinRequest) -> Result<String, ApiError> {
    if request.id == NodeId(0) {
        return Err(ApiError::Unprocessable("a master's id is not 0".into()));
    }
    let url = address::parse(&request.url).map_err(ApiError::Unprocessable)?;
    let conflict = |why: String| Err(ApiError::Rejected(Rejection::Conflict(why)));
    if address::is_unspecified(&master.url) {
        return conflict(format!(
            "this master is listed at {}, where others cannot reach it: start it again with \
             --advertise before others join",
            master.url
        ));
    }
    let state = master.view.load();
    let members = master.log.members().await?;
    let is_active = |id| {
        members
            .progress
            .iter()
            .any(|known| known.id == id && known.active)
    };
    let same = state
        .staying_masters()
        .find(|known| known.url == url && known.id != request.id);
    match same {
        Some(same) if is_active(same.id) => conflict(format!(
            "master {} runs at {url}: give the new one another address, or stop that one first",
            same.id
        )),
        _ => Ok(url),
    }
}

async fn change(master: &Master, caller: Caller, command: Command) -> Result<(), ApiError> {
    match caller.submit(master, command).await?.outcome? {
        Accepted::Master { .. } => Ok(()),
        other => Err(ApiError::Internal(format!("unexpected outcome {other:?}"))),
    }
}

/// Hands the lead to this master.
#[utoipa::path(post, path = "/v1/masters/{id}/lead", tag = "masters",
    params(("id" = NodeId, Path)),
    responses(
        (status = 202, description = "It is asked to; the list says when it leads"),
        (status = 404, body = Problem),
        (status = 409, description = "It does not vote", body = Problem),
    ))]
pub async fn lead(
    Extract(master): Extract<Arc<Master>>,
    ApiPath(id): ApiPath<NodeId>,
) -> Result<StatusCode, ApiError> {
    if read(&master).await?.master(id).is_none() {
        return Err(ApiError::NotFound(format!("there is no master {id}")));
    }
    if !master.log.members().await?.voters.contains(&id) {
        return Err(ApiError::Rejected(Rejection::Conflict(format!(
            "master {id} does not vote yet, so it cannot lead"
        ))));
    }
    master.log.transfer(id).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Who this is, for a master that founds or joins a cluster.
pub async fn introduce(Extract(master): Extract<Arc<Master>>) -> Json<Introduction> {
    let state = master.view.load();
    Json(Introduction {
        id: master.node,
        cluster: Some(state.cluster),
        peers: Vec::new(),
        members: state.staying_masters().map(|master| master.id).collect(),
        version: Some(env!("CARGO_PKG_VERSION").into()),
    })
}

/// Which image.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageQuery {
    index: Option<u64>,
}

/// An image of the state, for a master that is too far behind.
pub async fn send_image(
    Extract(master): Extract<Arc<Master>>,
    ApiQuery(query): ApiQuery<ImageQuery>,
) -> Result<Response, ApiError> {
    let sent = image::send(master.storage.clone(), master.log.lend_image(), query.index);
    let Some(pieces) = sent.map_err(|error| ApiError::Internal(error.to_string()))? else {
        return Err(ApiError::Gone(
            "this image was replaced by a newer one".into(),
        ));
    };
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, Body::from_stream(pieces)).into_response())
}

/// A master's connection; it speaks, and this one listens.
pub async fn connect(
    Extension(master): Extension<Arc<Master>>,
    mut request: Request,
) -> Result<Response, ApiError> {
    check_upgrade(&request, UPGRADE)?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => link::accept(master, TokioIo::new(connection)).await,
            Err(error) => tracing::debug!(%error, "a master's upgrade failed"),
        }
    });
    Ok(switching(UPGRADE))
}
