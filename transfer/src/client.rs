//! Asks servers that strangers name.
//!
//! Jobs name URLs and registries, and servers where they redirect to. Each step is judged by a
//! [`Reach`] before it is made, and credentials go no further than the server that they were for. Two
//! clients ask: one connects to no address that is closed, the other wherever a name leads. The other
//! is for what the operator named: servers, and proxies (`HTTPS_PROXY` and its like). What is asked
//! through a proxy is judged as far as its URL says where it leads.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::header::AUTHORIZATION;
use reqwest::redirect::Policy;
use reqwest::{RequestBuilder, Response, Url};

use crate::names::Names;
use crate::reach::{Reach, Unreachable};
use crate::redirect::{leads_to, refusal};

/// Asks by HTTP, and follows where it is led.
pub struct Client {
    guarded: reqwest::Client,
    trusting: reqwest::Client,
    /// Which of both: the same rules that the trusting client takes its proxies by.
    proxies: Matcher,
    reach: Arc<Reach>,
}

/// Which client asks.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    Guarded,
    Trusting,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody is asked there.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// A redirect that is not followed.
    #[error("{0}")]
    Redirect(&'static str),
    /// Something else. Its text does not have the URL, in which there may be credentials.
    #[error(transparent)]
    Failed(reqwest::Error),
}

impl Client {
    /// Asks nobody yet. Fails on a machine without certificates. `connect` is how long a connection
    /// may take.
    pub fn new(reach: Reach, connect: Duration) -> Result<Self, reqwest::Error> {
        let reach = Arc::new(reach);
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("tepui/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(connect)
                // Each step may be another client's.
                .redirect(Policy::none())
        };
        let guarded = builder().no_proxy().dns_resolver(Names(reach.clone()));
        Ok(Self {
            guarded: guarded.build()?,
            trusting: builder().build()?,
            proxies: Matcher::from_system(),
            reach,
        })
    }

    /// The answer of whoever has the last word. Its URL is where that is. `with` adds to the request.
    pub async fn get(
        &self,
        url: Url,
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, AskError> {
        let mut before = Vec::new();
        let mut client = self.client(&url)?;
        let mut request = with(client.get(url)).build()?;
        loop {
            let (url, mut headers) = (request.url().clone(), request.headers().clone());
            let response = client.execute(request).await?;
            let Some(next) = leads_to(&response) else {
                return Ok(response);
            };
            if next.origin() != url.origin() {
                headers.remove(AUTHORIZATION);
            }
            before.push(url);
            if let Some(why) = refusal(&before, &next) {
                return Err(AskError::Redirect(why));
            }
            client = self.client(&next)?;
            request = client.get(next).headers(headers).build()?;
        }
    }

    /// Who asks there.
    fn client(&self, url: &Url) -> Result<&reqwest::Client, Unreachable> {
        Ok(match Way::to(url, &self.reach, &self.proxies)? {
            Way::Guarded => &self.guarded,
            Way::Trusting => &self.trusting,
        })
    }
}

impl Way {
    fn to(url: &Url, reach: &Reach, proxies: &Matcher) -> Result<Self, Unreachable> {
        if reach.names(url) {
            return Ok(Self::Trusting);
        }
        let host = url.host_str().unwrap_or_default();
        let uri = url.as_str().parse();
        if uri.is_ok_and(|uri| proxies.intercept(&uri).is_some()) {
            reach.check_proxied(host)?;
            return Ok(Self::Trusting);
        }
        // Names are judged when they are looked up.
        reach.check_host(host)?;
        Ok(Self::Guarded)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("reach", &self.reach)
            .finish_non_exhaustive()
    }
}

impl From<reqwest::Error> for AskError {
    fn from(error: reqwest::Error) -> Self {
        match cause::<Unreachable>(&error) {
            Some(unreachable) => Self::Unreachable(*unreachable),
            None => Self::Failed(error.without_url()),
        }
    }
}

/// The first cause of this type.
fn cause<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_name_leads_to_is_trusted_for_proxies_and_named_servers_alone() {
        let url = |text: &str| text.parse::<Url>().unwrap();
        let reach = Reach::default().with_servers([url("http://registry:5000")]);
        let proxy = "http://localhost:3128";
        let proxies = Matcher::builder().https(proxy).no("near.example").build();
        for (text, way) in [
            ("https://far.example/a", Some(Way::Trusting)),
            ("https://near.example/a", Some(Way::Guarded)),
            ("http://far.example/a", Some(Way::Guarded)),
            // The proxy's own name opens it to nobody.
            ("http://localhost:3128/a", Some(Way::Guarded)),
            ("http://registry:5000/v2/", Some(Way::Trusting)),
            ("http://registry:5001/v2/", Some(Way::Guarded)),
            ("https://localhost/a", None),
            ("https://127.0.0.1/a", None),
            ("http://127.0.0.1/a", None),
        ] {
            assert_eq!(Way::to(&url(text), &reach, &proxies).ok(), way, "{text}");
        }
    }
}
