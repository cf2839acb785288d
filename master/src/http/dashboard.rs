//! The dashboard's files, embedded in the binary, plain and compressed.
//!
//! Names stay from release to release, so browsers ask each time whether a file is still the same;
//! its tag is the digest of the very bytes that are sent.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ACCEPT, ACCEPT_ENCODING, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};
use tepui_types::Digest;

use crate::http::error::ApiError;

#[derive(RustEmbed)]
#[folder = "$OUT_DIR/web"]
struct Files;

/// The same files by the same names, where gzip makes them smaller.
#[derive(RustEmbed)]
#[folder = "$OUT_DIR/web-gzip"]
struct Gzipped;

/// What the dashboard's pages may do: speak to this master, and nothing else.
const POLICY: &str = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; \
                      style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

/// A file, or the page that draws every route of the dashboard.
pub async fn serve(uri: Uri, headers: HeaderMap) -> Result<Response, ApiError> {
    let path = uri.path().trim_start_matches('/');
    if path.starts_with("v1/") {
        return Err(ApiError::NotFound(format!(
            "there is no `{}`: /v1/openapi.json lists all there is",
            uri.path()
        )));
    }
    if let Some(file) = Files::get(path) {
        return Ok(answer(path, file, &headers));
    }
    // A name with an extension was meant as a file; all else is a page.
    let is_file = path.rsplit('/').next().is_some_and(|name| {
        matches!(
            name.rsplit_once('.'),
            Some((_, "js" | "css" | "wasm" | "svg" | "ico" | "map"))
        )
    });
    match Files::get("index.html") {
        Some(page) if !is_file => Ok(answer("index.html", page, &headers)),
        _ => Err(ApiError::NotFound(format!("there is no file `{path}`"))),
    }
}

/// Whether a browser asks for a page to be shown.
pub fn is_for_people(request: &Request) -> bool {
    let wants_page = |item: &str| item.split(';').next() == Some("text/html");
    request.method() == Method::GET && items(request.headers(), ACCEPT).any(wants_page)
}

/// The dashboard, which says in its own way that there is nothing.
pub fn not_found(headers: &HeaderMap) -> Result<Response, ApiError> {
    let Some(page) = Files::get("index.html") else {
        return Err(ApiError::NotFound("there is no such page".into()));
    };
    // Known or not, it is not what was asked for.
    let mut headers = headers.clone();
    headers.remove(IF_NONE_MATCH);
    let mut response = answer("index.html", page, &headers);
    *response.status_mut() = StatusCode::NOT_FOUND;
    Ok(response)
}

fn answer(path: &str, plain: EmbeddedFile, asked: &HeaderMap) -> Response {
    let gzipped = Gzipped::get(path).filter(|_| takes_gzip(asked));
    let encoding = gzipped
        .is_some()
        .then_some([(header::CONTENT_ENCODING, "gzip")]);
    let file = gzipped.unwrap_or(plain);
    let tag = format!("\"{}\"", Digest(file.metadata.sha256_hash()).hex());
    let is_known = items(asked, IF_NONE_MATCH).any(|known| known == "*" || known == tag);
    let about = [
        (header::ETAG, tag.as_str()),
        (header::VARY, "accept-encoding"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    if is_known {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    let headers = [
        (header::CONTENT_TYPE, media_type(path)),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (about, headers, encoding, Body::from(file.data)).into_response()
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("wasm") => "application/wasm",
        Some("svg") => "image/svg+xml",
        Some("ico") => "image/x-icon",
        _ => "application/octet-stream",
    }
}

/// Whether the caller can read gzip: it says so by name, or by `*` without an exception.
fn takes_gzip(asked: &HeaderMap) -> bool {
    let weight_of = |wanted: &str| {
        items(asked, ACCEPT_ENCODING).find_map(|item| {
            let (coding, weight) = item.split_once(';').unwrap_or((item, "q=1"));
            let weight = weight.trim().strip_prefix("q=");
            let is_it = coding.trim().eq_ignore_ascii_case(wanted);
            is_it.then(|| weight.and_then(|weight| weight.parse::<f32>().ok()))
        })
    };
    let weight = weight_of("gzip").or_else(|| weight_of("*")).flatten();
    weight.is_some_and(|weight| weight > 0.0)
}

/// The items of a header that is a list.
fn items(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    let values = values.filter_map(|value| value.to_str().ok());
    // A proxy may have made a tag weak; the bytes are the same to whoever reads them.
    values
        .flat_map(|value| value.split(','))
        .map(|item| item.trim().trim_start_matches("W/"))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn get(headers: &[(HeaderName, &str)]) -> Response {
        let pairs = headers
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        let page = Files::get("index.html").unwrap();
        answer("index.html", page, &pairs.collect())
    }

    fn said(response: &Response, name: HeaderName) -> Option<&str> {
        let value = response.headers().get(name)?;
        Some(value.to_str().unwrap())
    }

    #[test]
    fn only_who_can_read_it_gets_it_compressed() {
        for accepts in ["gzip", "br, GZIP;q=0.5", "*", "deflate, *;q=0.1"] {
            let answer = get(&[(ACCEPT_ENCODING, accepts)]);
            let encoding = said(&answer, header::CONTENT_ENCODING);
            assert_eq!(encoding, Some("gzip"), "{accepts}");
        }
        for accepts in ["", "br", "identity", "gzip;q=0", "*, gzip;q=0.0", "gzip;q="] {
            let answer = get(&[(ACCEPT_ENCODING, accepts)]);
            assert_eq!(said(&answer, header::CONTENT_ENCODING), None, "{accepts}");
            assert_eq!(said(&answer, header::VARY), Some("accept-encoding"));
        }
        assert_eq!(said(&get(&[]), header::CONTENT_ENCODING), None);
    }

    #[test]
    fn what_a_browser_has_is_not_sent_again() {
        let (plain, gzip) = (get(&[]), get(&[(ACCEPT_ENCODING, "gzip")]));
        let tag = |answer: &Response| said(answer, header::ETAG).unwrap().to_owned();
        assert_ne!(tag(&plain), tag(&gzip), "other bytes have another tag");
        for known in [
            tag(&plain),
            format!("\"old\", W/{}", tag(&plain)),
            "*".to_owned(),
        ] {
            let answer = get(&[(IF_NONE_MATCH, &known)]);
            assert_eq!(answer.status(), StatusCode::NOT_MODIFIED, "{known}");
            assert_eq!(tag(&answer), tag(&plain));
        }
        let other = get(&[(IF_NONE_MATCH, &tag(&gzip))]);
        assert_eq!(other.status(), StatusCode::OK);
    }
}
