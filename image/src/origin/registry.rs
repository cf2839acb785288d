//! A registry and its mirrors, over HTTP (OCI distribution-spec).
//!
//! Mirrors are asked first, in their order, then the registry itself; the round is tried anew, with
//! growing pauses, while the registry failed in a way that may pass. oci-client finds out how a
//! registry wants to know us. The bytes are read here: it would read a manifest or the text of an
//! error to its end, however long that is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use oci_client::Reference;
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use reqwest::header::{ACCEPT, RANGE};
use reqwest::{Response, StatusCode};
use tepui_transfer::{Draft, Pace, Sink, blocking, chain, continues, follow};
use tepui_types::Digest;
use tepui_types::image::RegistryImage;
use tokio::sync::OnceCell;
use tokio::time::{timeout, timeout_at};

use super::{Fetched, check};
use crate::config::ImagesConfig;
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

#[derive(Clone)]
struct Client {
    http: reqwest::Client,
    auth: oci_client::Client,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

/// One image at its registry.
#[derive(Debug)]
pub struct Registry {
    image: RegistryImage,
    hosts: Vec<Host>,
    clients: Arc<Clients>,
    config: Arc<ImagesConfig>,
}

/// The image's repository at the registry, or at a mirror.
#[derive(Debug)]
struct Host {
    /// As messages name it.
    place: String,
    /// Its repository.
    reference: Reference,
    /// The URL of its repository.
    url: String,
    auth: RegistryAuth,
    /// Whether it has failed in this pull: a mirror that hangs costs its patience once, and not once for
    /// each layer.
    has_failed: AtomicBool,
    /// How the last request was let in.
    granted: Mutex<Option<Grant>>,
}

/// How a host wants to know us.
#[derive(Debug, Clone)]
enum Grant {
    Anybody,
    Basic(String, String),
    Bearer(String),
}

impl Host {
    fn new(place: &str, repository: &str, config: &ImagesConfig) -> Self {
        let (registry, repository) = match place.split_once('/') {
            Some((registry, prefix)) => (registry, format!("{prefix}/{repository}")),
            None => (place, repository.to_owned()),
        };
        let reference =
            Reference::with_tag(registry.to_owned(), repository.clone(), "latest".to_owned());
        let scheme = match config.insecure.contains(registry) {
            true => "http",
            false => "https",
        };
        let host = reference.resolve_registry();
        let entry = config.registries.get(registry).cloned().unwrap_or_default();
        let auth = match (entry.token, entry.username, entry.password) {
            (Some(token), _, _) => RegistryAuth::Bearer(token.reveal().to_owned()),
            (None, Some(username), Some(password)) => {
                RegistryAuth::Basic(username, password.reveal().to_owned())
            }
            _ => RegistryAuth::Anonymous,
        };
        Self {
            place: place.to_owned(),
            url: format!("{scheme}://{host}/v2/{repository}"),
            reference,
            auth,
            has_failed: AtomicBool::new(false),
            granted: Mutex::default(),
        }
    }

    fn granted(&self) -> Option<Grant> {
        let granted = self.granted.lock();
        granted.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_granted(&self, grant: Grant) {
        let granted = self.granted.lock();
        *granted.unwrap_or_else(PoisonError::into_inner) = Some(grant);
    }
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
        let mut response = self.get(host, path, 0).await?;
        let mut pace = Pace::begin(self.config.stall);
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(host, &mut response, &mut pace).await? {
            if (bytes.len() + chunk.len()) as u64 > most {
                let why = format!("{} sends more than {most} bytes of it", host.place);
                return Err(ImageError::invalid(self.what(path), why));
            }
            bytes.extend_from_slice(&chunk);
        }
        if let Some(wanted) = wanted {
            check(&self.what(path), &host.place, &wanted, &Digest::of(&bytes))?;
        }
        Ok(bytes)
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
        while let Some(chunk) = self.chunk(host, &mut response, &mut pace).await? {
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
        let client = self.clients.get(&self.config).await;
        let client = client.map_err(|why| self.unavailable(host, path, &why))?;
        let mut grant = match host.granted() {
            Some(grant) => grant,
            None => self.authorize(client, host, path).await?,
        };
        let known = host.granted().is_some();
        let mut response = self.send(client, host, path, from, &grant).await?;
        if response.status() == StatusCode::UNAUTHORIZED && known {
            // Tokens are good for some minutes; this one was.
            grant = self.authorize(client, host, path).await?;
            response = self.send(client, host, path, from, &grant).await?;
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

    async fn send(
        &self,
        client: &Client,
        host: &Host,
        path: &str,
        from: u64,
        grant: &Grant,
    ) -> Result<Response, ImageError> {
        let request = client.http.get(format!("{}/{path}", host.url));
        let mut request = match grant {
            Grant::Anybody => request,
            Grant::Basic(username, password) => request.basic_auth(username, Some(password)),
            Grant::Bearer(token) => request.bearer_auth(token),
        };
        if path.starts_with("manifests/") {
            request = request.header(ACCEPT, MANIFESTS);
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        match timeout(self.config.stall, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.unavailable(host, path, &chain(&error))),
            Err(_) => Err(self.stalled(host, path)),
        }
    }

    async fn authorize(
        &self,
        client: &Client,
        host: &Host,
        path: &str,
    ) -> Result<Grant, ImageError> {
        if let RegistryAuth::Bearer(token) = &host.auth {
            return Ok(Grant::Bearer(token.clone()));
        }
        let pull = oci_client::RegistryOperation::Pull;
        let asked = client.auth.auth(&host.reference, &host.auth, pull);
        let Ok(asked) = timeout(self.config.stall, asked).await else {
            return Err(self.stalled(host, path));
        };
        match (asked, &host.auth) {
            (Ok(Some(token)), _) => Ok(Grant::Bearer(token)),
            (Ok(None), RegistryAuth::Basic(username, password)) => {
                Ok(Grant::Basic(username.clone(), password.clone()))
            }
            (Ok(None), _) => Ok(Grant::Anybody),
            (Err(OciDistributionError::AuthenticationFailure(_)), _) => {
                Err(self.refused(host, path))
            }
            (Err(error), _) => Err(self.unavailable(host, path, &chain(&error))),
        }
    }

    async fn chunk(
        &self,
        host: &Host,
        response: &mut Response,
        pace: &mut Pace,
    ) -> Result<Option<Bytes>, ImageError> {
        let path = response.url().path().to_owned();
        let chunk = match timeout_at(pace.deadline(), response.chunk()).await {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(error)) => return Err(self.unavailable(host, &path, &chain(&error))),
            Err(_) => return Err(self.stalled(host, &path)),
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

impl Clients {
    async fn get(&self, config: &ImagesConfig) -> Result<&Client, String> {
        let made = self.0.get_or_try_init(|| async {
            // oci-client panics where this fails: a machine without certificates.
            let http = reqwest::Client::builder()
                .user_agent(concat!("tepui/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(config.stall)
                .redirect(reqwest::redirect::Policy::custom(follow))
                .build()
                .map_err(|error| {
                    format!(
                        "{}: install the package ca-certificates on the agent",
                        chain(&error)
                    )
                })?;
            let insecure = config.insecure.iter().cloned().collect();
            let auth = oci_client::Client::new(oci_client::client::ClientConfig {
                protocol: oci_client::client::ClientProtocol::HttpsExcept(insecure),
                connect_timeout: Some(config.stall),
                read_timeout: Some(config.stall),
                ..oci_client::client::ClientConfig::default()
            });
            Ok(Client { http, auth })
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
            self.host().has_failed.store(true, Ordering::Relaxed);
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
    let well = places.find(|place| !hosts[*place].has_failed.load(Ordering::Relaxed));
    well.unwrap_or(place.max(last))
}
