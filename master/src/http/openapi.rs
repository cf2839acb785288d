//! `/v1/openapi.json`: the API, described for programs.

use axum::Json;
use utoipa::OpenApi;

use crate::http::{
    agents, artifacts, attempts, backup, cluster, demands, events, files, frameworks, logs,
    maintenance, masters, reach, reservations, roles, services, settings, tasks, usage,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tepui",
        description = "The master's HTTP API. Errors are problem documents (RFC 9457). Requests \
            that change something take an `Idempotency-Key`; objects carry an `ETag`, and \
            changes honour `If-Match`.",
        version = "1"
    ),
    paths(
        cluster::show,
        agents::list,
        agents::show,
        agents::deactivate,
        agents::reactivate,
        agents::drain,
        agents::gone,
        agents::end_held,
        usage::of_agent,
        reservations::reserve,
        reservations::unreserve,
        reservations::create,
        reservations::destroy,
        reservations::grow,
        reservations::shrink,
        reservations::volumes,
        reservations::operations,
        maintenance::list,
        maintenance::schedule,
        maintenance::cancel,
        frameworks::list,
        frameworks::deploy,
        frameworks::show,
        frameworks::remove,
        frameworks::restart,
        frameworks::logs,
        demands::list,
        roles::list,
        roles::show,
        roles::set,
        roles::remove,
        settings::show,
        settings::set,
        tasks::list,
        tasks::show,
        tasks::kill,
        usage::of_task,
        attempts::list,
        logs::follow,
        services::list,
        services::show,
        files::root,
        files::below,
        reach::exec,
        reach::attach,
        reach::forward,
        masters::list,
        masters::add,
        masters::invite,
        masters::remove,
        masters::lead,
        artifacts::list,
        artifacts::put,
        artifacts::get,
        backup::send,
        events::follow,
    )
)]
struct Document;

/// The document.
pub async fn show() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
