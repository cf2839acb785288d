//! Downloads over HTTP.
//!
//! What may pass is tried anew with growing pauses, and goes on where it broke off if the server
//! still has the same. Everything goes into a draft and is hashed on its way; who sends too much, too
//! slowly, or leads out of TLS is given up.

use std::sync::Arc;

use reqwest::header::{
    ACCEPT_ENCODING, ETAG, HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    LAST_MODIFIED, RANGE,
};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use tepui_transfer::{
    AskError, Client, Draft, Pace, Reach, Report, Sink, Unreachable, blocking, chain, continues,
};
use tepui_types::Digest;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{timeout, timeout_at};

use crate::cache::{Cache, Version};
use crate::config::FetchConfig;
use crate::error::FetchError;
use crate::progress::Far;

/// Tries until a server counts as unavailable: with the pauses between them, about six seconds
/// beyond what the tries themselves take. Whoever launches tasks has a longer patience.
const TRIES: u32 = 6;

/// What all servers are spoken to with, made when the first is.
#[derive(Debug)]
pub(crate) struct Http {
    client: OnceCell<Client>,
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
        far: &Report<Far>,
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
        far: &Report<Far>,
    ) -> Result<bool, FetchError> {
        let mut response = self.send(ask, download).await?;
        match response.status() {
            StatusCode::NOT_MODIFIED if ask.known.is_some() && download.got() == 0 => {
                return Ok(false);
            }
            StatusCode::PARTIAL_CONTENT if continues(&response, download.got()) => {}
            StatusCode::OK => download.restart(version(response.headers())).await?,
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                download.restart(Version::default()).await?;
                return Err(unavailable(ask, "it does not go on where it broke off"));
            }
            status => return Err(refusal(ask, status)),
        }
        let total = response.content_length().map(|rest| download.got() + rest);
        self.bounded(ask, total.unwrap_or(0))?;
        let mut pace = Pace::begin(self.config.stall);
        loop {
            let done = download.got();
            far.say(Far { done, total });
            let chunk = match timeout_at(pace.deadline(), response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return Ok(true),
                Ok(Err(error)) => return Err(failure(ask, error.into())),
                Err(_) => return Err(self.stalled(ask)),
            };
            self.bounded(ask, done + chunk.len() as u64)?;
            download.take(&chunk).await?;
            pace.add(chunk.len() as u64);
        }
    }

    async fn send(&self, ask: &Ask, download: &Download) -> Result<Response, FetchError> {
        let client = self
            .client
            .get_or_try_init(|| async { client(&self.config) });
        let client = client.await.map_err(|why| unavailable(ask, &why))?;
        let answer = client.get(ask.url.clone(), |request| with(request, ask, download));
        match timeout(self.config.stall, answer).await {
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
            wanted: wanted.hex(),
            found: found.hex(),
        }),
        _ => Ok(()),
    }
}

/// Asks for the rest, for what has changed, or for all.
fn with(request: RequestBuilder, ask: &Ask, download: &Download) -> RequestBuilder {
    // What is hashed is what the server has, not what it makes of it on the way.
    let request = request.header(ACCEPT_ENCODING, "identity");
    if download.got() > 0
        && let Some(version) = strong(&download.version)
    {
        let range = format!("bytes={}-", download.got());
        return request.header(RANGE, range).header(IF_RANGE, version);
    }
    let Some(known) = &ask.known else {
        return request;
    };
    match (&known.etag, &known.last_modified) {
        (Some(etag), _) => request.header(IF_NONE_MATCH, etag),
        (None, Some(time)) => request.header(IF_MODIFIED_SINCE, time),
        (None, None) => request,
    }
}

fn client(config: &FetchConfig) -> Result<Client, String> {
    let client = Client::new(Reach::new(config.allow.clone()), config.stall);
    client.map_err(|error| {
        let why = chain(&error);
        format!("{why}: install the package ca-certificates on the agent")
    })
}

/// What a request that got no answer means.
fn failure(ask: &Ask, error: AskError) -> FetchError {
    let what = ask.name.clone();
    match error {
        AskError::Unreachable(Unreachable { address, closed }) => FetchError::Address {
            what,
            address,
            why: closed.to_string(),
        },
        AskError::Redirect(why) => FetchError::Redirect {
            what,
            why: why.to_owned(),
        },
        AskError::Failed(error) => unavailable(ask, &chain(&error)),
    }
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
    sink: Sink,
    version: Version,
}

impl Download {
    async fn new(cache: Arc<Cache>) -> Result<Self, FetchError> {
        let (draft, file) = blocking(move || cache.draft()).await?;
        Ok(Self {
            draft,
            sink: Sink::new(file),
            version: Version::default(),
        })
    }

    fn got(&self) -> u64 {
        self.sink.bytes()
    }

    async fn restart(&mut self, version: Version) -> Result<(), FetchError> {
        self.version = version;
        let restarted = self.sink.restart().await;
        restarted.map_err(|error| FetchError::disk("empty", self.draft.path(), error))
    }

    async fn take(&mut self, chunk: &[u8]) -> Result<(), FetchError> {
        let written = self.sink.take(chunk).await;
        written.map_err(|error| FetchError::disk("write", self.draft.path(), error))
    }

    async fn finish(mut self) -> Result<Downloaded, FetchError> {
        let digest = self.sink.finish().await;
        let digest = digest.map_err(|error| FetchError::disk("write", self.draft.path(), error))?;
        Ok(Downloaded {
            bytes: self.sink.bytes(),
            draft: self.draft,
            file: self.sink.into_file().await,
            digest,
            version: self.version,
        })
    }
}
