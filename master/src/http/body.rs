//! Bodies of requests: how large they may be, and what happens to one that nobody reads.
//!
//! A connection that is closed while its client still writes is reset, and the answer lost with it.
//! So every request's body passes through [`read_away`]: what a handler leaves of it is read and
//! thrown away while the answer is on its way, whatever the answer is and whoever gave it. What says
//! beforehand that it is too large is refused by [`bound`] before any of it is read.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::{CONNECTION, EXPECT};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::{BodyExt as _, LengthLimitError};
use hyper::body::{Frame, SizeHint};

use crate::http::error::ApiError;

/// The most bytes that are thrown away. A client that reads its answer stops earlier; to one that
/// writes to the end first, this is several times what most artifacts have, and for the master half a
/// second of a fast network.
const AWAY_BYTES: u64 = 512 * 1024 * 1024;
/// The longest time for that: a slow line's megabytes, and no more than one descriptor for so long.
const AWAY_TIME: Duration = Duration::from_secs(30);

/// How large the bodies of a route may be.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// The most bytes.
    pub bytes: u64,
    /// What is said above them.
    pub refusal: fn(u64) -> ApiError,
}

impl Limit {
    /// The refusal of a body above the limit.
    pub fn refuse(&self) -> ApiError {
        (self.refusal)(self.bytes)
    }
}

/// Refuses a body whose length is given and too large. One without a length is counted by whoever
/// reads it.
pub async fn bound(
    State(limit): State<Limit>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if request.body().size_hint().lower() > limit.bytes {
        return Err(limit.refuse());
    }
    Ok(next.run(request).await)
}

/// All of a body. What is above the limit is left unread.
pub async fn whole(body: Body, limit: Limit) -> Result<Bytes, ApiError> {
    let most = usize::try_from(limit.bytes).unwrap_or(usize::MAX);
    to_bytes(body, most).await.map_err(|error| {
        let cause = std::error::Error::source(&error);
        match cause.is_some_and(|cause| cause.is::<LengthLimitError>()) {
            true => limit.refuse(),
            false => ApiError::BadRequest(format!("the body cannot be read: {error}")),
        }
    })
}

/// Reads away what the layers within leave of the body.
pub async fn read_away(request: Request, next: Next) -> Response {
    // Whoever waits for `100 Continue` sends nothing that is not asked for, and to read is to ask.
    let waits = request.headers().contains_key(EXPECT);
    let wrap = |body| {
        Body::new(ReadAway {
            body,
            is_sent: !waits,
            is_over: false,
        })
    };
    let mut response = next.run(request.map(wrap)).await;
    if waits && !response.status().is_success() {
        // Its next bytes would be the body to one who does not wait, and a request to one who does.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

/// A body whose rest is read when it is dropped.
struct ReadAway {
    body: Body,
    /// Whether the client sends it, asked or unasked.
    is_sent: bool,
    is_over: bool,
}

impl HttpBody for ReadAway {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.is_sent = true;
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.is_over = !matches!(frame, Some(Ok(_)));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ReadAway {
    fn drop(&mut self) {
        if !self.is_sent || self.is_over || self.body.is_end_stream() {
            return;
        }
        // Without a runtime the master has stopped, and the connection with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(throw_away(std::mem::take(&mut self.body)));
        }
    }
}

/// When this ends before the body does, the connection is closed.
async fn throw_away(mut body: Body) {
    let all = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await
            && bytes <= AWAY_BYTES
        {
            bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
    };
    if tokio::time::timeout(AWAY_TIME, all).await.is_err() {
        tracing::debug!("a body that nobody reads goes on for too long");
    }
}
