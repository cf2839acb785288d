//! `/frameworks/{name}/…`: requests that frameworks answer themselves.
//!
//! What comes back is foreign: it is sandboxed without an origin, sets no
//! cookies, and never sees the caller's credentials. A framework knows its
//! caller by the principal that the master has verified.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State as Extract};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use sha2::{Digest, Sha256};

use crate::Master;
use crate::frameworks::HttpRequest;
use crate::http::body::whole;
use crate::http::dashboard;
use crate::http::error::ApiError;
use crate::http::frameworks::find;
use crate::http::request::{BODY, Caller};

/// Headers that stay between the caller and the master.
const KEPT_BACK: [HeaderName; 10] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
    header::HOST,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
];

/// Headers of an answer that are the master's to set, or nobody's.
const NOT_FOR_GUESTS: [HeaderName; 14] = [
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("service-worker-allowed"),
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::SET_COOKIE,
    header::CONTENT_SECURITY_POLICY,
    header::X_CONTENT_TYPE_OPTIONS,
    header::CONNECTION,
    header::UPGRADE,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::TRAILER,
    header::TE,
    header::STRICT_TRANSPORT_SECURITY,
];

/// Hands a request to its framework.
pub async fn on_request(
    Extract(master): Extract<Arc<Master>>,
    Path(segments): Path<Vec<(String, String)>>,
    caller: Caller,
    request: Request,
) -> Result<Response<Body>, ApiError> {
    let name = segments
        .first()
        .map(|(_, name)| name.clone())
        .unwrap_or_default();
    // Frameworks read their own store after a read index; the lookup may be older.
    let framework = match find(&master.view.load(), &name) {
        Ok(framework) => framework.id,
        // Someone who looks for a page sees one that says so.
        Err(ApiError::NotFound(_)) if dashboard::is_for_people(&request) => {
            return dashboard::not_found(request.headers());
        }
        Err(error) => return Err(error),
    };
    let (parts, body) = request.into_parts();
    let body = whole(body, BODY).await?;
    let request = HttpRequest {
        method: parts.method.to_string(),
        path: below(parts.uri.path()),
        query: parts.uri.query().map(str::to_owned),
        headers: headers_for_guest(&parts.headers),
        body: body.to_vec(),
    };
    let key = caller.key.map(|key| bind_key(&key, &request));
    let answer = master
        .frameworks
        .request(framework, request, caller.principal, key)
        .await?;
    let status = StatusCode::from_u16(answer.status)
        .ok()
        .filter(|status| !status.is_informational())
        .unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = status;
    *response.headers_mut() = headers_for_caller(&answer.headers);
    Ok(response)
}

/// The path below `/frameworks/{name}`, still percent-encoded.
fn below(path: &str) -> String {
    let rest = path.splitn(4, '/').nth(3).unwrap_or_default();
    format!("/{rest}")
}

/// A caller's key stands for one request: another one under the same key is
/// another question.
fn bind_key(key: &str, request: &HttpRequest) -> String {
    let mut digest = Sha256::new();
    for part in [
        &request.method,
        &request.path,
        request.query.as_deref().unwrap_or_default(),
    ] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.update(&request.body);
    let digest = digest.finalize();
    let hex: String = digest
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{key}:{hex}")
}

fn headers_for_guest(headers: &HeaderMap) -> Vec<(String, String)> {
    let wanted = headers.iter().filter(|(name, _)| !KEPT_BACK.contains(name));
    wanted
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
        .collect()
}

fn headers_for_caller(headers: &[(String, String)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::try_from(name.as_str());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value.as_str()))
            && !NOT_FOR_GUESTS.contains(&name)
        {
            map.append(name, value);
        }
    }
    let sandbox = HeaderValue::from_static("sandbox allow-scripts allow-forms");
    map.insert(header::CONTENT_SECURITY_POLICY, sandbox);
    map.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_see_their_own_path_and_no_credentials() {
        assert_eq!(below("/frameworks/batch"), "/");
        assert_eq!(below("/frameworks/batch/jobs/a%2Fb"), "/jobs/a%2Fb");
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        headers.insert(header::COOKIE, HeaderValue::from_static("a=b"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        assert_eq!(
            headers_for_guest(&headers),
            [("accept".into(), "*/*".into())]
        );
    }

    #[test]
    fn answers_are_sandboxed_whatever_they_say() {
        let headers = headers_for_caller(&[
            ("Set-Cookie".into(), "a=b".into()),
            ("Content-Security-Policy".into(), "none".into()),
            ("Content-Type".into(), "text/html".into()),
            ("bad name".into(), "x".into()),
        ]);
        assert_eq!(headers.get(header::SET_COOKIE), None);
        assert_eq!(headers.get(header::CONTENT_TYPE).unwrap(), "text/html");
        let policy = headers
            .get(header::CONTENT_SECURITY_POLICY)
            .unwrap()
            .to_str()
            .unwrap();
        assert!(policy.starts_with("sandbox") && !policy.contains("same-origin"));
    }

    #[test]
    fn one_key_for_two_questions_is_two_keys() {
        let request = |body: &str| HttpRequest {
            method: "POST".into(),
            path: "/jobs".into(),
            query: None,
            headers: Vec::new(),
            body: body.into(),
        };
        assert_eq!(bind_key("k", &request("a")), bind_key("k", &request("a")));
        assert_ne!(bind_key("k", &request("a")), bind_key("k", &request("b")));
    }
}
