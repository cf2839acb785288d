//! Who is calling: principals of HTTP requests.
//!
//! Until accounts exist there is one user, the operator: proved by the local
//! token of the master's data folder, or, on loopback, by being there.

use std::net::IpAddr;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use tepui_types::Principal;

/// Tells callers apart.
#[derive(Debug, Clone)]
pub struct Identities {
    /// The token's digest: comparing digests takes the same time however many
    /// bytes of a guess are right.
    token: [u8; 32],
    /// Whether all masters have this token: then they prove themselves by it.
    is_shared: bool,
}

/// Why a caller is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// From another machine, without a token.
    #[error(
        "a request from another machine needs `Authorization: Bearer TOKEN`: the token stands in \
         the file `token` of the master's data folder"
    )]
    TokenMissing,
    /// Not a bearer token, or not ours.
    #[error("the token is not this master's: it stands in the file `token` of its data folder")]
    TokenWrong,
}

impl Identities {
    /// With the local token, or the one that all masters share.
    pub fn new(token: &str, is_shared: bool) -> Self {
        Self {
            token: Sha256::digest(token.trim()).into(),
            is_shared,
        }
    }

    /// The principal behind what only masters say. Where they share a token, being on this machine
    /// is not enough.
    pub fn identify_master(
        &self,
        headers: &HeaderMap,
        peer: IpAddr,
    ) -> Result<Principal, IdentityError> {
        if self.is_shared && !headers.contains_key(AUTHORIZATION) {
            return Err(IdentityError::TokenMissing);
        }
        self.identify(headers, peer)
    }

    /// The principal behind a request from `peer`.
    pub fn identify(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Principal, IdentityError> {
        let Some(authorization) = headers.get(AUTHORIZATION) else {
            return if peer.to_canonical().is_loopback() {
                Ok(Principal::loopback_operator())
            } else {
                Err(IdentityError::TokenMissing)
            };
        };
        let text = authorization
            .to_str()
            .map_err(|_| IdentityError::TokenWrong)?;
        let token = text
            .strip_prefix("Bearer ")
            .ok_or(IdentityError::TokenWrong)?;
        if <[u8; 32]>::from(Sha256::digest(token.trim())) == self.token {
            Ok(Principal::loopback_operator())
        } else {
            Err(IdentityError::TokenWrong)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_needs_no_token_but_a_wrong_one_is_refused_everywhere() {
        let identities = Identities::new("secret\n", true);
        let (here, there) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([10, 0, 0, 1]));
        let mut headers = HeaderMap::new();
        assert!(identities.identify(&headers, here).is_ok());
        assert_eq!(
            identities.identify_master(&headers, here),
            Err(IdentityError::TokenMissing)
        );
        assert!(
            Identities::new("x", false)
                .identify_master(&headers, here)
                .is_ok()
        );
        assert_eq!(
            identities.identify(&headers, there),
            Err(IdentityError::TokenMissing)
        );
        headers.insert(AUTHORIZATION, "Bearer secret".parse().unwrap());
        assert!(identities.identify(&headers, there).is_ok());
        headers.insert(AUTHORIZATION, "Bearer guess".parse().unwrap());
        assert_eq!(
            identities.identify(&headers, here),
            Err(IdentityError::TokenWrong)
        );
    }
}
