//! Pages and APIs of a framework, below `/frameworks/{name}`.
//!
//! Answers are JSON, text or HTML; errors are problem documents (RFC 9457), as
//! the master's own are. The host adds headers that keep such pages away from
//! the dashboard: they run sandboxed, without cookies and without storage.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tepui_types::api::problem::{self, Problem};

/// A request. Credentials and cookies never reach a framework.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`…
    pub method: String,
    /// Below `/frameworks/{name}`, with a leading `/`, percent-encoded as it came.
    pub path: String,
    /// What stands after the `?`.
    pub query: Option<String>,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
    /// Who asks; verified by the host.
    pub principal: String,
}

impl Request {
    /// The first header of this name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }

    /// The path's parts, decoded: `/jobs/a%2Fb` is `["jobs", "a/b"]`. A trailing
    /// `/` makes no part.
    pub fn segments(&self) -> Vec<String> {
        self.path
            .split('/')
            .filter(|part| !part.is_empty())
            .map(decode)
            .collect()
    }

    /// The query's parameters, decoded; the last of a name counts.
    pub fn parameters(&self) -> BTreeMap<String, String> {
        let query = self.query.as_deref().unwrap_or_default();
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (
                    decode(&name.replace('+', " ")),
                    decode(&value.replace('+', " ")),
                )
            })
            .collect()
    }

    /// The body as JSON; `Err` is the answer to give: 400 where it is not JSON,
    /// 422 where it is not of this shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Response> {
        serde_json::from_slice(&self.body).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => Response::problem(
                422,
                "body-invalid",
                &format!("the body does not fit: {error}"),
            ),
            _ => Response::problem(
                400,
                "body-malformed",
                &format!("the body is not well-formed JSON: {error}"),
            ),
        })
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// A body of this content type.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self {
            status,
            headers,
            body: body.into(),
        }
    }

    /// Plain text.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", text.into())
    }

    /// A page. Escape what others wrote with [`escape`].
    pub fn html(status: u16, page: impl Into<String>) -> Self {
        Self::new(status, "text/html; charset=utf-8", page.into())
    }

    /// A value as JSON.
    pub fn json<T: Serialize>(status: u16, value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self::new(status, "application/json", body),
            Err(error) => Self::problem(
                500,
                "answer-invalid",
                &format!("the answer does not encode: {error}"),
            ),
        }
    }

    /// An error. `code` is kebab-case and for programs, `detail` is for people
    /// and says what would mend it.
    pub fn problem(status: u16, code: &str, detail: &str) -> Self {
        let problem = Problem {
            kind: format!("tag:tepui,2026:{code}"),
            title: title(status).into(),
            status,
            detail: detail.into(),
            code: code.into(),
        };
        // Texts and numbers always encode.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        Self::new(status, problem::CONTENT_TYPE, body)
    }

    /// 404: there is no such page.
    pub fn not_found(request: &Request) -> Self {
        Self::problem(
            404,
            "not-found",
            &format!("there is nothing at {}", request.path),
        )
    }

    /// 405: the page takes other methods.
    pub fn method_not_allowed(request: &Request, allowed: &str) -> Self {
        let detail = format!("{} takes {allowed}, not {}", request.path, request.method);
        Self::problem(405, "method-not-allowed", &detail).header("allow", allowed)
    }

    /// One more header, its name in lower case.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Whether it says that all went well.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

fn title(status: u16) -> &'static str {
    match status {
        400 => "Bad request",
        403 => "Forbidden",
        404 => "Not found",
        405 => "Method not allowed",
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition failed",
        413 => "Too large",
        422 => "Invalid",
        429 => "Too many requests",
        503 => "Unavailable",
        _ if status >= 500 => "Internal error",
        _ => "Problem",
    }
}

/// Text that is safe between HTML's tags and inside its quoted attributes.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// Percent-decodes; what is no valid escape stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digit = |offset: usize| {
            bytes
                .get(at + offset)
                .and_then(|byte| char::from(*byte).to_digit(16))
        };
        match (bytes[at], digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => {
                // Two hexadecimal digits fit a byte.
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, _, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_decoded() {
        let request = Request {
            path: "/jobs/a%2Fb/%".into(),
            query: Some("limit=10&after=x+y&flag&=&last=%C3%A9".into()),
            ..Request::default()
        };
        assert_eq!(request.segments(), ["jobs", "a/b", "%"]);
        let parameters = request.parameters();
        assert_eq!(parameters["limit"], "10");
        assert_eq!(parameters["after"], "x y");
        assert_eq!(parameters["flag"], "");
        assert_eq!(parameters["last"], "é");
    }

    #[test]
    fn bodies_that_do_not_fit_become_problems() {
        let request = |body: &str| Request {
            body: body.into(),
            ..Request::default()
        };
        assert_eq!(request("7").json::<u32>(), Ok(7));
        assert_eq!(request("seven").json::<u32>().unwrap_err().status, 400);
        let refused = request("\"x\"").json::<u32>().unwrap_err();
        assert_eq!(refused.status, 422);
        let problem: Problem = serde_json::from_slice(&refused.body).unwrap();
        assert_eq!(problem.kind, "tag:tepui,2026:body-invalid");
    }

    #[test]
    fn foreign_text_cannot_leave_its_place() {
        assert_eq!(escape("<a href='x'>&"), "&lt;a href=&#39;x&#39;&gt;&amp;");
    }
}
