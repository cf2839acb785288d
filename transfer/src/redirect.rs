//! Where servers may send us: never out of TLS, and never to anything but a server.

use reqwest::header::{HeaderValue, LOCATION};
use reqwest::{Response, StatusCode, Url};

/// As far as browsers follow.
const MAX_REDIRECTS: usize = 10;

/// Where an answer sends whoever asked, if it does.
pub(crate) fn leads_to(response: &Response) -> Option<Url> {
    let is_redirect = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    let location = response.headers().get(LOCATION).filter(|_| is_redirect)?;
    target(response.url(), location)
}

/// Servers write what is not ASCII as it is, against RFC 3986, and browsers follow.
fn target(from: &Url, location: &HeaderValue) -> Option<Url> {
    let location = str::from_utf8(location.as_bytes()).ok()?;
    from.join(location).ok()
}

/// Why it is not followed after those before, if it is not.
pub(crate) fn refusal(before: &[Url], next: &Url) -> Option<&'static str> {
    let was_secret = before.iter().any(|url| url.scheme() == "https");
    if before.len() > MAX_REDIRECTS {
        Some("redirects without end")
    } else if was_secret && next.scheme() != "https" {
        Some("redirects from https to http")
    } else if !matches!(next.scheme(), "http" | "https") {
        Some("redirects to what is no server")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn redirects_may_be_relative_and_have_more_than_ascii() {
        for (location, expected) in [
            (&b"/x/y"[..], Some("https://a/x/y")),
            (
                "/f\u{fc}r/\u{65e5}?q=\u{e4}".as_bytes(),
                Some("https://a/f%C3%BCr/%E6%97%A5?q=%C3%A4"),
            ),
            (
                "https://b\u{fc}.example/".as_bytes(),
                Some("https://xn--b-eha.example/"),
            ),
            (b"/f\xfcr", None),
        ] {
            let header = HeaderValue::from_bytes(location).unwrap();
            let found = target(&url("https://a/b/c"), &header);
            assert_eq!(found, expected.map(url), "{header:?}");
        }
    }

    #[test]
    fn redirects_lead_to_servers_and_stay_in_tls() {
        for (before, next, why) in [
            ("http://a", "http://b", None),
            ("http://a", "https://b", None),
            ("https://a", "https://b", None),
            ("https://a", "http://a", Some("from https to http")),
            ("http://a", "file:///etc/passwd", Some("no server")),
        ] {
            let refused = refusal(&[url(before)], &url(next));
            assert_eq!(refused.is_some(), why.is_some(), "{before} {next}");
            assert!(
                refused
                    .unwrap_or_default()
                    .contains(why.unwrap_or_default())
            );
        }
        let before = vec![url("https://a"), url("https://b")];
        assert!(refusal(&before, &url("http://a")).is_some());
        let many = vec![url("http://a"); MAX_REDIRECTS];
        assert_eq!(refusal(&many, &url("http://a")), None);
        let many = vec![url("http://a"); MAX_REDIRECTS + 1];
        assert!(refusal(&many, &url("http://a")).is_some());
    }
}
