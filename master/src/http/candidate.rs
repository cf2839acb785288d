//! What a master answers that has no cluster yet: who it is, and that it waits.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, State as Extract};
use axum::http::HeaderMap;
use axum::routing::get;
use axum::{Json, Router};
use tepui_types::api::master::Introduction;

use super::error::ApiError;
use super::health;
use crate::identity::Identities;
use crate::masters::founding::{Candidacy, INTRODUCTION_PATH};

/// The routes of a candidate.
pub fn router(candidacy: Candidacy, identities: Identities) -> Router {
    Router::new()
        .route(INTRODUCTION_PATH, get(introduce))
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
    match candidacy.load_full() {
        Some(introduction) => Ok(Json(Introduction::clone(&introduction))),
        None => Err(wait().await),
    }
}

async fn wait() -> ApiError {
    ApiError::Unavailable(
        "this master is starting: it opens its data, or waits for the peers that it was started \
         with"
            .into(),
    )
}
