//! `/v1/tasks/{id}/logs/{output}`: a task's output, straight from its agent.

use std::future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State as Extract;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use serde::Deserialize;
use tepui_types::api::log::OFFSET_HEADER;
use tepui_types::api::problem::Problem;
use tepui_types::command::MAIN;
use tepui_types::wire::stream::{LogRequest, Output};
use tepui_types::{TaskId, Workload};

use crate::Master;
use crate::agents::streams::{Piece, StreamError};
use crate::http::error::ApiError;
use crate::http::request::{ApiPath, ApiQuery, read};
use crate::http::tasks::find_task;

/// How long an agent may take to say where the output begins. It does so at once; one of an earlier
/// release does not.
const PLACE_DEADLINE: Duration = Duration::from_secs(2);

/// Which part.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    #[serde(default)]
    offset: i64,
    #[serde(default)]
    follow: bool,
    member: Option<String>,
    #[serde(default)]
    exact: bool,
}

/// A task's standard output or error.
#[utoipa::path(get, path = "/v1/tasks/{id}/logs/{output}", tag = "tasks",
    params(
        ("id" = TaskId, Path),
        ("output" = Output, Path),
        ("offset" = Option<i64>, Query, description = "Bytes to skip, of all that was ever written; from the end when negative"),
        ("follow" = Option<bool>, Query, description = "Whether to go on until the task has ended"),
        ("member" = Option<String>, Query, description = "Of which of its commands; of its own when absent"),
        ("exact" = Option<bool>, Query, description = "Whether to break off where bytes were rotated away before they were read, rather than to say so in a line"),
    ),
    responses(
        (status = 200, content_type = "application/octet-stream", body = Vec<u8>,
            headers(("tepui-log-offset" = u64, description = "Where the answer's first byte is, of all that was ever written"))),
        (status = 404, body = Problem),
        (status = 503, description = "The task's agent is not connected", body = Problem),
    ))]
pub async fn follow(
    Extract(master): Extract<Arc<Master>>,
    ApiPath((id, output)): ApiPath<(TaskId, Output)>,
    ApiQuery(query): ApiQuery<LogQuery>,
) -> Result<Response, ApiError> {
    let task = find_task(&master, &*read(&master).await?, &id)?;
    if let Some(member) = &query.member {
        check_member(&task.spec.workload, member)?;
    }
    let request = LogRequest {
        task: id,
        member: query.member,
        output,
        offset: query.offset,
        follow: query.follow,
    };
    let pieces = master.sessions.open_output(task.agent, request).await?;
    let mut pieces = pieces.fuse();
    // What cannot be had is said before anything is sent.
    let first = tokio::time::timeout(PLACE_DEADLINE, pieces.next()).await;
    let first = first.ok().flatten().transpose()?;
    let begins = match &first {
        Some(Piece::Place(at)) => Some(*at),
        Some(Piece::Bytes(_)) | None => None,
    };
    // A place that comes late is compared with what was asked for.
    let next = begins.or_else(|| u64::try_from(query.offset).ok());
    let pieces = stream::iter(first.map(Ok)).chain(pieces);
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        // Output of a task is not a page of ours.
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let body = Body::from_stream(bytes_of(pieces, next, query.exact));
    let mut response = (headers, body).into_response();
    if let Some(begins) = begins {
        let name = HeaderName::from_static(OFFSET_HEADER);
        response
            .headers_mut()
            .insert(name, HeaderValue::from(begins));
    }
    Ok(response)
}

fn check_member(workload: &Workload, member: &str) -> Result<(), ApiError> {
    let names: Vec<&str> = match workload {
        Workload::Command(command) => command.names().collect(),
        Workload::Wasm(_) => vec![MAIN],
    };
    match names.contains(&member) {
        true => Ok(()),
        false => Err(ApiError::NotFound(format!(
            "the task has no command `{member}`; it has {}",
            names.join(", ")
        ))),
    }
}

/// The bytes of these, of which the first is at `next` where that is known, with a line where some are
/// left out, or up to there.
fn bytes_of(
    pieces: impl Stream<Item = Result<Piece, StreamError>>,
    mut next: Option<u64>,
    exact: bool,
) -> impl Stream<Item = Result<Bytes, StreamError>> {
    let mut in_line = false;
    pieces.filter_map(move |piece| {
        future::ready(match piece {
            Ok(Piece::Bytes(bytes)) => {
                next = next.map(|next| next.saturating_add(bytes.len() as u64));
                in_line = bytes.last().map_or(in_line, |last| *last != b'\n');
                Some(Ok(bytes))
            }
            Ok(Piece::Place(at)) => {
                match next.replace(at).map_or(0, |next| at.saturating_sub(next)) {
                    0 => None,
                    missed if exact => Some(Err(StreamError::Missed(missed))),
                    missed => Some(Ok(notice(missed, std::mem::take(&mut in_line)))),
                }
            }
            Err(error) => Some(Err(error)),
        })
    })
}

fn notice(missed: u64, in_line: bool) -> Bytes {
    let newline = if in_line { "\n" } else { "" };
    format!("{newline}[tepui: {missed} bytes were rotated away before they were read]\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(pieces: Vec<Piece>, next: Option<u64>, exact: bool) -> (String, Option<String>) {
        let bytes = bytes_of(stream::iter(pieces.into_iter().map(Ok)), next, exact);
        let all: Vec<_> = bytes.collect().await;
        let (mut text, mut error) = (String::new(), None);
        for bytes in all {
            match bytes {
                Ok(bytes) if error.is_none() => text.push_str(std::str::from_utf8(&bytes).unwrap()),
                Ok(_) => {}
                Err(why) => error = Some(why.to_string()),
            }
        }
        (text, error)
    }

    fn pieces() -> Vec<Piece> {
        let bytes = |text: &'static str| Piece::Bytes(Bytes::from_static(text.as_bytes()));
        let place = Piece::Place;
        vec![
            place(10),
            bytes("one\n"),
            bytes("tw"),
            place(116),
            bytes("four\n"),
        ]
    }

    #[tokio::test]
    async fn what_was_rotated_away_is_said_in_a_line_or_the_answer_breaks_off() {
        let (text, error) = said(pieces(), None, false).await;
        let notice = "\n[tepui: 100 bytes were rotated away before they were read]\n";
        assert_eq!((text, error), (format!("one\ntw{notice}four\n"), None));
        let (text, error) = said(pieces(), None, true).await;
        assert_eq!(text, "one\ntw");
        assert!(error.unwrap().starts_with("100 bytes were rotated away"));
    }

    #[tokio::test]
    async fn a_place_that_comes_late_is_compared_with_what_was_asked_for() {
        let missed = |first: u64| format!("{} bytes were rotated away", 10 - first);
        let (text, error) = said(pieces(), Some(3), false).await;
        assert!(
            text.starts_with(&format!("[tepui: {}", missed(3))),
            "{text}"
        );
        assert_eq!(error, None);
        // The answer ends with the first error.
        let cut = pieces().into_iter().take(3).collect();
        let (text, error) = said(cut, Some(3), true).await;
        assert_eq!(text, "");
        assert!(error.unwrap().starts_with(&missed(3)));
        let (text, _) = said(pieces(), Some(10), false).await;
        assert!(text.starts_with("one\n"), "{text}");
    }
}
