//! Errors of the HTTP API: each kind's status and code, in one place.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tepui_cluster::Rejection;
use tepui_types::api::problem::{self, Problem};

use crate::agents::streams::StreamError;
use crate::artifacts::ArtifactError;
use crate::backup::BackupError;
use crate::frameworks::compiler::CompileError;
use crate::frameworks::{ComponentError, RequestError};
use crate::identity::IdentityError;
use crate::proposals::ProposeError;

/// Seconds after which a caller that was turned away may try again.
const RETRY_AFTER_SECONDS: &str = "1";

/// What an HTTP caller can be told.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The request is not as it must be.
    #[error("{0}")]
    BadRequest(String),
    /// What it holds cannot be done.
    #[error("{0}")]
    Unprocessable(String),
    /// The body is larger than what is taken here.
    #[error("{0}")]
    TooLarge(String),
    /// The Host or Origin header is not one of ours.
    #[error("{0}")]
    Forbidden(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// There is, but not with this method.
    #[error("{0}")]
    MethodNotAllowed(String),
    /// What was asked for is no longer kept.
    #[error("{0}")]
    Gone(String),
    /// Someone else's answer did not come in time.
    #[error("{0}")]
    Unavailable(String),
    /// The caller is nobody.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The command was not taken, or its fate is not known.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The command was refused.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The artifact store refused.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// There is no backup now.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The bytes are not a framework.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// The framework did not answer.
    #[error(transparent)]
    Framework(#[from] RequestError),
    /// The agent did not send, or refused.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// Our own fault.
    #[error("the master failed: {0}")]
    Internal(String),
}

impl ApiError {
    /// Status, code and title.
    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BadRequest(_) => (
                StatusCode::BAD_REQUEST,
                "bad-request",
                "The request is malformed",
            ),
            Self::Unprocessable(_) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid",
                "The request cannot be done",
            ),
            Self::TooLarge(_) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                "The body is too large",
            ),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden", "Not from there"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not-found", "Not found"),
            Self::MethodNotAllowed(_) => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "Wrong method",
            ),
            Self::Gone(_) => (StatusCode::GONE, "gone", "No longer kept"),
            Self::Unavailable(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "Not available now",
            ),
            Self::Identity(_) => (
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "The caller is not known",
            ),
            Self::Propose(error) => propose_kind(error),
            Self::Rejected(rejection) => rejection_kind(rejection),
            Self::Artifact(error) => artifact_kind(error),
            Self::Backup(BackupError::Missing(_)) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "Not available now",
            ),
            Self::Backup(BackupError::Artifact(error)) => artifact_kind(error),
            Self::Component(error) => component_kind(error),
            Self::Framework(error) => framework_kind(error),
            Self::Stream(error) => stream_kind(error),
            Self::Internal(_) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "The master failed",
            ),
        }
    }
}

fn propose_kind(error: &ProposeError) -> (StatusCode, &'static str, &'static str) {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    match error {
        ProposeError::NotLeader { .. } => (status, "not-leader", "This master does not lead"),
        ProposeError::NoLeader { .. } => (status, "no-leader", "No master leads now"),
        ProposeError::QueueFull => (status, "overloaded", "The master has too much to do"),
        ProposeError::Unknown => (status, "outcome-unknown", "The outcome is not known"),
        ProposeError::Stopped => (status, "stopping", "The master is stopping"),
    }
}

fn rejection_kind(rejection: &Rejection) -> (StatusCode, &'static str, &'static str) {
    match rejection {
        Rejection::NotFound(_) => (StatusCode::NOT_FOUND, "not-found", "Not found"),
        Rejection::Conflict(_) => (StatusCode::CONFLICT, "conflict", "In conflict"),
        Rejection::Revision { .. } => (
            StatusCode::PRECONDITION_FAILED,
            "revision",
            "Changed in the meantime",
        ),
        Rejection::Fenced(_) => (StatusCode::CONFLICT, "fenced", "Overtaken"),
        Rejection::Limit(_) => (
            StatusCode::INSUFFICIENT_STORAGE,
            "limit",
            "A limit is reached",
        ),
        Rejection::KeyReused => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "key-reused",
            "The idempotency key was used",
        ),
        Rejection::Foreign(_) => (StatusCode::CONFLICT, "foreign", "Not of this cluster"),
        Rejection::Gone(_) => (StatusCode::GONE, "gone", "Given up for good"),
    }
}

fn artifact_kind(error: &ArtifactError) -> (StatusCode, &'static str, &'static str) {
    match error {
        ArtifactError::WrongDigest { .. } => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "wrong-digest",
            "The bytes are others",
        ),
        ArtifactError::TooLarge { .. } => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "The artifact is too large",
        ),
        ArtifactError::Cut { .. } => (
            StatusCode::BAD_REQUEST,
            "upload-cut",
            "The upload was cut off",
        ),
        ArtifactError::Busy => (
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            "Too many uploads",
        ),
        ArtifactError::Damaged { .. } | ArtifactError::Io { .. } => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The artifact store failed",
        ),
    }
}

fn stream_kind(error: &StreamError) -> (StatusCode, &'static str, &'static str) {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    match error {
        StreamError::Refused(reason) => match reason.code.as_str() {
            "file-missing" | "task-gone" => (StatusCode::NOT_FOUND, "not-found", "Not found"),
            "task-ended" => (StatusCode::CONFLICT, "task-ended", "The task has ended"),
            "too-many-streams" => (unavailable, "overloaded", "The agent has too much to do"),
            _ => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "refused",
                "The agent cannot do it",
            ),
        },
        StreamError::NotConnected(_)
        | StreamError::Timeout
        | StreamError::Broken
        | StreamError::Missed(_) => (unavailable, "unavailable", "Not available now"),
        StreamError::TooMany => (unavailable, "overloaded", "The master has too much to do"),
        StreamError::Random => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The master failed",
        ),
    }
}

fn component_kind(error: &ComponentError) -> (StatusCode, &'static str, &'static str) {
    match error {
        ComponentError::Unknown(_)
        | ComponentError::Refused(_)
        | ComponentError::Compile(
            CompileError::Refused(_) | CompileError::OverLimit(_) | CompileError::Crashed(_),
        ) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "not-a-framework",
            "The artifact cannot run as a framework",
        ),
        ComponentError::Compile(CompileError::NoRoom) => (
            StatusCode::INSUFFICIENT_STORAGE,
            "disk-full",
            "The master's disk is full",
        ),
        ComponentError::Read(..)
        | ComponentError::Keep(_)
        | ComponentError::Load(_)
        | ComponentError::Compile(
            CompileError::Damaged | CompileError::Start { .. } | CompileError::Answer(_),
        ) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The artifact could not be compiled",
        ),
        ComponentError::Stopping => propose_kind(&ProposeError::Stopped),
    }
}

fn framework_kind(error: &RequestError) -> (StatusCode, &'static str, &'static str) {
    match error {
        RequestError::Gone => (StatusCode::NOT_FOUND, "not-found", "Not found"),
        RequestError::NotRunning { .. } => (
            StatusCode::SERVICE_UNAVAILABLE,
            "not-running",
            "The framework takes no requests now",
        ),
        RequestError::Busy => (
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            "The framework has too much to do",
        ),
        RequestError::TooLarge => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "The body is too large",
        ),
        RequestError::Trapped(_) => (
            StatusCode::BAD_GATEWAY,
            "framework-failed",
            "The framework failed",
        ),
        RequestError::Deadline(_) => (
            StatusCode::GATEWAY_TIMEOUT,
            "framework-too-slow",
            "The framework took too long",
        ),
        RequestError::BadAnswer(_) => (
            StatusCode::BAD_GATEWAY,
            "bad-answer",
            "The framework's answer is malformed",
        ),
        RequestError::Propose(error) => propose_kind(error),
        RequestError::Rejected(rejection) => rejection_kind(rejection),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code, title) = self.kind();
        let error: &dyn std::error::Error = &self;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            // Ordinary while masters come and go, and as many as there are callers.
            tracing::debug!(code, error, "a request must come again");
        } else if status.is_server_error() {
            tracing::warn!(code, error, "request failed");
        }
        let problem = Problem {
            kind: format!("tag:tepui,2026:{code}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: self.to_string(),
            code: code.to_owned(),
        };
        let mut response = (status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(problem::CONTENT_TYPE),
        );
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from_static(RETRY_AFTER_SECONDS),
            );
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
