//! The master's HTTP API as the pages call it: the only fetches of the dashboard.
//!
//! Paths are relative to the page's own origin. Every request that changes
//! something carries an `Idempotency-Key`, so that asking again after a lost
//! answer is safe. An answer that is no success becomes an [`ApiError`] that a
//! page can show as it is.

use std::fmt;

use leptos::prelude::*;
use send_wrapper::SendWrapper;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tepui_types::Digest;
use tepui_types::api::problem::Problem;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    AbortController, AbortSignal, File, Headers, ProgressEvent, ReadableStreamDefaultReader,
    Request, RequestInit, Response, XmlHttpRequest,
};

/// How long an answer may take, in milliseconds. A framework's turn has ten
/// seconds at most; what takes longer is a connection that is gone.
const TIMEOUT_MS: u32 = 15_000;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiError {
    /// The master was not reached, or the answer never came.
    Offline,
    /// The master said no, and why.
    Problem(Box<Problem>),
    /// The answer is not what this page understands.
    Unreadable(String),
}

impl ApiError {
    /// The HTTP status, if there was an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Problem(problem) => Some(problem.status),
            Self::Offline | Self::Unreadable(_) => None,
        }
    }

    /// Whether what was asked for may have happened all the same.
    pub fn leaves_open(&self) -> bool {
        match self {
            Self::Offline | Self::Unreadable(_) => true,
            Self::Problem(problem) => problem.code == "outcome-unknown",
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offline => f.write_str("The master cannot be reached."),
            Self::Problem(problem) if problem.detail.is_empty() => f.write_str(&problem.title),
            Self::Problem(problem) => f.write_str(&problem.detail),
            Self::Unreadable(what) => {
                write!(f, "The answer is not understood: {what}. Reload the page.")
            }
        }
    }
}

/// The key of one change: 32 random hexadecimal digits. Asking again for the
/// same change takes the same key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// A fresh one.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        let filled = window()
            .crypto()
            .and_then(|crypto| crypto.get_random_values_with_u8_array(&mut bytes));
        if filled.is_err() {
            // Keys must only differ, not be secret.
            bytes.fill_with(|| (js_sys::Math::random() * 256.0) as u8);
        }
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// The text of `GET path`.
pub async fn get(path: &str) -> Result<String, ApiError> {
    let init = RequestInit::new();
    init.set_signal(Some(&AbortSignal::timeout_with_u32(TIMEOUT_MS)));
    read(&fetch(path, &init).await?).await
}

/// What `GET path` gives, and the tag by which a change can ask that it still is so.
pub async fn get_tagged<T: DeserializeOwned>(path: &str) -> Result<(T, String), ApiError> {
    let init = RequestInit::new();
    init.set_signal(Some(&AbortSignal::timeout_with_u32(TIMEOUT_MS)));
    let response = fetch(path, &init).await?;
    let tag = response.headers().get("ETag").ok().flatten();
    let value = parse(&read(&response).await?)?;
    Ok((value, tag.unwrap_or_else(|| "*".into())))
}

/// `PUT path`, of what still has that tag.
pub async fn set(
    path: &str,
    body: String,
    tag: &str,
    key: &IdempotencyKey,
) -> Result<(), ApiError> {
    send("PUT", path, Some(body), Some(tag), key)
        .await
        .map(drop)
}

/// `method path` with a JSON body, if there is one; gives the answer's text.
pub async fn change(
    method: &str,
    path: &str,
    body: Option<String>,
    key: &IdempotencyKey,
) -> Result<String, ApiError> {
    send(method, path, body, None, key).await
}

async fn send(
    method: &str,
    path: &str,
    body: Option<String>,
    tag: Option<&str>,
    key: &IdempotencyKey,
) -> Result<String, ApiError> {
    let init = RequestInit::new();
    init.set_method(method);
    init.set_signal(Some(&AbortSignal::timeout_with_u32(TIMEOUT_MS)));
    let headers = Headers::new().map_err(unreadable)?;
    headers.set("Idempotency-Key", &key.0).map_err(unreadable)?;
    if let Some(tag) = tag {
        headers.set("If-Match", tag).map_err(unreadable)?;
    }
    if let Some(body) = body {
        headers
            .set("Content-Type", "application/json")
            .map_err(unreadable)?;
        init.set_body(&JsValue::from_str(&body));
    }
    init.set_headers(&headers);
    read(&fetch(path, &init).await?).await
}

/// `body` as the text of a request.
pub fn json<T: Serialize>(body: &T) -> Result<String, ApiError> {
    serde_json::to_string(body).map_err(|error| ApiError::Unreadable(error.to_string()))
}

/// `GET path` piece by piece, until the answer ends or `signal` aborts it;
/// an abort is `Ok`.
pub async fn stream(
    path: &str,
    signal: &AbortSignal,
    mut on_bytes: impl FnMut(&[u8]),
) -> Result<(), ApiError> {
    let init = RequestInit::new();
    init.set_signal(Some(signal));
    let outcome = async {
        let response = fetch(path, &init).await?;
        if !response.ok() {
            return Err(failure(&response).await);
        }
        let Some(body) = response.body() else {
            return Ok(());
        };
        let reader: ReadableStreamDefaultReader = body.get_reader().unchecked_into();
        loop {
            let piece = JsFuture::from(reader.read())
                .await
                .map_err(|_| ApiError::Offline)?;
            let field = |name: &str| js_sys::Reflect::get(&piece, &name.into());
            if field("done").is_ok_and(|done| done.is_truthy()) {
                return Ok(());
            }
            if let (Ok(value), false) = (field("value"), signal.aborted()) {
                on_bytes(&js_sys::Uint8Array::new(&value).to_vec());
            }
        }
    };
    match outcome.await {
        Err(_) if signal.aborted() => Ok(()),
        outcome => outcome,
    }
}

/// A signal that aborts when the running effect runs again or its page goes.
pub fn abort_on_cleanup() -> Option<AbortSignal> {
    let controller = SendWrapper::new(AbortController::new().ok()?);
    let signal = controller.signal();
    on_cleanup(move || controller.abort());
    Some(signal)
}

/// `PUT /v1/artifacts/{digest}` with the file's bytes, which the browser reads
/// as it sends them. `on_progress` is told bytes sent. (A fetch cannot tell.)
pub async fn upload(
    digest: Digest,
    file: &File,
    key: &IdempotencyKey,
    on_progress: impl Fn(f64) + 'static,
) -> Result<(), ApiError> {
    let request = XmlHttpRequest::new().map_err(unreadable)?;
    request
        .open("PUT", &format!("/v1/artifacts/{digest}"))
        .map_err(unreadable)?;
    request
        .set_request_header("Idempotency-Key", &key.0)
        .map_err(unreadable)?;
    request
        .set_request_header("Content-Type", "application/octet-stream")
        .map_err(unreadable)?;
    let on_progress = Closure::<dyn Fn(ProgressEvent)>::new(move |event: ProgressEvent| {
        on_progress(event.loaded());
    });
    if let Ok(upload) = request.upload() {
        upload.set_onprogress(Some(on_progress.as_ref().unchecked_ref()));
    }
    let ended = js_sys::Promise::new(&mut |resolve, _| {
        // Success and failure both end here; the status tells them apart.
        request.set_onloadend(Some(&resolve));
    });
    request.send_with_opt_blob(Some(file)).map_err(unreadable)?;
    let waited = JsFuture::from(ended).await;
    request.set_onloadend(None);
    waited.map_err(|_| ApiError::Offline)?;
    let status = request.status().unwrap_or(0);
    let text = request.response_text().ok().flatten().unwrap_or_default();
    match status {
        0 => Err(ApiError::Offline),
        200..=299 => Ok(()),
        _ => Err(problem(status, &text)),
    }
}

async fn fetch(path: &str, init: &RequestInit) -> Result<Response, ApiError> {
    let request = Request::new_with_str_and_init(path, init).map_err(unreadable)?;
    let answer = JsFuture::from(window().fetch_with_request(&request)).await;
    answer
        .map(JsCast::unchecked_into)
        .map_err(|_| ApiError::Offline)
}

async fn read(response: &Response) -> Result<String, ApiError> {
    if response.ok() {
        text(response).await
    } else {
        Err(failure(response).await)
    }
}

async fn failure(response: &Response) -> ApiError {
    match text(response).await {
        Ok(text) => problem(response.status(), &text),
        Err(error) => error,
    }
}

async fn text(response: &Response) -> Result<String, ApiError> {
    let promise = response.text().map_err(unreadable)?;
    let text = JsFuture::from(promise)
        .await
        .map_err(|_| ApiError::Offline)?;
    Ok(text.as_string().unwrap_or_default())
}

/// What an answer's text says.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, ApiError> {
    serde_json::from_str(text).map_err(|error| ApiError::Unreadable(error.to_string()))
}

/// The problem document in `text`; something in between may answer without one.
fn problem(status: u16, text: &str) -> ApiError {
    let problem = serde_json::from_str(text).unwrap_or_else(|_| Problem {
        kind: "about:blank".into(),
        title: format!("The master answered {status}."),
        status,
        detail: text.chars().take(300).collect::<String>().trim().to_owned(),
        code: String::new(),
    });
    ApiError::Problem(Box::new(problem))
}

fn unreadable(error: JsValue) -> ApiError {
    ApiError::Unreadable(format!("{error:?}"))
}
