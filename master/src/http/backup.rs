//! `/v1/backup`: the whole cluster as one archive.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State as Extract;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tepui_types::api::problem::Problem;

use crate::Master;
use crate::backup;
use crate::http::error::ApiError;
use crate::http::request::read;

/// Sends a backup of the state and all artifacts, as a tar archive that `tepui-master restore`
/// takes. An answer that breaks off is no backup.
#[utoipa::path(get, path = "/v1/backup", tag = "cluster",
    responses(
        (status = 200, content_type = "application/x-tar", body = Vec<u8>),
        (status = 503, description = "An artifact cannot be had now", body = Problem),
    ))]
pub async fn send(Extract(master): Extract<Arc<Master>>) -> Result<Response, ApiError> {
    let state = read(&master).await?;
    let archive = backup::archive(state, &master.artifacts).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/x-tar"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"tepui-backup.tar\"",
        ),
    ];
    Ok((headers, Body::from_stream(archive)).into_response())
}
