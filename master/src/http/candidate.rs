//! What a master answers that has no cluster yet: who it is, and that it waits.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use tepui_types::api::master::{Introduction, Invitation};

use super::error::ApiError;
use super::health;
use crate::http::request::ApiJson;
use crate::identity::Identities;
use crate::masters::candidacy::Candidacy;
use crate::masters::founding::{INTRODUCTION_PATH, INVITATION_PATH};

/// The routes of a candidate.
pub fn router(candidacy: Candidacy, identities: Identities) -> Router {
    Router::new()
        .route(INTRODUCTION_PATH, get(introduce))
        .route(INVITATION_PATH, post(invite))
        .route("/healthz", get(health::healthz))
        .fallback(wait)
        .with_state((candidacy, identities))
}

/// Masters with different tokens would found a cluster in which nobody hears the others.
async fn introduce(
    Extract((candidacy, identities)): Extract<(Candidacy, Identities)>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Result<Json<Introduction>, ApiError> {
    identities.identify_master(&headers, peer.ip())?;
    match candidacy.introduction() {
        Some(introduction) => Ok(Json(Introduction::clone(&introduction))),
        None => Err(wait().await),
    }
}

/// Whoever may speak as a master may say where this one belongs.
async fn invite(
    Extract((candidacy, identities)): Extract<(Candidacy, Identities)>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    ApiJson(invitation): ApiJson<Invitation>,
) -> Result<StatusCode, ApiError> {
    identities.identify_master(&headers, peer.ip())?;
    match candidacy.invite(invitation) {
        true => Ok(StatusCode::ACCEPTED),
        false => Err(wait().await),
    }
}

async fn wait() -> ApiError {
    ApiError::Unavailable(
        "this master is starting: it opens its data, or waits for the peers that it was started \
         with"
            .into(),
    )
}
