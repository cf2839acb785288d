//! Addresses of masters: one form for each, so that two can be compared.

use std::net::IpAddr;

use axum::http::uri::Authority;

/// The one form of an address: `http://`, a host, a port, and nothing else.
pub fn parse(text: &str) -> Result<String, String> {
    let bad = || {
        let shown: String = text.chars().take(100).collect();
        format!("`{shown}` is not a master's address: write it like http://10.0.0.1:5050")
    };
    let authority = text.strip_prefix("http://").unwrap_or(text);
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let parsed: Authority = authority.parse().map_err(|_| bad())?;
    if parsed.port_u16().is_none_or(|port| port == 0) || authority.contains('@') {
        return Err(bad());
    }
    Ok(format!("http://{}", authority.to_ascii_lowercase()))
}

/// Whether an address stands for every one of a machine's, so that nobody else can use it.
pub fn is_unspecified(url: &str) -> bool {
    let authority = url.strip_prefix("http://").unwrap_or(url);
    let authority: Option<Authority> = authority.parse().ok();
    let host = authority.as_ref().map(|authority| authority.host());
    let host = host.map(|host| host.trim_start_matches('[').trim_end_matches(']'));
    host.and_then(|host| host.parse::<IpAddr>().ok())
        .is_some_and(|address| address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_form() {
        for text in ["a:5050", "http://A:5050", "http://a:5050/"] {
            assert_eq!(parse(text).unwrap(), "http://a:5050");
        }
        for text in ["a", "a:0", "https://a:1", "http://a:1/x", "u@a:1", ""] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn some_addresses_stand_for_all() {
        assert!(is_unspecified("http://0.0.0.0:5050"));
        assert!(is_unspecified("http://[::]:5050"));
        assert!(!is_unspecified("http://10.0.0.1:5050"));
        assert!(!is_unspecified("http://master:5050"));
    }
}
