//! The dashboard's files, embedded in the binary.

use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use rust_embed::RustEmbed;

use crate::http::error::ApiError;

#[derive(RustEmbed)]
#[folder = "$OUT_DIR/web"]
struct Files;

/// What the dashboard's pages may do: speak to this master, and nothing else.
const POLICY: &str = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; \
                      style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

/// A file, or the page that draws every route of the dashboard.
pub async fn serve(uri: Uri) -> Result<Response, ApiError> {
    let path = uri.path().trim_start_matches('/');
    if path.starts_with("v1/") {
        return Err(ApiError::NotFound(format!(
            "there is no `{}`: /v1/openapi.json lists all there is",
            uri.path()
        )));
    }
    if let Some(file) = Files::get(path) {
        return Ok(answer(path, file));
    }
    // A name with an extension was meant as a file; all else is a page.
    let is_file = path.rsplit('/').next().is_some_and(|name| {
        matches!(
            name.rsplit_once('.'),
            Some((_, "js" | "css" | "wasm" | "svg" | "ico" | "map"))
        )
    });
    match Files::get("index.html") {
        Some(page) if !is_file => Ok(answer("index.html", page)),
        _ => Err(ApiError::NotFound(format!("there is no file `{path}`"))),
    }
}

fn answer(path: &str, file: rust_embed::EmbeddedFile) -> Response {
    let kind = match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("wasm") => "application/wasm",
        Some("svg") => "image/svg+xml",
        Some("ico") => "image/x-icon",
        _ => "application/octet-stream",
    };
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // An upgraded master brings a new dashboard under the same names.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (StatusCode::OK, headers, file.data.into_owned()).into_response()
}
