//! How a registry wants to know who asks: what a 401 says (RFC 9110, section 11.6.1), where tokens are
//! had, and what comes from there (distribution-spec's token authentication).
//!
//! All of it is the registry's word. Tokens are asked for in plain HTTP of nobody whom the operator
//! did not list. Pure.

use std::collections::BTreeSet;

use http_auth::parser::ChallengeParser;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

use crate::config::Secret;

/// The most that a token's answer may have: more than servers take as the headers of a request.
pub(super) const MAX_TOKEN_BYTES: u64 = 64 * 1024;
/// Of what a registry sent, messages show so much.
const MAX_SHOWN: usize = 100;

/// What is wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// The password, with each request.
    Basic,
    /// A token of this realm.
    Bearer(Realm),
}

/// Where tokens are had.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Realm {
    url: Url,
    service: Option<String>,
}

impl Challenge {
    /// What an answer wants, if we know how: a token rather than a password. Fails where tokens alone
    /// are wanted and nobody knows whence.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, String> {
        let headers = headers.get_all(WWW_AUTHENTICATE).into_iter();
        let texts = headers.filter_map(|header| header.to_str().ok());
        // What is no challenge is passed over.
        let challenges = texts.flat_map(|text| ChallengeParser::new(text).filter_map(Result::ok));
        let (mut is_basic, mut failure) = (false, None);
        for challenge in challenges {
            let parameter = |name: &str| {
                let mut all = challenge.params.iter();
                let found = all.find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                match Realm::new(parameter("realm"), parameter("service")) {
                    Ok(realm) => return Ok(Some(Self::Bearer(realm))),
                    Err(why) => failure = Some(why),
                }
            }
            is_basic |= challenge.scheme.eq_ignore_ascii_case("basic");
        }
        match failure {
            _ if is_basic => Ok(Some(Self::Basic)),
            Some(why) => Err(why),
            None => Ok(None),
        }
    }
}

impl Realm {
    fn new(realm: Option<String>, service: Option<String>) -> Result<Self, String> {
        let realm = realm.ok_or("it does not say where tokens are had")?;
        match realm.parse() {
            Ok(url) => Ok(Self { url, service }),
            Err(_) => Err(format!(
                "it has tokens at {:?}, which is no URL",
                shown(&realm)
            )),
        }
    }

    /// As messages name it.
    pub fn place(&self) -> String {
        shown(&self.url.origin().ascii_serialization())
    }

    /// Whether it may be asked, if addresses do not matter: in TLS, or where the operator lists its
    /// host for plain HTTP.
    pub fn check(&self, insecure: &BTreeSet<String>) -> Result<(), String> {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port_or_known_default().unwrap_or_default();
        let is_listed = || {
            let has_port = insecure.contains(&format!("{host}:{port}"));
            has_port || self.url.port().is_none() && insecure.contains(host)
        };
        match self.url.scheme() {
            "https" => Ok(()),
            "http" if is_listed() => Ok(()),
            "http" => Err(format!(
                "it has tokens at {}, in plain HTTP: it should have them in TLS, or the agent's operator lists {} as insecure, too",
                self.place(),
                shown(&format!("{host}:{port}"))
            )),
            _ => Err(format!(
                "it has tokens at {:?}, which is no server",
                shown(self.url.as_str())
            )),
        }
    }

    /// What is asked, to pull from a repository.
    pub fn url(&self, repository: &str) -> Url {
        let mut url = self.url.clone();
        let scope = format!("repository:{repository}:pull");
        let service = self.service.iter().map(|service| ("service", service));
        url.query_pairs_mut()
            .extend_pairs(service)
            .append_pair("scope", &scope);
        url
    }
}

/// The token of an answer, by either of its names.
pub(super) fn token(answer: &[u8]) -> Result<Secret, &'static str> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Option<Answer> = serde_json::from_slice(answer).ok();
    let token = answer.and_then(|answer| answer.token.or(answer.access_token));
    let token = token.filter(|token| !token.is_empty());
    let token = token.ok_or("no token comes from there")?;
    match HeaderValue::from_str(&token) {
        Ok(_) => Ok(Secret::new(token)),
        Err(_) => Err("what comes from there as a token cannot be one"),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(lines: &[&'static str]) -> Result<Option<Challenge>, String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(line));
        }
        Challenge::of(&headers)
    }

    fn realm(text: &str) -> Realm {
        Realm::new(Some(text.to_owned()), None).unwrap()
    }

    #[test]
    fn a_token_is_preferred_wherever_it_stands() {
        let bearer = r#"BEARER Realm="https://a.example/token",service="the \"x\"""#;
        for lines in [
            &[bearer] as &[_],
            &["Basic realm=\"x\"", bearer],
            &["Negotiate", bearer, "Basic realm=\"x\""],
            &[r#"Basic realm="x", bearer realm="https://a.example/token", service="the \"x\"""#],
        ] {
            let Ok(Some(Challenge::Bearer(realm))) = challenge(lines) else {
                panic!("{lines:?}");
            };
            assert_eq!(realm.place(), "https://a.example");
            assert_eq!(realm.service.as_deref(), Some("the \"x\""));
        }
        for lines in [
            &["basic realm=x"] as &[_],
            &["Basic realm=x", "Bearer realm=x"],
            &["Bearer service=x, Basic realm=x"],
        ] {
            assert_eq!(challenge(lines), Ok(Some(Challenge::Basic)), "{lines:?}");
        }
        for lines in [&[] as &[_], &["Negotiate"], &["=,="]] {
            assert_eq!(challenge(lines), Ok(None), "{lines:?}");
        }
    }

    #[test]
    fn a_realm_is_a_url() {
        for line in ["Bearer service=x", "Bearer realm=x", "Bearer realm=\"\""] {
            assert!(challenge(&[line]).unwrap_err().contains("tokens"), "{line}");
        }
    }

    #[test]
    fn a_token_is_asked_for_by_repository_and_service() {
        let realm = Realm {
            service: Some("a b".into()),
            ..realm("https://a.example/token?x=1")
        };
        assert_eq!(
            realm.url("me/app").as_str(),
            "https://a.example/token?x=1&service=a+b&scope=repository%3Ame%2Fapp%3Apull"
        );
    }

    #[test]
    fn nobody_has_tokens_in_plain_http_who_is_not_listed() {
        let insecure = ["a:5000", "b", "[::1]:80"].map(str::to_owned);
        let insecure: BTreeSet<String> = insecure.into();
        for (text, is_open) in [
            ("https://c/token", true),
            ("http://a:5000/token", true),
            ("http://b/token", true),
            ("http://b:80/token", true),
            ("http://[::1]/token", true),
            ("http://a/token", false),
            ("http://a:5001/token", false),
            ("http://b:5000/token", false),
            ("http://c/token", false),
            ("ftp://b/token", false),
            ("file:///etc/passwd", false),
        ] {
            let checked = realm(text).check(&insecure);
            assert_eq!(checked.is_ok(), is_open, "{text}: {checked:?}");
        }
        let said = realm("http://c:7/token").check(&insecure).unwrap_err();
        assert!(said.contains("lists c:7 as insecure"), "{said}");
    }

    #[test]
    fn a_token_has_either_name_and_fits_a_header() {
        for (answer, expected) in [
            (r#"{"token":"a","expires_in":60}"#, Some("a")),
            (r#"{"access_token":"b"}"#, Some("b")),
            (r#"{"token":"a","access_token":"b"}"#, Some("a")),
            (r#"{"token":""}"#, None),
            (r#"{"token":"a\r\nhost: b"}"#, None),
            (r#"{"token":7}"#, None),
            ("{}", None),
            ("<html>", None),
        ] {
            let found = token(answer.as_bytes()).ok();
            let found = found.as_ref().map(Secret::reveal);
            assert_eq!(found, expected, "{answer}");
        }
    }

    #[test]
    fn messages_show_little_of_what_was_sent() {
        let long = format!("https://{}/", "a".repeat(10_000));
        assert!(realm(&long).place().len() <= MAX_SHOWN);
    }
}
