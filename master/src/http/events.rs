//! `/v1/events`: what changed, in order, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Extract;
use axum::http::HeaderMap;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};
use serde::Deserialize;
use tepui_types::api::event::{Event, EventBody, Sequence};
use tepui_types::api::problem::Problem;

use crate::Master;
use crate::feed::Subscription;
use crate::http::error::ApiError;
use crate::http::request::ApiQuery;

/// Silence after which a comment line tells that the connection lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Where to begin.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    after: Option<String>,
}

/// Follows the cluster's events.
#[utoipa::path(get, path = "/v1/events", tag = "cluster",
    params(
        ("after" = Option<String>, Query, description = "Sequence after which to begin, such as `1204.0`; now if absent"),
        ("last-event-id" = Option<String>, Header, description = "The same, as browsers send it"),
    ),
    responses(
        (status = 200, body = Event, content_type = "text/event-stream"),
        (status = 410, description = "Past the retention: read the lists anew", body = Problem),
    ))]
pub async fn follow(
    Extract(master): Extract<Arc<Master>>,
    ApiQuery(query): ApiQuery<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = query
        .after
        .map(|after| after.parse())
        .transpose()
        .map_err(ApiError::BadRequest)?;
    let after = last_event_id(&headers)?.or(asked);
    refuse_future(&master, after).await?;
    let subscription = master.feed.subscribe(after).map_err(|_| {
        ApiError::Gone(
            "events of that time are no longer kept: read the lists, and follow from their index"
                .into(),
        )
    })?;
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(lines(subscription))
        .keep_alive(keep_alive)
        .into_response())
}

/// Who asks for what comes after an event that never was would wait for no reason that it sees.
async fn refuse_future(master: &Master, after: Option<Sequence>) -> Result<(), ApiError> {
    let Some(after) = after.filter(|after| after.index > master.view.applied()) else {
        return Ok(());
    };
    // This master may only be behind.
    let index = master.proposals.read_index().await?;
    if after.index <= index {
        return Ok(());
    }
    Err(ApiError::BadRequest(format!(
        "there is no event {after} yet, the last entry is {index}: leave `after` out to begin now"
    )))
}

/// Ends when the reader is so slow that events are lost to it; it resumes, and
/// is told so.
fn lines(subscription: Subscription) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    let batches = stream::unfold(subscription, |mut subscription| async {
        let batch = subscription.next().await.ok()?;
        Some((batch, subscription))
    });
    batches.flat_map(|batch| stream::iter(batch.into_iter().map(|event| Ok(line(&event)))))
}

fn line(event: &Event) -> sse::Event {
    let name = match event.body {
        EventBody::Task { .. } => "task",
        EventBody::Agent { .. } => "agent",
        EventBody::Framework { .. } => "framework",
        EventBody::Demand { .. } => "demand",
        EventBody::Artifact { .. } => "artifact",
        EventBody::Master { .. } => "master",
        EventBody::Role { .. } => "role",
        EventBody::GangOverdue { .. } => "gang-overdue",
        EventBody::Settings {} => "settings",
    };
    let line = sse::Event::default()
        .id(event.sequence.to_string())
        .event(name);
    line.json_data(event).unwrap_or_else(|error| {
        tracing::error!(%error, "an event does not encode");
        sse::Event::default().comment("an event was lost")
    })
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<Sequence>, ApiError> {
    let Some(id) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let id = id
        .to_str()
        .map_err(|_| ApiError::BadRequest("Last-Event-ID is not text".into()))?;
    id.parse().map(Some).map_err(ApiError::BadRequest)
}
