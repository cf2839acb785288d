//! Requests to other masters.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use tepui_types::api::master::Introduction;

use super::founding::INTRODUCTION_PATH;

/// How long a master may take to be reached: in a data centre far longer than it does, and short
/// enough to try another.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// There is no way to other masters.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// The client could not be made.
    #[error("failed to set up the client for other masters")]
    Client(#[source] reqwest::Error),
    /// The system has none.
    #[error("failed to draw a random number: {0}")]
    Random(getrandom::Error),
}

/// Makes requests to other masters; clones share connections.
#[derive(Debug, Clone)]
pub struct Peers {
    client: reqwest::Client,
    token: Option<Arc<str>>,
    process: u128,
}

impl Peers {
    /// With the token that all masters of the cluster share, if they do.
    pub fn new(token: Option<&str>) -> Result<Self, PeersError> {
        let client = tepui_lifeline::watched(reqwest::Client::builder())
            // Masters speak plain HTTP: a machine without certificates is as good as any.
            .tls_certs_only([])
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(PeersError::Client)?;
        let token = token.map(Arc::from);
        let mut process = [0; 16];
        getrandom::fill(&mut process).map_err(PeersError::Random)?;
        Ok(Self {
            client,
            token,
            process: u128::from_le_bytes(process),
        })
    }

    /// Tells this process from every other one.
    pub fn process(&self) -> u128 {
        self.process
    }

    /// What the master at `url` says of itself.
    pub async fn introduction(&self, url: &str) -> reqwest::Result<Introduction> {
        let request = self.request(Method::GET, url, INTRODUCTION_PATH);
        request.send().await?.error_for_status()?.json().await
    }

    /// A request to the master at `url`.
    pub fn request(&self, method: Method, url: &str, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{url}{path}"));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}
