//! A registry and its mirrors, over HTTP (OCI distribution-spec).
//!
//! Mirrors are asked first, in their order, then the registry itself; the round is tried anew, with
//! growing pauses, while the registry failed in a way that may pass. A registry that wants to know who
//! asks is told as its own answer says, and with what the operator gave for it alone: what a server that
//! it redirects to wants is not answered. Nothing is read further than it may be long.

mod challenge;
mod host;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, HeaderMap, RANGE};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use tepui_transfer::{
    AskError, Client, Draft, Pace, Reach, Sink, Unreachable, blocking, chain, continues,
};
use tepui_types::Digest;
use tepui_types::image::RegistryImage;
use tokio::sync::OnceCell;
use tokio::time::{timeout, timeout_at};

use self::challenge::{Challenge, MAX_TOKEN_BYTES, Realm, token};
use self::host::{Credentials, Grant, Host};
use super::{Fetched, check};
use crate::config::{ImagesConfig, Secret};
use crate::error::ImageError;
use crate::manifest::{Blob, MAX_MANIFEST_BYTES};
use crate::store::Store;

/// Rounds until an image counts as unavailable: with the pauses between them, about six seconds
/// beyond what the tries themselves take. Whoever launches tasks has a longer patience.
const ROUNDS: u32 = 6;

/// What manifests may be.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// What all registries are spoken to with, made when the first is.
#[derive(Debug, Default)]
pub struct Clients(OnceCell<Client>);

/// One image at its registry.
#[derive(Debug)]
pub struct Registry {
    image: RegistryImage,
    hosts: Vec<Host>,
    clients: Arc<Clients>,
    config: Arc<ImagesConfig>,
}

impl Registry {
    /// The image, at whoever the configuration names.
    pub fn new(image: RegistryImage, clients: Arc<Clients>, config: Arc<ImagesConfig>) -> Self {
        let entry = config.registries.get(&image.registry);
        let mirrors = entry.map(|entry| &entry.mirrors[..]).unwrap_or_default();
        let places = mirrors.iter().chain([&image.registry]);
        let hosts = places.map(|place| Host::new(place, &image.repository, &config));
        Self {
            hosts: hosts.collect(),
            image,
            clients,
            config,
        }
    }

    /// The manifest or index that the reference names.
    pub async fn top(&self) -> Result<Vec<u8>, ImageError> {
        let path = match (&self.image.digest, &self.image.tag) {
            (Some(digest), _) => format!("manifests/{digest}"),
            (None, tag) => format!("manifests/{}", tag.as_deref().unwrap_or("latest")),
        };
        let wanted = self.image.digest;
        self.small(&path, wanted, MAX_MANIFEST_BYTES).await
    }

    /// A manifest by its digest.
    pub async fn manifest(&self, blob: &Blob) -> Result<Vec<u8>, ImageError> {
        let path = format!("manifests/{}", blob.digest);
        self.small(&path, Some(blob.digest), MAX_MANIFEST_BYTES)
            .await
    }

    /// A small blob.
    pub async fn bytes(&self, blob: &Blob) -> Result<Vec<u8>, ImageError> {
        let path = format!("blobs/{}", blob.digest);
        self.small(&path, Some(blob.digest), blob.size).await
    }

    /// A large one. A download that broke off goes on where it was.
    pub async fn file(
        &self,
        blob: &Blob,
        store: &Store,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Fetched, ImageError> {
        let mut attempts = Attempts::new(&self.hosts, self.config.pause);
        let mut download = Download::new(store.draft()).await?;
        loop {
            let host = attempts.host();
            match self.download(host, blob, &mut download, progress).await {
                Ok(()) => return Ok(Fetched::Draft(download.draft)),
                Err(error) => attempts.failed(error).await?,
            }
        }
    }

    async fn small(
        &self,
        path: &str,
        wanted: Option<Digest>,
        most: u64,
    ) -> Result<Vec<u8>, ImageError> {
        let mut attempts = Attempts::new(&self.hosts, self.config.pause);
        loop {
            let host = attempts.host();
            match self.try_small(host, path, wanted, most).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => attempts.failed(error).await?,
            }
        }
    }

    async fn try_small(
        &self,
        host: &Host,
        path: &str,
        wanted: Option<Digest>,
        most: u64,
    ) -> Result<Vec<u8>, ImageError> {
        let response = self.get(host, path, 0).await?;
        let bytes = self.read(host, path, response, most).await?;
        let bytes = bytes.ok_or_else(|| {
            let why = format!("{} sends more than {most} bytes of it", host.place);
            ImageError::invalid(self.what(path), why)
        })?;
        if let Some(wanted) = wanted {
            check(&self.what(path), &host.place, &wanted, &Digest::of(&bytes))?;
        }
        Ok(bytes)
    }

    /// All that an answer has, if that is no more than `most`.
    async fn read(
        &self,
        host: &Host,
        path: &str,
        mut response: Response,
        most: u64,
    ) -> Result<Option<Vec<u8>>, ImageError> {
        let mut pace = Pace::begin(self.config.stall);
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(host, path, &mut response, &mut pace).await? {
            if (bytes.len() + chunk.len()) as u64 > most {
                return Ok(None);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }

    async fn download(
        &self,
        host: &Host,
        blob: &Blob,
        download: &mut Download,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), ImageError> {
        let path = format!("blobs/{}", blob.digest);
        if download.got() == blob.size {
            // All of it came, and it was something else.
            download.restart().await?;
        }
        let mut response = self.get(host, &path, download.got()).await?;
        if !continues(&response, download.got()) {
            download.restart().await?;
        }
        let mut pace = Pace::begin(self.config.stall);
        while let Some(chunk) = self.chunk(host, &path, &mut response, &mut pace).await? {
            if download.got() + chunk.len() as u64 > blob.size {
                download.restart().await?;
                let why = format!("{} sends more than {} bytes of it", host.place, blob.size);
                return Err(ImageError::invalid(self.what(&path), why));
            }
            download.take(&chunk).await?;
            progress(download.got());
        }
        if download.got() < blob.size {
            return Err(self.unavailable(host, &path, "it sends too few bytes"));
        }
        let found = download.finish().await?;
        check(&self.what(&path), &host.place, &blob.digest, &found)
    }

    /// An answer that is good. `from` asks for the rest of a blob only.
    async fn get(&self, host: &Host, path: &str, from: u64) -> Result<Response, ImageError> {
        let url = host.url(path);
        let url = url.map_err(|why| self.unavailable(host, path, &why))?;
        let mut grant = host.granted();
        let mut response = self.try_get(host, path, &url, from, &grant).await?;
        if let Some(new) = self.sign_in(host, path, &response, &url, &grant).await? {
            grant = new;
            response = self.try_get(host, path, &url, from, &grant).await?;
        }
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                host.set_granted(grant);
                Ok(response)
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.refused(host, path)),
            StatusCode::NOT_FOUND => Err(ImageError::Unknown {
                what: self.what(path),
                place: host.place.clone(),
            }),
            status => Err(self.unavailable(host, path, &format!("it answers {status}"))),
        }
    }

    async fn try_get(
        &self,
        host: &Host,
        path: &str,
        url: &Url,
        from: u64,
        grant: &Grant,
    ) -> Result<Response, ImageError> {
        let with = |mut request: RequestBuilder| {
            if path.starts_with("manifests/") {
                request = request.header(ACCEPT, MANIFESTS);
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            grant.with(request)
        };
        self.send(host, path, url.clone(), with).await
    }

    /// Asks, for the image's sake, and has whatever answer there is.
    async fn send(
        &self,
        host: &Host,
        path: &str,
        url: Url,
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, ImageError> {
        let client = self.clients.get(&self.config).await;
        let client = client.map_err(|why| self.unavailable(host, path, &why))?;
        match timeout(self.config.stall, client.get(url, with)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.failure(host, path, error)),
            Err(_) => Err(self.stalled(host, path)),
        }
    }

    /// What lets us in after this answer to `url`, if we know and have not tried it.
    async fn sign_in(
        &self,
        host: &Host,
        path: &str,
        answer: &Response,
        url: &Url,
        tried: &Grant,
    ) -> Result<Option<Grant>, ImageError> {
        // Another server's challenge is none of this registry's, and its tokens are not for it.
        let is_other = answer.url().origin() != url.origin();
        // A token of the configuration was tried already.
        if is_other || matches!(host.credentials, Credentials::Token(_)) {
            return Ok(None);
        }
        match (answer.status(), &host.credentials, tried) {
            (StatusCode::UNAUTHORIZED, ..) => {
                self.answer_to(host, path, answer.headers(), tried).await
            }
            // So some answer strangers, for what they do have.
            (
                StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::TOO_MANY_REQUESTS,
                Credentials::Password(..),
                Grant::Anybody,
            ) => match self.root(host, path, url).await {
                Some(root) => self.answer_to(host, path, root.headers(), tried).await,
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// What the registry itself answers, if that says how it lets whom in.
    async fn root(&self, host: &Host, path: &str, url: &Url) -> Option<Response> {
        let mut root = url.clone();
        root.set_path("/v2/");
        let answer = self.send(host, path, root, |request| request).await.ok()?;
        let is_its_own = answer.url().origin() == url.origin();
        let is_known = matches!(answer.status(), StatusCode::OK | StatusCode::UNAUTHORIZED);
        (is_its_own && is_known).then_some(answer)
    }

    /// What a challenge wants, if we have it and it is not what was tried. The registry gets its
    /// password also where it says nothing that we understand: there are such, and it is theirs.
    async fn answer_to(
        &self,
        host: &Host,
        path: &str,
        headers: &HeaderMap,
        tried: &Grant,
    ) -> Result<Option<Grant>, ImageError> {
        let challenge = Challenge::of(headers);
        let challenge = challenge.map_err(|why| self.not_signed_in(host, path, why))?;
        match (challenge, &host.credentials) {
            (Some(Challenge::Bearer(realm)), _) => {
                let token = self.token(host, path, &realm).await?;
                Ok(Some(Grant::Bearer(token)))
            }
            (Some(Challenge::Basic) | None, Credentials::Password(username, password)) => {
                let is_new = !matches!(tried, Grant::Basic(..));
                Ok(is_new.then(|| Grant::Basic(username.clone(), password.clone())))
            }
            (Some(Challenge::Basic) | None, _) => Ok(None),
        }
    }

    /// A token of the realm that the host names. It is the host's to say who gets to see its password,
    /// as long as that is in TLS.
    async fn token(&self, host: &Host, path: &str, realm: &Realm) -> Result<Secret, ImageError> {
        let fail = |why| self.not_signed_in(host, path, why);
        realm.check(&self.config.insecure).map_err(fail)?;
        let with = |request: RequestBuilder| match &host.credentials {
            Credentials::Password(username, password) => {
                request.basic_auth(username, Some(password.reveal()))
            }
            Credentials::Nobody | Credentials::Token(_) => request,
        };
        let url = realm.url(&host.repository);
        let response = self.send(host, path, url, with).await;
        let response = response.map_err(|error| realm_failed(realm, error))?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                return Err(self.refused(host, path));
            }
            status => {
                let why = format!("{}, where it has tokens, answers {status}", realm.place());
                return Err(self.unavailable(host, path, &why));
            }
        }
        let bytes = self.read(host, path, response, MAX_TOKEN_BYTES).await;
        let bytes = bytes.map_err(|error| realm_failed(realm, error))?;
        let bytes = bytes.ok_or_else(|| {
            fail(format!(
                "{}, where it has tokens, sends more than {MAX_TOKEN_BYTES} bytes for one",
                realm.place()
            ))
        })?;
        token(&bytes).map_err(|why| fail(format!("it has tokens at {}, and {why}", realm.place())))
    }

    async fn chunk(
        &self,
        host: &Host,
        path: &str,
        response: &mut Response,
        pace: &mut Pace,
    ) -> Result<Option<Bytes>, ImageError> {
        let chunk = match timeout_at(pace.deadline(), response.chunk()).await {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(error)) => return Err(self.failure(host, path, error.into())),
            Err(_) => return Err(self.stalled(host, path)),
        };
        if let Some(chunk) = &chunk {
            pace.add(chunk.len() as u64);
        }
        Ok(chunk)
    }

    /// What a request was for, in words.
    fn what(&self, path: &str) -> String {
        match path.split_once("blobs/") {
            Some((_, digest)) => format!("{digest} of {}", self.image),
            None => self.image.to_string(),
        }
    }

    fn refused(&self, host: &Host, path: &str) -> ImageError {
        ImageError::Unauthorized {
            what: self.what(path),
            place: host.place.clone(),
        }
    }

    fn not_signed_in(&self, host: &Host, path: &str, why: String) -> ImageError {
        ImageError::SignIn {
            what: self.what(path),
            place: host.place.clone(),
            why,
        }
    }

    /// What a request that got no answer means.
    fn failure(&self, host: &Host, path: &str, error: AskError) -> ImageError {
        match error {
            AskError::Unreachable(Unreachable { address, closed }) => ImageError::Address {
                what: self.what(path),
                place: host.place.clone(),
                address,
                why: closed.to_string(),
            },
            AskError::Redirect(why) => self.unavailable(host, path, &format!("it {why}")),
            AskError::Failed(error) => self.unavailable(host, path, &chain(&error)),
        }
    }

    fn unavailable(&self, host: &Host, path: &str, why: &str) -> ImageError {
        ImageError::Unavailable {
            what: self.what(path),
            place: host.place.clone(),
            why: why.to_owned(),
        }
    }

    fn stalled(&self, host: &Host, path: &str) -> ImageError {
        let why = format!("it sent nothing for {:?}", self.config.stall);
        self.unavailable(host, path, &why)
    }
}

/// Says of an error that the registry is well, and where it has tokens is not.
fn realm_failed(realm: &Realm, error: ImageError) -> ImageError {
    match error {
        ImageError::Unavailable { what, place, why } => ImageError::Unavailable {
            what,
            place,
            why: format!("{}, where it has tokens, fails: {why}", realm.place()),
        },
        other => other,
    }
}

impl Clients {
    async fn get(&self, config: &ImagesConfig) -> Result<&Client, String> {
        let made = self.0.get_or_try_init(|| async {
            let reach = Reach::new(config.allow.clone()).with_servers(host::named(config));
            Client::new(reach, config.stall).map_err(|error| {
                let why = chain(&error);
                format!("{why}: install the package ca-certificates on the agent")
            })
        });
        made.await
    }
}

/// A blob on its way into a draft.
struct Download {
    draft: Draft,
    sink: Sink,
}

impl Download {
    async fn new(draft: Draft) -> Result<Self, ImageError> {
        // The draft goes along: made after its pull has ended, the file would stay.
        let (draft, file) = blocking::<_, ImageError>(move || {
            let file = std::fs::File::create(draft.path());
            let file = file.map_err(|error| ImageError::store("make", draft.path(), error))?;
            Ok((draft, file))
        })
        .await?;
        let sink = Sink::new(file);
        Ok(Self { draft, sink })
    }

    fn got(&self) -> u64 {
        self.sink.bytes()
    }

    async fn restart(&mut self) -> Result<(), ImageError> {
        let restarted = self.sink.restart().await;
        restarted.map_err(|error| ImageError::store("empty", self.draft.path(), error))
    }

    async fn take(&mut self, chunk: &[u8]) -> Result<(), ImageError> {
        let written = self.sink.take(chunk).await;
        written.map_err(|error| ImageError::store("write", self.draft.path(), error))
    }

    async fn finish(&mut self) -> Result<Digest, ImageError> {
        let finished = self.sink.finish().await;
        finished.map_err(|error| ImageError::store("write", self.draft.path(), error))
    }
}

/// Whose turn it is.
struct Attempts<'a> {
    hosts: &'a [Host],
    at: usize,
    round: u32,
    pause: Duration,
}

impl<'a> Attempts<'a> {
    fn new(hosts: &'a [Host], pause: Duration) -> Self {
        Self {
            hosts,
            at: well_from(hosts, 0),
            round: 1,
            pause,
        }
    }

    fn host(&self) -> &'a Host {
        &self.hosts[self.at]
    }

    /// Goes on to the next host or round, or gives the error back. The registry itself, which comes
    /// last in a round, decides whether there is another one. What was found out of a mirror holds for
    /// the rest of the pull.
    async fn failed(&mut self, error: ImageError) -> Result<(), ImageError> {
        if matches!(
            error,
            ImageError::Store { .. } | ImageError::DiskFull { .. }
        ) {
            return Err(error);
        }
        tracing::debug!(round = self.round, "not pulled: {error}");
        if error.retryable() {
            self.host().set_failed();
        }
        self.at = match self.round {
            1 => well_from(self.hosts, self.at + 1),
            _ => self.at + 1,
        };
        if self.at < self.hosts.len() {
            return Ok(());
        }
        if !error.retryable() || self.round == ROUNDS {
            return Err(error);
        }
        tokio::time::sleep(self.pause).await;
        self.pause *= 2;
        self.round += 1;
        self.at = 0;
        Ok(())
    }
}

/// The first from this place on that has not failed yet, or the registry itself, which comes last. Where
/// that fails too, the next round asks all again.
fn well_from(hosts: &[Host], place: usize) -> usize {
    let last = hosts.len() - 1;
    let mut places = place..last;
    let well = places.find(|place| !hosts[*place].has_failed());
    well.unwrap_or(place.max(last))
}
