//! What a master answers that has no cluster yet: who it is, and that it waits.

use axum::extract::State as Extract;
use axum::routing::get;
use axum::{Json, Router};
use tepui_types::api::master::Introduction;

use super::error::ApiError;
use super::health;
use crate::masters::founding::{Candidacy, INTRODUCTION_PATH};

/// The routes of a candidate.
pub fn router(candidacy: Candidacy) -> Router {
    Router::new()
        .route(INTRODUCTION_PATH, get(introduce))
        .route("/healthz", get(health::healthz))
        .fallback(wait)
        .with_state(candidacy)
}

async fn introduce(Extract(candidacy): Extract<Candidacy>) -> Result<Json<Introduction>, ApiError> {
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
