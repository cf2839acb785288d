//! The only HTTP of this program: typed calls to a master.
//!
//! Every changing request carries an `Idempotency-Key`, drawn once a call, so
//! that a call repeated after a lost connection or a full queue happens once.
//! Problem documents become errors whose text is their `detail`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, ETAG, IF_MATCH, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tepui_types::api::problem::Problem;
use tepui_types::api::stale::{AGE_HEADER, INDEX_HEADER, PARAMETER};
use tokio_util::io::ReaderStream;

use crate::output;
use crate::progress::Transfer;

pub use calls::{ByteStream, LogStream, TaskFilter};
pub use channel::{ChannelError, Receiver, Sender};
pub use jobs::{BATCH, Jobs};

mod calls;
mod channel;
mod events;
mod jobs;

/// How often a call is made before its error stands. With the pauses below a
/// master has about four seconds to come back.
const MAX_TRIES: usize = 6;
/// The first pause between two tries; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause that a master's `Retry-After` may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How long a master may take to be reached before the next one is asked.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a master that has not answered yet is asked for its health.
const LOOK: Duration = Duration::from_secs(1);
/// How long that answer may take before the master is taken to hang.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// The same where there is no other to be asked.
const LAST_LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one answer may take where it is not a stream. Above the ten
/// seconds of wall clock that a framework's turn may take, and its queue.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an answer may take that is only shown beside others: above the ten seconds that a master
/// gives an agent, so that it says which of the two is silent.
const GLANCE_TIMEOUT: Duration = Duration::from_secs(12);
/// How much of a file is read at once.
const CHUNK: usize = 64 * 1024;
/// The most of an unexpected answer that is shown.
const MAX_SHOWN: usize = 400;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens there.
    #[error(
        "no master answers at {url}: start one with `tepui dev`, or name it with --master or \
         TEPUI_MASTER"
    )]
    NoMaster {
        /// Where it was looked for.
        url: String,
    },
    /// The HTTP client cannot be made.
    #[error("failed to set up HTTP")]
    Setup(#[source] reqwest::Error),
    /// The address cannot be one.
    #[error("`{0}` is not a master's address: write it like http://127.0.0.1:5050")]
    BadAddress(String),
    /// The master refused, and says why.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// Something answered that is not a master, or not one of this release.
    #[error("{url} answered {status} to {method} {path}, which no master does: {body}")]
    Unexpected {
        /// The address.
        url: String,
        /// The answer's status.
        status: StatusCode,
        /// The request's method.
        method: Method,
        /// The request's path.
        path: String,
        /// The beginning of the answer.
        body: String,
    },
    /// The connection broke.
    #[error("lost the connection to the master at {url}")]
    Lost {
        /// The address.
        url: String,
        /// How.
        #[source]
        source: reqwest::Error,
    },
    /// It hangs.
    #[error(
        "the master at {url} takes connections and does not answer: its process hangs, or its machine \
         is very busy"
    )]
    Silent {
        /// The address.
        url: String,
    },
    /// The answer is not what this release expects.
    #[error("the master's answer to {path} cannot be read; is it of another release?")]
    Answer {
        /// The request's path.
        path: String,
        /// Where reading failed.
        #[source]
        source: serde_json::Error,
    },
    /// The request cannot be written down.
    #[error("failed to write the request to {path}")]
    Request {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A file that was to be sent cannot be read.
    #[error("failed to read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes for a request's key: {0}")]
    Random(getrandom::Error),
}

impl ClientError {
    /// The problem's status, where the master answered with a problem.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Problem(problem) => Some(problem.status),
            _ => None,
        }
    }

    /// Whether the master may come back: the connection is the trouble.
    pub fn is_connection(&self) -> bool {
        matches!(
            self,
            Self::NoMaster { .. } | Self::Lost { .. } | Self::Silent { .. }
        )
    }
}

type Result<T> = std::result::Result<T, ClientError>;

/// The masters of a cluster, by their addresses: any of them will do, and one that does not answer
/// is passed over for the next.
pub struct Client {
    http: reqwest::Client,
    /// At least one.
    bases: Vec<String>,
    current: AtomicUsize,
    token: Option<String>,
    /// Whether reads take what the asked master has.
    is_stale: bool,
    /// How old that was is said once.
    has_said_age: AtomicBool,
    /// Whether it ever answered; a master that never did is not waited for.
    reached: AtomicBool,
}

/// What a request carries beside its path.
#[derive(Clone, Copy)]
enum Body<'a> {
    None,
    Json(&'a serde_json::Value),
    /// For what has that tag.
    JsonIf(&'a serde_json::Value, &'a str),
    File(&'a Path, u64, &'a Transfer),
}

impl Client {
    /// A client of the masters at these addresses, such as `http://127.0.0.1:5050`, divided by
    /// commas.
    pub fn new(masters: &str, token: Option<String>) -> Result<Self> {
        let bases: Vec<_> = masters.split(',').map(parse_base).collect::<Result<_>>()?;
        let http = reqwest::Client::builder();
        let http = tepui_lifeline::watched(http)
            // Masters speak plain HTTP: a machine without certificates is as good as any.
            .tls_certs_only([])
            // A proxy of the environment is for the web; a cluster is reached directly.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("tepui/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(ClientError::Setup)?;
        Ok(Self {
            http,
            bases,
            current: AtomicUsize::new(0),
            token,
            is_stale: false,
            has_said_age: AtomicBool::new(false),
            reached: AtomicBool::new(false),
        })
    }

    /// The same, whose reads take what the asked master has if `is_stale`.
    pub fn stale(self, is_stale: bool) -> Self {
        Self { is_stale, ..self }
    }

    /// The address of the master that is asked.
    pub fn base(&self) -> &str {
        &self.bases[self.current.load(Ordering::Relaxed) % self.bases.len()]
    }

    /// The one that is asked does not answer.
    fn pass_over(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let response = self.send(Method::GET, path, Body::None).await?;
        self.read(path, response).await
    }

    /// What is there, if that can be had at once: nothing is tried again.
    async fn get_once<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let request = self.request(Method::GET, path).timeout(GLANCE_TIMEOUT);
        let response = self.open(request, path).await?;
        self.read(path, response).await
    }

    /// What is there, and the tag by which a change can ask that it still is.
    async fn get_tagged<T: DeserializeOwned>(&self, path: &str) -> Result<(T, String)> {
        let response = self.send(Method::GET, path, Body::None).await?;
        let tag = response.headers().get(ETAG);
        let tag = tag.and_then(|tag| tag.to_str().ok());
        // Any: a master of another release may send none.
        let tag = tag.unwrap_or("*").to_owned();
        Ok((self.read(path, response).await?, tag))
    }

    async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T> {
        let body = body.map(serde_json::to_value).transpose();
        let body = body.map_err(|source| ClientError::Request {
            path: path.to_owned(),
            source,
        })?;
        let body = body.as_ref().map_or(Body::None, Body::Json);
        let response = self.send(method, path, body).await?;
        self.read(path, response).await
    }

    /// Changes what still has that tag.
    async fn change_if<T: DeserializeOwned>(
        &self,
        tag: &str,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let body = serde_json::to_value(body).map_err(|source| ClientError::Request {
            path: path.to_owned(),
            source,
        })?;
        let response = self.send(method, path, Body::JsonIf(&body, tag)).await?;
        self.read(path, response).await
    }

    async fn read<T: DeserializeOwned>(&self, path: &str, response: Response) -> Result<T> {
        let bytes = response.bytes().await.map_err(|source| self.lost(source))?;
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Answer {
            path: path.to_owned(),
            source,
        })
    }

    /// Sends a request and waits for the head of a good answer; tries again
    /// while the master is away for a moment.
    async fn send(&self, method: Method, path: &str, body: Body<'_>) -> Result<Response> {
        let key = match method {
            Method::GET | Method::HEAD => None,
            _ => Some(idempotency_key()?),
        };
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        let mut refusal = None;
        loop {
            tries += 1;
            let mut request = self.request(method.clone(), path);
            if let Some(key) = &key {
                request = request.header("Idempotency-Key", key);
            }
            let request = match body {
                Body::None => request.timeout(ANSWER_TIMEOUT),
                Body::Json(value) => request.timeout(ANSWER_TIMEOUT).json(value),
                Body::JsonIf(value, tag) => {
                    let request = request.header(IF_MATCH, tag);
                    request.timeout(ANSWER_TIMEOUT).json(value)
                }
                Body::File(path, size, transfer) => {
                    with_file(request, path, size, transfer).await?
                }
            };
            let answer = tokio::select! {
                answer = request.send() => Ok(answer),
                silent = self.until_silent() => Err(silent),
            };
            let (error, wait) = match answer {
                Err(silent) => (silent, (self.bases.len() > 1).then_some(Duration::ZERO)),
                Ok(Ok(response)) => {
                    self.reached.store(true, Ordering::Relaxed);
                    if response.status().is_success() {
                        self.say_age(&response);
                        return Ok(response);
                    }
                    let wait = retry_after(&response);
                    if wait.is_some() {
                        // It may be cut off from the others.
                        self.pass_over();
                    }
                    (self.refusal(&method, path, response).await, wait)
                }
                Ok(Err(source)) if source.is_connect() => {
                    let again = self.reached.load(Ordering::Relaxed) || tries < self.bases.len();
                    (self.unreachable(source), again.then_some(pause))
                }
                Ok(Err(source)) => {
                    let again = (!source.is_timeout()).then_some(pause);
                    (self.unreachable(source), again)
                }
            };
            match wait {
                Some(wait) if tries < MAX_TRIES.max(self.bases.len() + 2) => {
                    tokio::time::sleep(wait).await
                }
                // That some are away says less than what another has said.
                _ if error.is_connection() => return Err(refusal.unwrap_or(error)),
                _ => return Err(error),
            }
            if !error.is_connection() {
                refusal = Some(error);
            }
            if tries.is_multiple_of(self.bases.len()) {
                pause *= 2;
            }
        }
    }

    /// A request for a stream: no time limit, no key.
    async fn open(&self, request: RequestBuilder, path: &str) -> Result<Response> {
        let response = tokio::select! {
            response = request.send() => response,
            silent = self.until_silent() => return Err(silent),
        };
        let response = response.map_err(|source| self.unreachable(source))?;
        self.reached.store(true, Ordering::Relaxed);
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refusal(&Method::GET, path, response).await)
    }

    /// Ends when the master that is asked hangs; another one, if there is one, is asked from then on.
    async fn until_silent(&self) -> ClientError {
        let url = self.base().to_owned();
        let patience = match self.bases.len() {
            1 => LAST_LOOK_TIMEOUT,
            _ => LOOK_TIMEOUT,
        };
        loop {
            tokio::time::sleep(LOOK).await;
            let health = self.http.get(format!("{url}/healthz")).timeout(patience);
            if health.send().await.is_err_and(|error| error.is_timeout()) {
                self.pass_over();
                return ClientError::Silent { url };
            }
        }
    }

    /// Says once how old what a master has may be.
    fn say_age(&self, response: &Response) {
        let number = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            value.parse::<u64>().ok()
        };
        let Some((index, age)) = number(INDEX_HEADER).zip(number(AGE_HEADER)) else {
            return;
        };
        if !self.has_said_age.swap(true, Ordering::Relaxed) {
            output::note(&format!(
                "tepui: as {} has it at log index {index}; it heard from a leader {} ago",
                self.base(),
                output::span(age)
            ));
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let is_stale = self.is_stale && method == Method::GET && path.starts_with("/v1/");
        let mark = match (is_stale, path.contains('?')) {
            (false, _) => String::new(),
            (true, false) => format!("?{PARAMETER}"),
            (true, true) => format!("&{PARAMETER}"),
        };
        let request = self
            .http
            .request(method, format!("{}{path}{mark}", self.base()))
            .header(ACCEPT, "application/json, */*;q=0.5");
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn refusal(&self, method: &Method, path: &str, response: Response) -> ClientError {
        let status = response.status();
        let bytes = response.bytes().await.unwrap_or_default();
        if let Ok(problem) = serde_json::from_slice(&bytes) {
            return ClientError::Problem(Box::new(problem));
        }
        let body: String = String::from_utf8_lossy(&bytes)
            .chars()
            .take(MAX_SHOWN)
            .collect();
        ClientError::Unexpected {
            url: self.base().to_owned(),
            status,
            method: method.clone(),
            path: path.to_owned(),
            body: body.trim().to_owned(),
        }
    }

    /// The error of a master that did not answer; the next one is asked from now on.
    fn unreachable(&self, source: reqwest::Error) -> ClientError {
        let error = match source.is_connect() {
            true => ClientError::NoMaster {
                url: self.bases.join(" or "),
            },
            false => self.lost(source),
        };
        self.pass_over();
        error
    }

    fn lost(&self, source: reqwest::Error) -> ClientError {
        let url = self.base().to_owned();
        ClientError::Lost { url, source }
    }
}

fn parse_base(text: &str) -> Result<String> {
    let bad = || ClientError::BadAddress(text.to_owned());
    let with_scheme = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let url = reqwest::Url::parse(&with_scheme).map_err(|_| bad())?;
    if url.scheme() != "http" || url.host_str().is_none_or(str::is_empty) {
        return Err(bad());
    }
    Ok(with_scheme.trim_end_matches('/').to_owned())
}

/// The pause that a master with full queues asks for.
fn retry_after(response: &Response) -> Option<Duration> {
    if response.status() != StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let seconds = response
        .headers()
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).clamp(FIRST_PAUSE, MAX_PAUSE))
}

/// Gives a request a file as its body. Each try reads the file anew.
async fn with_file(
    request: RequestBuilder,
    path: &Path,
    size: u64,
    transfer: &Transfer,
) -> Result<RequestBuilder> {
    let file = tokio::fs::File::open(path).await;
    let file = file.map_err(|source| ClientError::File {
        path: path.to_owned(),
        source,
    })?;
    transfer.restart();
    let transfer = transfer.clone();
    let bytes = ReaderStream::with_capacity(file, CHUNK).inspect_ok(move |chunk| {
        transfer.advance(chunk.len() as u64);
    });
    Ok(request
        .header(CONTENT_LENGTH, size)
        .body(reqwest::Body::wrap_stream(bytes)))
}

/// 32 random hexadecimal digits.
fn idempotency_key() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(ClientError::Random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
