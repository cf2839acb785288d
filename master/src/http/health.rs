//! `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;

use axum::extract::State as Extract;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::Master;
use crate::http::error::ApiError;

/// The process lives.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// Requests can be answered: a leader is known and its state is applied.
pub async fn readyz(Extract(master): Extract<Arc<Master>>) -> Result<&'static str, ApiError> {
    master.proposals.read_index().await?;
    Ok("ready\n")
}

/// Prometheus's text format.
pub async fn metrics(Extract(master): Extract<Arc<Master>>) -> Result<Response, ApiError> {
    let text = master
        .metrics
        .encode(&master)
        .map_err(|e| ApiError::Internal(e.to_string()))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
