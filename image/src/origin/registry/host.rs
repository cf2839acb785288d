//! A registry or mirror as one image's pull sees it: where its repository is, and how it lets us in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use reqwest::{RequestBuilder, Url};

use crate::config::{ImagesConfig, Secret};

/// Where Docker Hub's registry is, whose images are called by another name.
const DOCKER_HUB: (&str, &str) = ("docker.io", "index.docker.io");

/// The image's repository at the registry, or at a mirror.
#[derive(Debug)]
pub(super) struct Host {
    /// As messages name it.
    pub place: String,
    /// With the prefix of a mirror.
    pub repository: String,
    /// What the operator gave for it, and for nobody else.
    pub credentials: Credentials,
    /// The URL of its repository.
    url: String,
    /// Whether it has failed in this pull: a mirror that hangs costs its patience once, and not once for
    /// each layer.
    has_failed: AtomicBool,
    /// How the last request was let in.
    granted: Mutex<Grant>,
}

/// Who we are, to one host.
#[derive(Debug, Clone)]
pub(super) enum Credentials {
    Nobody,
    Password(String, Secret),
    /// A token that it takes as it is.
    Token(Secret),
}

/// How a host lets us in.
#[derive(Debug, Clone)]
pub(super) enum Grant {
    Anybody,
    Basic(String, Secret),
    Bearer(Secret),
}

impl Host {
    pub fn new(place: &str, repository: &str, config: &ImagesConfig) -> Self {
        let (registry, repository) = match place.split_once('/') {
            Some((registry, prefix)) => (registry, format!("{prefix}/{repository}")),
            None => (place, repository.to_owned()),
        };
        let entry = config.registries.get(registry).cloned().unwrap_or_default();
        let credentials = match (entry.token, entry.username, entry.password) {
            (Some(token), _, _) => Credentials::Token(token),
            (None, Some(username), Some(password)) => Credentials::Password(username, password),
            _ => Credentials::Nobody,
        };
        let granted = match &credentials {
            Credentials::Token(token) => Grant::Bearer(token.clone()),
            Credentials::Nobody | Credentials::Password(..) => Grant::Anybody,
        };
        Self {
            place: place.to_owned(),
            url: format!("{}/v2/{repository}", base(registry, config)),
            repository,
            credentials,
            has_failed: AtomicBool::new(false),
            granted: Mutex::new(granted),
        }
    }

    /// Where something of the repository is. Fails where the host's name is none.
    pub fn url(&self, path: &str) -> Result<Url, String> {
        let url = format!("{}/{path}", self.url).parse();
        url.map_err(|error| format!("its name makes no URL: {error}"))
    }

    pub fn granted(&self) -> Grant {
        let granted = self.granted.lock();
        granted.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_granted(&self, grant: Grant) {
        let granted = self.granted.lock();
        *granted.unwrap_or_else(PoisonError::into_inner) = grant;
    }

    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    pub fn set_failed(&self) {
        self.has_failed.store(true, Ordering::Relaxed);
    }
}

impl Grant {
    /// Shows it with a request.
    pub fn with(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Anybody => request,
            Self::Basic(username, password) => {
                request.basic_auth(username, Some(password.reveal()))
            }
            Self::Bearer(token) => request.bearer_auth(token.reveal()),
        }
    }
}

/// All that the operator named: registries, mirrors, and who is spoken to in plain HTTP.
pub(super) fn named(config: &ImagesConfig) -> impl Iterator<Item = Url> {
    let mirrors = config.registries.values().flat_map(|entry| &entry.mirrors);
    let mirrors = mirrors.map(|place| place.split_once('/').map_or(&**place, |(host, _)| host));
    let names = config.registries.keys().chain(&config.insecure);
    let names = names.map(String::as_str).chain(mirrors);
    names.filter_map(|registry| base(registry, config).parse().ok())
}

/// The URL of a registry that is named as references name it.
fn base(registry: &str, config: &ImagesConfig) -> String {
    let scheme = match config.insecure.contains(registry) {
        true => "http",
        false => "https",
    };
    let host = match registry == DOCKER_HUB.0 {
        true => DOCKER_HUB.1,
        false => registry,
    };
    format!("{scheme}://{host}")
}
