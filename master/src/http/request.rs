//! What every handler takes from a request: bodies, queries, and who asks.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Path, Query, Request};
use axum::http::header::IF_MATCH;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use tepui_cluster::{Command, Envelope, State};
use tepui_types::Principal;

use crate::Master;
use crate::http::body::Limit;
use crate::http::error::ApiError;
use crate::http::stale;
use crate::proposals::{Committed, Request as Proposal};

/// The largest body of a request to the API or to a framework, in bytes: a turn's worth.
pub const MAX_BODY: usize = 1024 * 1024;
/// How that is said.
pub const BODY: Limit = Limit {
    bytes: MAX_BODY as u64,
    refusal: |bytes| ApiError::TooLarge(format!("a body has at most {bytes} bytes here")),
};

/// A JSON body.
pub struct ApiJson<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        match <Json<T> as FromRequest<S>>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(json_error(&rejection)),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> OptionalFromRequest<S> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, ApiError> {
        if request
            .headers()
            .contains_key(axum::http::header::CONTENT_TYPE)
        {
            <Self as FromRequest<S>>::from_request(request, state)
                .await
                .map(Some)
        } else {
            Ok(None)
        }
    }
}

fn json_error(rejection: &JsonRejection) -> ApiError {
    let text = rejection.body_text();
    match rejection {
        JsonRejection::JsonDataError(_) => ApiError::Unprocessable(text),
        JsonRejection::BytesRejection(_) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            BODY.refuse()
        }
        JsonRejection::MissingJsonContentType(_) => {
            ApiError::BadRequest("send the body with `Content-Type: application/json`".into())
        }
        _ => ApiError::BadRequest(text),
    }
}

/// A query string; unknown parameters are refused by the types themselves.
pub struct ApiQuery<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for ApiQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        query
            .map(|Query(value)| Self(value))
            .map_err(|rejection| ApiError::BadRequest(rejection.body_text()))
    }
}

/// Parameters of the path.
pub struct ApiPath<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for ApiPath<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path: Result<Path<T>, PathRejection> = Path::from_request_parts(parts, state).await;
        path.map(|Path(value)| Self(value))
            .map_err(|rejection| ApiError::BadRequest(rejection.body_text()))
    }
}

/// Who asks for a change, under which key, of which revision.
pub struct Caller {
    /// Who.
    pub principal: Principal,
    /// `Idempotency-Key`.
    pub key: Option<String>,
    /// `If-Match`.
    pub expected_revision: Option<u64>,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let principal = parts.extensions.get::<Principal>().cloned();
        let principal =
            principal.ok_or_else(|| ApiError::Internal("the request has no principal".into()))?;
        Ok(Self {
            principal,
            key: idempotency_key(&parts.headers)?,
            expected_revision: if_match(&parts.headers)?,
        })
    }
}

impl Caller {
    /// Commits a command in this caller's name.
    pub async fn submit(self, master: &Master, body: Command) -> Result<Committed, ApiError> {
        let proposal = Proposal {
            principal: self.principal,
            idempotency_key: self.key,
            expected_revision: self.expected_revision,
            body,
        };
        Ok(master.proposals.submit(proposal).await?)
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match key.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= Envelope::MAX_KEY => Ok(Some(key.to_owned())),
        _ => Err(ApiError::BadRequest(format!(
            "Idempotency-Key has 1 to {} visible ASCII characters",
            Envelope::MAX_KEY
        ))),
    }
}

fn if_match(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(tag) = headers.get(IF_MATCH) else {
        return Ok(None);
    };
    let revision = tag
        .to_str()
        .ok()
        .and_then(|tag| tag.trim_matches('"').parse().ok());
    revision.map(Some).ok_or_else(|| {
        ApiError::BadRequest("If-Match takes the ETag of an earlier answer, such as \"17\"".into())
    })
}

/// The state to answer a read from: at least as new as anything that was
/// answered before the request came, unless the caller takes less.
pub async fn read(master: &Master) -> Result<Arc<State>, ApiError> {
    if !stale::is_wanted() {
        master.proposals.read_index().await?;
    }
    Ok(master.view.load())
}
