//! `?stale` on reads: what this master has, without asking a majority or the leader.
//!
//! For those who look at a cluster that has no majority. The answer says how old it may be:
//! `Tepui-Index` is the log index that was applied here, `Tepui-Age-Ms` how long ago this master
//! last heard from a leader; if it has heard none since it began, how long ago the last command was that
//! it has.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State as Extract};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderName, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::Response;
use tepui_types::api::stale::{AGE_HEADER, INDEX_HEADER, PARAMETER};

use crate::Master;

tokio::task_local! {
    /// Set while a request is answered that takes what this master has.
    static WANTED: ();
}

/// Whether the request that is being answered takes what this master has.
pub fn is_wanted() -> bool {
    WANTED.try_with(|()| ()).is_ok()
}

/// Whether a request could take what this master has.
pub fn may_be(method: &Method, path: &str) -> bool {
    [Method::GET, Method::HEAD].contains(method) && path.starts_with("/v1/")
}

/// Takes `stale` out of the query, answers, and says how old the answer may be.
pub async fn allow(
    Extract(master): Extract<Arc<Master>>,
    mut request: Request,
    next: Next,
) -> Response {
    let may_be = may_be(request.method(), request.uri().path());
    let Some(uri) = without_parameter(request.uri()).filter(|_| may_be) else {
        return next.run(request).await;
    };
    *request.uri_mut() = uri;
    let (index, age) = (master.view.applied(), age(&master));
    let mut response = WANTED.scope((), next.run(request)).await;
    let headers = response.headers_mut();
    let index = HeaderValue::from(index);
    headers.insert(HeaderName::from_static(INDEX_HEADER), index);
    let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    headers.insert(HeaderName::from_static(AGE_HEADER), age.into());
    response
}

/// How old what this master has may be. One that has heard no leader since it began knows only when the
/// last command was that it has: it is no older than that, and may be as new as its master's end.
fn age(master: &Master) -> Duration {
    let since_command = || {
        let now = master.clock.time_of_day();
        Duration::from_millis(now.millis_since(master.view.load().now))
    };
    master.log.silence().unwrap_or_else(since_command)
}

/// The address without `stale`; none if that is not in it.
fn without_parameter(uri: &Uri) -> Option<Uri> {
    let query = uri.query()?;
    let is_stale = |part: &&str| part.split('=').next() == Some(PARAMETER);
    query.split('&').find(is_stale)?;
    let rest: Vec<_> = query.split('&').filter(|part| !is_stale(part)).collect();
    let path = match rest.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{}", uri.path(), rest.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_is_found_and_taken_out() {
        let rest = |uri: &'static str| {
            without_parameter(&Uri::from_static(uri)).map(|uri| uri.to_string())
        };
        assert_eq!(rest("/v1/agents?stale"), Some("/v1/agents".into()));
        assert_eq!(
            rest("/v1/tasks?limit=3&stale=1&page=x"),
            Some("/v1/tasks?limit=3&page=x".into())
        );
        for uri in ["/v1/agents", "/v1/agents?stalemate"] {
            assert_eq!(rest(uri), None, "{uri}");
        }
    }

    #[test]
    fn only_what_masters_answer_themselves_may_be_stale() {
        assert!(may_be(&Method::GET, "/v1/agents"));
        assert!(!may_be(&Method::POST, "/v1/agents"));
        assert!(!may_be(&Method::GET, "/"));
        assert!(!may_be(&Method::GET, "/frameworks/batch/jobs"));
    }
}
