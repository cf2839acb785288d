//! Downloads that go on where they broke off (RFC 9110, section 14).

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};

/// Whether an answer goes on behind the `got` bytes that are here.
pub fn continues(response: &Response, got: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE);
    let range = range.and_then(|range| range.to_str().ok());
    got > 0
        && response.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|range| range.starts_with(&format!("bytes {got}-")))
}
