//! The door of the HTTP API: who may speak to it, and from where.
//!
//! Host and Origin are checked on every request, loopback included: a web page
//! on the reader's own machine can reach a loopback port, also through a name
//! of its own that it lets point there, and must not drive a cluster.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri};
use axum::middleware::Next;
use axum::response::Response;

use crate::Master;
use crate::http::error::ApiError;

/// What masters say to each other: whoever may say it can break the log.
const FOR_MASTERS: [&str; 3] = [
    "/v1/masters/connect",
    "/v1/masters/image",
    "/v1/masters/artifacts/",
];

/// Lets a request in, with its principal, or turns it away.
pub async fn guard(
    State(master): State<Arc<Master>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let host = check_host(request.headers(), request.uri(), &master.url)?;
    check_origin(request.headers(), &host)?;
    let is_for_masters = FOR_MASTERS
        .iter()
        .any(|path| request.uri().path().starts_with(path));
    let principal = match is_for_masters {
        true => master
            .identities
            .identify_master(request.headers(), peer.ip())?,
        false => master.identities.identify(request.headers(), peer.ip())?,
    };
    request.extensions_mut().insert(principal);
    Ok(next.run(request).await)
}

/// A host that no stranger's name service can point here: an address,
/// `localhost`, or the name by which the operator has said that this master is
/// reached.
fn check_host(headers: &HeaderMap, uri: &Uri, url: &str) -> Result<Authority, ApiError> {
    let named = headers.get(HOST).and_then(|host| host.to_str().ok());
    let authority: Option<Authority> = match (named, uri.authority()) {
        (Some(host), _) => host.parse().ok(),
        (None, authority) => authority.cloned(),
    };
    let Some(authority) = authority else {
        return Err(ApiError::BadRequest(
            "the request has no valid Host header".into(),
        ));
    };
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let is_ours = url
        .strip_prefix("http://")
        .is_some_and(|ours| ours.eq_ignore_ascii_case(authority.as_str()));
    if is_ours || host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok() {
        return Ok(authority);
    }
    Err(ApiError::Forbidden(format!(
        "`{host}` is not a name of this master: use its address, localhost, or the name that it is \
         started with (--advertise)"
    )))
}

fn check_origin(headers: &HeaderMap, host: &Authority) -> Result<(), ApiError> {
    // A picture or a script of another site comes without an Origin, and a
    // framework's page may change something when it is read. Links may lead here.
    let says = |name: &str, value: &str| headers.get(name).is_some_and(|said| said == value);
    if says("sec-fetch-site", "cross-site") && !says("sec-fetch-mode", "navigate") {
        return Err(other_origin());
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let ours = [format!("http://{host}"), format!("https://{host}")];
    match origin.to_str() {
        Ok(origin) if ours.iter().any(|ours| ours.eq_ignore_ascii_case(origin)) => Ok(()),
        _ => Err(other_origin()),
    }
}

fn other_origin() -> ApiError {
    ApiError::Forbidden("pages of other origins may not speak to this master".to_owned())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn only_addresses_localhost_and_its_own_name_are_hosts() {
        const OURS: &str = "http://master-1:5050";
        let uri = Uri::from_static("/");
        for host in [
            "127.0.0.1:5050",
            "localhost:1",
            "[::1]:5050",
            "192.168.0.7",
            "Master-1:5050",
        ] {
            assert!(
                check_host(&headers(&[(HOST, host)]), &uri, OURS).is_ok(),
                "{host}"
            );
        }
        for host in [
            "evil.example:5050",
            "localhost.evil.example",
            "master-1:1",
            "",
        ] {
            assert!(
                check_host(&headers(&[(HOST, host)]), &uri, OURS).is_err(),
                "{host}"
            );
        }
        assert!(check_host(&HeaderMap::new(), &uri, OURS).is_err());
    }

    #[test]
    fn other_sites_may_link_here_and_no_more() {
        let host: Authority = "127.0.0.1:5050".parse().unwrap();
        let (site, mode) = ("sec-fetch-site", "sec-fetch-mode");
        let from = |site_is, mode_is: &str| {
            let pairs = [(site, site_is), (mode, mode_is)];
            let pairs = pairs.map(|(name, value)| (HeaderName::from_static(name), value));
            check_origin(&headers(&pairs), &host)
        };
        assert!(from("cross-site", "navigate").is_ok());
        assert!(from("cross-site", "no-cors").is_err());
        assert!(from("same-origin", "cors").is_ok());
    }

    #[test]
    fn other_origins_are_refused() {
        let host: Authority = "127.0.0.1:5050".parse().unwrap();
        assert!(check_origin(&HeaderMap::new(), &host).is_ok());
        assert!(check_origin(&headers(&[(ORIGIN, "http://127.0.0.1:5050")]), &host).is_ok());
        for origin in ["http://127.0.0.1:5051", "http://evil.example", "null"] {
            assert!(
                check_origin(&headers(&[(ORIGIN, origin)]), &host).is_err(),
                "{origin}"
            );
        }
    }
}
