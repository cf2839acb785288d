//! Why discovery could not be configured or started; each names the fix.

use std::io;
use std::net::SocketAddr;

/// What goes wrong before the first question.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// Not a domain that names can stand under.
    #[error(
        "`{domain}` is no domain for names of tasks: give labels of a-z, 0-9 and `-` with dots \
         between, at most {} characters, such as `tepui.`",
        crate::Zone::MAX_DOMAIN
    )]
    Domain {
        /// What was given, or its beginning.
        domain: String,
    },
    /// Kept for too long.
    #[error(
        "answers cannot be kept for {ttl_s} s: give at most {} s, better 5",
        crate::Zone::MAX_TTL_S
    )]
    Ttl {
        /// What was given.
        ttl_s: u32,
    },
    /// No address to listen on, or no upstream where some are asked for.
    #[error("the DNS server was given no {what}: name at least one, as in `{example}`")]
    Missing {
        /// What there is none of.
        what: &'static str,
        /// What one looks like.
        example: &'static str,
    },
    /// An address cannot be listened on.
    #[error(
        "failed to listen on {address} for DNS over {transport}: free the port, name another \
         address, or run as a user that may use it (ports under 1024 want CAP_NET_BIND_SERVICE)"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// How.
        transport: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}
