//! Downloads over HTTP.
//!
//! What may pass is tried anew with growing pauses, and goes on where it broke off if the server
//! still has the same. Everything goes into a draft and is hashed on its way; who sends too much, too
//! slowly, or leads out of TLS is given up.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::{Response, StatusCode, Url};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::sync::{OnceCell, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::blocking::blocking;
use crate::cache::{Cache, Draft, Version};
use crate::config::FetchConfig;
use crate::digest::Digest;
use crate::error::FetchError;
use crate::progress::Far;

/// Tries until a server counts as unavailable: with the pauses between them, about six seconds
/// beyond what the tries themselves take. Whoever launches tasks has a longer patience.
const TRIES: u32 = 6;
/// Redirects, as far as browsers follow them.
const MAX_REDIRECTS: usize = 10;
/// Bytes in every stall time: far below any link that a cluster could be run over.
const LEAST: u64 = 64 * 1024;

/// What all servers are spoken to with, made when the first is.
#[derive(Debug)]
pub(crate) struct Http {
    client: OnceCell<reqwest::Client>,
    slots: Semaphore,
    config: Arc<FetchConfig>,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// Where.
    pub url: Url,
    /// As messages name it.
    pub name: String,
    /// What it has to have.
    pub digest: Option<Digest>,
    /// The version that is here already.
    pub known: Option<Version>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It is as it was.
    Same,
    /// It is here.
    New(Downloaded),
}

/// A whole download.
#[derive(Debug)]
pub(crate) struct Downloaded {
    /// Where it is.
    pub draft: Draft,
    /// The same, open.
    pub file: std::fs::File,
    /// Its length.
    pub bytes: u64,
    /// What it has.
    pub digest: Digest,
    /// By what its server knows it.
    pub version: Version,
}

impl Http {
    /// Asks nobody yet.
    pub fn new(config: Arc<FetchConfig>) -> Self {
        Self {
            client: OnceCell::new(),
            slots: Semaphore::new(config.parallel_downloads.max(1)),
            config,
        }
    }

    /// Downloads into a draft of the cache.
    pub async fn download(
        &self,
        ask: &Ask,
        cache: &Arc<Cache>,
        far: &watch::Sender<Far>,
    ) -> Result<Answer, FetchError> {
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        let mut download = Download::new(cache.clone()).await?;
        let mut pause = self.config.pause;
        let mut tries = 1;
        loop {
            match self.try_once(ask, &mut download, far).await {
                Ok(true) => break,
                Ok(false) => return Ok(Answer::Same),
                Err(error @ FetchError::Unavailable { .. }) if tries < TRIES => {
                    tracing::debug!(tries, "not fetched: {error}");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
        let downloaded = download.finish().await?;
        check(&ask.name, ask.digest, downloaded.digest)?;
        Ok(Answer::New(downloaded))
    }

    /// Whether there is something new.
    async fn try_once(
        &self,
        ask: &Ask,
        download: &mut Download,
        far: &watch::Sender<Far>,
    ) -> Result<bool, FetchError> {
        let mut response = self.send(ask, download).await?;
        match response.status() {
            StatusCode::NOT_MODIFIED if ask.known.is_some() && download.got == 0 => {
                return Ok(false);
            }
            StatusCode::PARTIAL_CONTENT if continues(&response, download.got) => {}
            StatusCode::OK => download.restart(version(response.headers())).await?,
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                download.restart(Version::default()).await?;
                return Err(unavailable(ask, "it does not go on where it broke off"));
            }
            status => return Err(refusal(ask, status)),
        }
        let total = response.content_length().map(|rest| download.got + rest);
        self.bounded(ask, total.unwrap_or(0))?;
        let mut pace = Pace::begin(self.config.stall);
        loop {
            let done = download.got;
            far.send_replace(Far { done, total });
            let chunk = match timeout_at(pace.deadline, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return Ok(true),
                Ok(Err(error)) => return Err(failure(ask, error)),
                Err(_) => return Err(self.stalled(ask)),
            };
            self.bounded(ask, done + chunk.len() as u64)?;
            download.take(&chunk).await?;
            pace.add(chunk.len() as u64, Instant::now());
        }
    }

    async fn send(&self, ask: &Ask, download: &Download) -> Result<Response, FetchError> {
        let client = self
            .client
            .get_or_try_init(|| async { client(&self.config) });
        let client = client.await.map_err(|why| unavailable(ask, &why))?;
        let mut request = client.get(ask.url.clone());
        // What is hashed is what the server has, not what it makes of it on the way.
        request = request.header(ACCEPT_ENCODING, "identity");
        if download.got > 0
            && let Some(version) = strong(&download.version)
        {
            let range = format!("bytes={}-", download.got);
            request = request.header(RANGE, range).header(IF_RANGE, version);
        } else if let Some(known) = &ask.known {
            request = match (&known.etag, &known.last_modified) {
                (Some(etag), _) => request.header(IF_NONE_MATCH, etag),
                (None, Some(time)) => request.header(IF_MODIFIED_SINCE, time),
                (None, None) => request,
            };
        }
        match timeout(self.config.stall, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(failure(ask, error)),
            Err(_) => Err(self.stalled(ask)),
        }
    }

    fn bounded(&self, ask: &Ask, bytes: u64) -> Result<(), FetchError> {
        let limit = self.config.max_download_bytes;
        match bytes <= limit {
            true => Ok(()),
            false => Err(FetchError::TooLarge {
                what: ask.name.clone(),
                limit,
                fix: "make it smaller, or raise max_download_bytes of the agent",
            }),
        }
    }

    fn stalled(&self, ask: &Ask) -> FetchError {
        let why = format!("it sent nearly nothing for {:?}", self.config.stall);
        unavailable(ask, &why)
    }
}

/// Refuses what is not what was meant.
pub(crate) fn check(name: &str, wanted: Option<Digest>, found: Digest) -> Result<(), FetchError> {
    match wanted {
        Some(wanted) if wanted != found => Err(FetchError::DigestMismatch {
            what: name.to_owned(),
            wanted: wanted.to_string(),
            found: found.to_string(),
        }),
        _ => Ok(()),
    }
}

fn client(config: &FetchConfig) -> Result<reqwest::Client, String> {
    let client = reqwest::Client::builder()
        .user_agent(concat!("tepui/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(config.stall)
        // It would tell the next server what the last one's URL had in its query.
        .referer(false)
        .redirect(reqwest::redirect::Policy::custom(follow))
        .build();
    client.map_err(|error| {
        let why = chain(&error);
        format!("{why}: install the package ca-certificates on the agent")
    })
}

/// Never out of TLS, and never to anything but a server.
fn follow(attempt: reqwest::redirect::Attempt<'_>) -> reqwest::redirect::Action {
    let before = attempt.previous();
    let was_secret = before.iter().any(|url| url.scheme() == "https");
    let scheme = attempt.url().scheme();
    if before.len() > MAX_REDIRECTS {
        attempt.error("redirects without end")
    } else if was_secret && scheme != "https" {
        attempt.error("redirects from https to http")
    } else if !matches!(scheme, "http" | "https") {
        attempt.error("redirects to what is no server")
    } else {
        attempt.follow()
    }
}

/// What a request that got no answer means.
fn failure(ask: &Ask, error: reqwest::Error) -> FetchError {
    let is_redirect = error.is_redirect();
    // The URL stands in the message, without its credentials.
    let error = error.without_url();
    if is_redirect {
        let why = std::error::Error::source(&error).map(ToString::to_string);
        return FetchError::Redirect {
            what: ask.name.clone(),
            why: why.unwrap_or_else(|| error.to_string()),
        };
    }
    unavailable(ask, &chain(&error))
}

/// What an answer without a body of ours means.
fn refusal(ask: &Ask, status: StatusCode) -> FetchError {
    let what = ask.name.clone();
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => FetchError::NotFound { what },
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            unavailable(ask, &format!("it answers {status}"))
        }
        status if status.is_redirection() => FetchError::Redirect {
            what,
            why: "redirects to what is no server".into(),
        },
        status if status.is_client_error() => FetchError::Refused {
            what,
            why: format!("it answers {status}"),
        },
        status => unavailable(ask, &format!("it answers {status}")),
    }
}

fn unavailable(ask: &Ask, why: &str) -> FetchError {
    FetchError::Unavailable {
        what: ask.name.clone(),
        why: why.to_owned(),
    }
}

/// Whether an answer goes on behind the bytes that are here.
fn continues(response: &Response, got: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE);
    let range = range.and_then(|range| range.to_str().ok());
    got > 0 && range.is_some_and(|range| range.starts_with(&format!("bytes {got}-")))
}

fn version(headers: &HeaderMap) -> Version {
    let word = |name: HeaderName| {
        let word = headers.get(name)?.to_str().ok()?;
        Some(word.to_owned())
    };
    Version {
        etag: word(ETAG),
        last_modified: word(LAST_MODIFIED),
    }
}

/// A word that stands for the very same bytes. Times do not: two changes may lie in one second.
fn strong(version: &Version) -> Option<&str> {
    let etag = version.etag.as_deref();
    etag.filter(|etag| !etag.starts_with("W/"))
}

/// A download on its way into a draft.
struct Download {
    draft: Draft,
    file: tokio::fs::File,
    hash: Sha256,
    got: u64,
    version: Version,
}

impl Download {
    async fn new(cache: Arc<Cache>) -> Result<Self, FetchError> {
        let (draft, file) = blocking(move || cache.draft()).await?;
        Ok(Self {
            draft,
            file: tokio::fs::File::from_std(file),
            hash: Sha256::new(),
            got: 0,
            version: Version::default(),
        })
    }

    async fn restart(&mut self, version: Version) -> Result<(), FetchError> {
        self.version = version;
        if self.got == 0 {
            return Ok(());
        }
        let failed = |error| FetchError::disk("empty", self.draft.path(), error);
        self.file.rewind().await.map_err(failed)?;
        self.file.set_len(0).await.map_err(failed)?;
        self.hash = Sha256::new();
        self.got = 0;
        Ok(())
    }

    async fn take(&mut self, chunk: &[u8]) -> Result<(), FetchError> {
        self.hash.update(chunk);
        let written = self.file.write_all(chunk).await;
        written.map_err(|error| FetchError::disk("write", self.draft.path(), error))?;
        self.got += chunk.len() as u64;
        Ok(())
    }

    async fn finish(mut self) -> Result<Downloaded, FetchError> {
        let flushed = self.file.flush().await;
        flushed.map_err(|error| FetchError::disk("write", self.draft.path(), error))?;
        Ok(Downloaded {
            draft: self.draft,
            file: self.file.into_std().await,
            bytes: self.got,
            digest: Digest::from_hash(self.hash),
            version: self.version,
        })
    }
}

/// Whether enough comes.
#[derive(Debug)]
struct Pace {
    stall: Duration,
    /// When this is over, [`LEAST`] must have come.
    deadline: Instant,
    bytes: u64,
}

impl Pace {
    fn begin(stall: Duration) -> Self {
        Self {
            stall,
            deadline: Instant::now() + stall,
            bytes: 0,
        }
    }

    fn add(&mut self, bytes: u64, now: Instant) {
        self.bytes += bytes;
        if self.bytes >= LEAST {
            (self.bytes, self.deadline) = (0, now + self.stall);
        }
    }
}

/// An error and why, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors repeat their cause.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
