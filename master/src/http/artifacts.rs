//! `/v1/artifacts`: bytes by digest.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State as Extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tepui_cluster::state::artifacts::Artifact;
use tepui_cluster::{Accepted, Command};
use tepui_types::Digest;
use tepui_types::api::artifact::ArtifactView;
use tepui_types::api::list::Page;
use tepui_types::api::problem::Problem;
use tokio::fs::File;
use tokio_util::io::ReaderStream;

use crate::Master;
use crate::http::error::ApiError;
use crate::http::page::{self, Paging};
use crate::http::request::{ApiPath, ApiQuery, Caller, read};

/// Bytes read from disk at once for a download.
const READ_CHUNK: usize = 64 * 1024;

/// Parameters of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    limit: Option<usize>,
    page: Option<String>,
}

/// Lists artifacts by digest.
#[utoipa::path(get, path = "/v1/artifacts", tag = "artifacts",
    params(("limit" = Option<usize>, Query), ("page" = Option<String>, Query)),
    responses((status = 200, body = Page<ArtifactView>), (status = 400, body = Problem)))]
pub async fn list(
    Extract(master): Extract<Arc<Master>>,
    ApiQuery(query): ApiQuery<ListQuery>,
) -> Result<Json<Page<ArtifactView>>, ApiError> {
    use std::ops::Bound;

    let paging = Paging::new(query.limit, query.page);
    let limit = paging.limit()?;
    let first = paging
        .after::<Digest>()?
        .map_or(Bound::Unbounded, Bound::Excluded);
    let state = read(&master).await?;
    let artifacts = state.artifacts.range((first, Bound::Unbounded));
    let views = artifacts
        .take(limit + 1)
        .map(|(_, artifact)| view(artifact))
        .collect();
    let (items, next) = page::cut(views, limit, |artifact: &ArtifactView| artifact.digest);
    let total = Some(state.artifacts.len() as u64);
    Ok(Json(Page {
        items,
        next,
        index: state.index,
        total,
    }))
}

/// Stores the body, if it has this digest.
#[utoipa::path(put, path = "/v1/artifacts/{digest}", tag = "artifacts",
    params(("digest" = Digest, Path)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, body = ArtifactView),
        (status = 200, description = "It was stored before", body = ArtifactView),
        (status = 413, body = Problem),
        (status = 422, description = "The body has another digest", body = Problem),
    ))]
pub async fn put(
    Extract(master): Extract<Arc<Master>>,
    ApiPath(digest): ApiPath<Digest>,
    caller: Caller,
    body: Body,
) -> Result<Response, ApiError> {
    // Also of a known artifact: whoever sends it learns that it was sent whole.
    let size = master
        .artifacts
        .put(digest, body.into_data_stream())
        .await?;
    let spread = master.source.spread(&master.artifacts, digest).await;
    spread.map_err(|error| ApiError::Unavailable(error.to_string()))?;
    let command = Command::RecordArtifact { digest, size };
    let accepted = caller.submit(&master, command).await?.outcome?;
    let known = matches!(accepted, Accepted::Artifact { known: true, .. });
    let state = master.view.load();
    let recorded = state.artifacts.get(&digest);
    let recorded =
        recorded.ok_or_else(|| ApiError::Internal(format!("artifact {digest} is not recorded")))?;
    let status = if known {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok((status, Json(view(recorded))).into_response())
}

/// Gives the bytes back.
#[utoipa::path(get, path = "/v1/artifacts/{digest}", tag = "artifacts",
    params(("digest" = Digest, Path)),
    responses(
        (status = 200, content_type = "application/octet-stream", body = Vec<u8>),
        (status = 404, body = Problem),
    ))]
pub async fn get(
    Extract(master): Extract<Arc<Master>>,
    ApiPath(digest): ApiPath<Digest>,
) -> Result<Response, ApiError> {
    let recorded = read(&master).await?.artifacts.contains_key(&digest);
    let file = if recorded {
        master.artifacts.open(digest).await?
    } else {
        None
    };
    match file {
        Some(file) => Ok(stream(digest, file)),
        // Whoever has it may only be away for a moment.
        None if recorded => Err(ApiError::Unavailable(format!(
            "no master that can be reached has artifact {digest} now: ask again in a moment"
        ))),
        None => Err(ApiError::NotFound(format!("there is no artifact {digest}"))),
    }
}

/// What is stored here, for another master; recorded or not.
pub async fn get_here(
    Extract(master): Extract<Arc<Master>>,
    ApiPath(digest): ApiPath<Digest>,
) -> Result<Response, ApiError> {
    let file = master.artifacts.open_here(digest).await?;
    let file = file.ok_or_else(|| ApiError::NotFound(format!("{digest} is not stored here")))?;
    Ok(stream(digest, file))
}

/// Stores what another master gives; the leader records it.
pub async fn put_here(
    Extract(master): Extract<Arc<Master>>,
    ApiPath(digest): ApiPath<Digest>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let body = body.into_data_stream();
    master.artifacts.put(digest, body).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn stream(digest: Digest, (file, size): (File, u64)) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, size.to_string()),
        (header::ETAG, format!("\"{}\"", digest.hex())),
        // The name says what the bytes are, for ever.
        (
            header::CACHE_CONTROL,
            "private, max-age=31536000, immutable".to_owned(),
        ),
    ];
    let stream = ReaderStream::with_capacity(file, READ_CHUNK);
    (headers, Body::from_stream(stream)).into_response()
}

fn view(artifact: &Artifact) -> ArtifactView {
    ArtifactView {
        digest: artifact.digest,
        size: artifact.size,
        created_at: artifact.created_at,
        created_by: artifact.created_by.to_string(),
        revision: artifact.revision,
    }
}
