//! Looks names up, and hands on those addresses alone that may be asked.
//!
//! Connections are made to what comes out of here and to nothing else, so a name cannot lead to one
//! address when it is checked and to another when it is used.

use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::reach::Reach;

/// The resolver of a client.
#[derive(Debug)]
pub(crate) struct Names(pub Arc<Reach>);

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0.clone();
        Box::pin(async move {
            // The port is whoever connects to say.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let mut open: Vec<SocketAddr> = Vec::new();
            let mut refused = None;
            for address in found {
                match reach.check(address.ip()) {
                    Ok(()) => open.push(address),
                    Err(error) => refused = Some(error),
                }
            }
            match refused {
                Some(refused) if open.is_empty() => Err(refused.into()),
                _ => Ok(Box::new(open.into_iter()) as Addrs),
            }
        })
    }
}
