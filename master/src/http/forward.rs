//! Requests that only the leader can answer, on their way there from any other master.
//!
//! A follower answers what it knows as well as the leader does and passes on the rest, saying so:
//! the answer names the leader in `Tepui-Leader`. It has checked the caller; to the leader it
//! speaks with the masters' own token. A request is passed on once: while leadership moves it is
//! refused with 503, and asked again.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State as Extract};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{self, Stream};
use hyper::upgrade::OnUpgrade;
use tepui_types::wire::agent::LEADER_HEADER;
use tokio::sync::watch;

use crate::Master;
use crate::http::error::ApiError;
use crate::http::{caller, stale};
use crate::proposals::ProposeError;
use crate::raft::Leadership;

/// Names the leader in an answer that came from it, or to whom one should turn.
pub const LEADER: HeaderName = HeaderName::from_static(LEADER_HEADER);
/// Names the master that passed a request on.
pub const FORWARDED_BY: HeaderName = HeaderName::from_static("tepui-forwarded-by");

/// Headers of one connection, not of what is said on it (RFC 9110, section 7.6.1), and those that
/// were this master's to check.
const NOT_PASSED_ON: [HeaderName; 11] = [
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::PROXY_AUTHORIZATION,
    header::HOST,
    header::ORIGIN,
    header::AUTHORIZATION,
    header::COOKIE,
    HeaderName::from_static("keep-alive"),
];

/// Answers here, or passes on.
pub async fn forward(
    Extract(master): Extract<Arc<Master>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let leadership = *master.leadership.borrow();
    let leader = match leadership {
        Leadership::Leader { .. } => return Ok(next.run(request).await),
        Leadership::Follower { leader } => leader,
    };
    if stale::is_wanted() || is_answered_here(request.method(), request.uri().path()) {
        return Ok(next.run(request).await);
    }
    let state = master.view.load();
    let leader = leader.and_then(|leader| state.master(leader));
    let Some(leader) = leader.filter(|_| !request.headers().contains_key(FORWARDED_BY)) else {
        let is_read = stale::may_be(request.method(), request.uri().path());
        return Err(ProposeError::NoLeader { is_read }.into());
    };
    pass_on(&master, &leader.url, request).await
}

/// Whether any master answers this as well as the leader does: what is in the state, what is this
/// master's own, and what masters ask of each other.
fn is_answered_here(method: &Method, path: &str) -> bool {
    let Some(path) = path.strip_prefix("/v1/") else {
        return !path.starts_with("/frameworks/");
    };
    let segments: Vec<_> = path.split('/').collect();
    if let ["masters", "artifacts", _] = segments.as_slice() {
        return true;
    }
    if method != Method::GET && method != Method::HEAD {
        return false;
    }
    matches!(
        segments.as_slice(),
        ["openapi.json"]
            | ["events"]
            | ["services"]
            | ["services", _, _]
            | ["tasks"]
            | ["tasks", _]
            | ["artifacts"]
            | ["artifacts", _]
            | ["masters", _]
            | ["agents", "connect"]
            | ["agents", "streams", _]
    )
}

async fn pass_on(
    master: &Master,
    leader: &str,
    mut request: Request,
) -> Result<Response, ApiError> {
    let is_upgrade = request.headers().contains_key(header::UPGRADE);
    let upgrade = is_upgrade.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut headers = passed_on(&parts.headers);
    // Its text form is ASCII.
    if let Ok(node) = HeaderValue::try_from(master.node.to_string()) {
        headers.insert(FORWARDED_BY, node);
    }
    if let Some(protocol) = parts.headers.get(header::UPGRADE) {
        headers.insert(header::UPGRADE, protocol.clone());
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    let mut request = master
        .peers
        .request(parts.method, leader, path)
        .headers(headers);
    if has_body(&parts.headers) {
        request = request.body(reqwest::Body::wrap_stream(body.into_data_stream()));
    }
    // A leader that is cut off says nothing; that there is another is the sign to ask again.
    let mut leadership = master.leadership.clone();
    let asked = *leadership.borrow_and_update();
    let answer = tokio::select! {
        answer = request.send() => answer,
        () = moved(&mut leadership, asked) => return Err(ProposeError::Unknown.into()),
    };
    let answer = answer.map_err(|error| {
        tracing::warn!(%error, leader, "a request could not be passed on");
        ApiError::Unavailable(format!(
            "the leader at {leader} cannot be reached from here: ask again in a moment"
        ))
    })?;
    if let Some(upgrade) = upgrade
        && answer.status() == StatusCode::SWITCHING_PROTOCOLS
    {
        return Ok(join(upgrade, answer));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = passed_on(answer.headers());
    if let Ok(leader) = HeaderValue::try_from(leader) {
        response.headers_mut().insert(LEADER, leader);
    }
    *response.body_mut() = Body::from_stream(until_moved(answer, leadership, asked));
    Ok(response)
}

/// Joins a caller's connection with the leader's, which both have changed protocols.
fn join(upgrade: OnUpgrade, leader: reqwest::Response) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for name in [header::UPGRADE, header::CONNECTION] {
        if let Some(value) = leader.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    tokio::spawn(async move {
        match tokio::try_join!(async { upgrade.await.map_err(io::Error::other) }, async {
            leader.upgrade().await.map_err(io::Error::other)
        }) {
            Ok((caller, mut leader)) => caller::join(caller, &mut leader).await,
            Err(error) => tracing::debug!(%error, "a connection that was passed on broke off"),
        }
    });
    response
}

/// Returns once leadership is another than it was.
async fn moved(leadership: &mut watch::Receiver<Leadership>, asked: Leadership) {
    if leadership.wait_for(|now| *now != asked).await.is_err() {
        // The log's thread is gone, and the master with it.
        std::future::pending().await
    }
}

/// An answer's body, broken off when the lead moves: whoever reads it goes on elsewhere.
fn until_moved(
    answer: reqwest::Response,
    leadership: watch::Receiver<Leadership>,
    asked: Leadership,
) -> impl Stream<Item = io::Result<Bytes>> {
    let state = Some((answer, leadership));
    stream::unfold(state, move |state| async move {
        let (mut answer, mut leadership) = state?;
        let chunk = tokio::select! {
            chunk = answer.chunk() => chunk.map_err(io::Error::other),
            () = moved(&mut leadership, asked) => Err(io::Error::other("the lead has moved")),
        };
        match chunk {
            Ok(chunk) => chunk.map(|chunk| (Ok(chunk), Some((answer, leadership)))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING)
}

fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut passed_on = headers.clone();
    NOT_PASSED_ON
        .iter()
        .for_each(|name| drop(passed_on.remove(name)));
    passed_on
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn followers_answer_what_they_know_and_pass_on_the_rest() {
        let (get, post) = (&Method::GET, &Method::POST);
        for path in [
            "/",
            "/healthz",
            "/tasks/f1.a.0",
            "/v1/tasks",
            "/v1/tasks/f1.a.0",
            "/v1/events",
            "/v1/masters/connect",
            "/v1/artifacts/sha256:00",
        ] {
            assert!(is_answered_here(get, path), "{path}");
        }
        for path in [
            "/v1/cluster",
            "/v1/agents",
            "/v1/masters",
            "/v1/tasks/f1.a.0/logs/stdout",
            "/v1/frameworks/f1/logs",
            "/frameworks/batch/jobs",
        ] {
            assert!(!is_answered_here(get, path), "{path}");
        }
        assert!(!is_answered_here(post, "/v1/tasks/f1.a.0/kill"));
        assert!(!is_answered_here(post, "/v1/masters"));
        assert!(is_answered_here(&Method::PUT, "/v1/masters/artifacts/x"));
        assert!(!is_answered_here(&Method::PUT, "/v1/artifacts/x"));
    }

    #[test]
    fn what_belongs_to_one_connection_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        headers.insert(
            header::TRANSFER_ENCODING,
            HeaderValue::from_static("chunked"),
        );
        headers.insert("idempotency-key", HeaderValue::from_static("k"));
        let passed_on = passed_on(&headers);
        assert_eq!(passed_on.len(), 1);
        assert!(passed_on.contains_key("idempotency-key"));
        assert!(has_body(&headers));
    }
}
