//! Where servers may send us: never out of TLS, and never to anything but a server.

use reqwest::redirect::{Action, Attempt};

/// As far as browsers follow.
const MAX_REDIRECTS: usize = 10;

/// Why a redirect is not followed, if it is not.
pub fn refusal(attempt: &Attempt<'_>) -> Option<&'static str> {
    let before = attempt.previous();
    let was_secret = before.iter().any(|url| url.scheme() == "https");
    let scheme = attempt.url().scheme();
    if before.len() > MAX_REDIRECTS {
        Some("redirects without end")
    } else if was_secret && scheme != "https" {
        Some("redirects from https to http")
    } else if !matches!(scheme, "http" | "https") {
        Some("redirects to what is no server")
    } else {
        None
    }
}

/// Follows what may be followed: a policy of a client.
pub fn follow(attempt: Attempt<'_>) -> Action {
    match refusal(&attempt) {
        Some(why) => attempt.error(why),
        None => attempt.follow(),
    }
}
