//! The HTTP API: every route, and what all of them share.
//!
//! Shape is checked here; preconditions are checked when a command is applied.
//! Every request passes the [`guard`] first.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request};
use axum::http::Uri;
use axum::middleware;
use axum::response::Response;
use axum::routing::{any, delete, get, post};
use axum::{Extension, Router};
use tower_http::catch_panic::CatchPanicLayer;

use crate::Master;
use crate::artifacts::ArtifactError;
use crate::http::body::Limit;
use crate::http::error::ApiError;

pub mod agents;
pub mod artifacts;
pub mod attempts;
pub mod backup;
pub mod body;
pub mod caller;
pub mod candidate;
pub mod cluster;
pub mod dashboard;
pub mod demands;
pub mod door;
pub mod error;
pub mod events;
pub mod files;
pub mod forward;
pub mod frameworks;
pub mod guard;
pub mod guest;
pub mod health;
pub mod logs;
pub mod maintenance;
pub mod masters;
pub mod openapi;
pub mod page;
pub mod reach;
pub mod request;
pub mod reservations;
pub mod roles;
pub mod services;
pub mod settings;
pub mod stale;
pub mod tasks;
pub mod usage;

/// All routes.
pub fn router(master: Arc<Master>) -> Router {
    let uploaded = Limit {
        bytes: master.artifacts.max_bytes(),
        refusal: |limit| ArtifactError::TooLarge { limit }.into(),
    };
    let artifact = get(artifacts::get).put(artifacts::put);
    let artifact_here = get(artifacts::get_here).put(artifacts::put_here);
    let api = Router::new()
        .route("/openapi.json", get(openapi::show))
        .route("/cluster", get(cluster::show))
        .route("/agents", get(agents::list))
        .route("/agents/{id}", get(agents::show))
        .route("/agents/{id}/deactivate", post(agents::deactivate))
        .route("/agents/{id}/reactivate", post(agents::reactivate))
        .route("/agents/{id}/drain", post(agents::drain))
        .route("/agents/{id}/gone", post(agents::gone))
        .route("/agents/{id}/end-held", post(agents::end_held))
        .route("/agents/{id}/usage", get(usage::of_agent))
        .route("/agents/{id}/reserve", post(reservations::reserve))
        .route("/agents/{id}/unreserve", post(reservations::unreserve))
        .route("/agents/{id}/volumes", post(reservations::create))
        .route(
            "/agents/{id}/volumes/{volume}",
            delete(reservations::destroy),
        )
        .route(
            "/agents/{id}/volumes/{volume}/grow",
            post(reservations::grow),
        )
        .route(
            "/agents/{id}/volumes/{volume}/shrink",
            post(reservations::shrink),
        )
        .route("/volumes", get(reservations::volumes))
        .route("/operations", get(reservations::operations))
        .route(
            "/maintenance",
            get(maintenance::list).post(maintenance::schedule),
        )
        .route("/maintenance/{id}", delete(maintenance::cancel))
        .route("/agents/connect", get(crate::agents::connect))
        .route(
            "/agents/streams/{stream}",
            get(crate::agents::streams::connect),
        )
        .route(
            "/frameworks",
            get(frameworks::list).post(frameworks::deploy),
        )
        .route(
            "/frameworks/{id}",
            get(frameworks::show).delete(frameworks::remove),
        )
        .route("/frameworks/{id}/restart", post(frameworks::restart))
        .route("/frameworks/{id}/logs", get(frameworks::logs))
        .route("/roles", get(roles::list))
        .route(
            "/roles/{*role}",
            get(roles::show).put(roles::set).delete(roles::remove),
        )
        .route("/settings", get(settings::show).put(settings::set))
        .route("/demands", get(demands::list))
        .route("/services", get(services::list))
        .route("/services/{framework}/{service}", get(services::show))
        .route("/tasks", get(tasks::list))
        .route("/tasks/{id}", get(tasks::show))
        .route("/tasks/{id}/history", get(attempts::list))
        .route("/tasks/{id}/kill", post(tasks::kill))
        .route("/tasks/{id}/usage", get(usage::of_task))
        .route("/tasks/{id}/logs/{output}", get(logs::follow))
        .route("/tasks/{id}/files", get(files::root))
        .route("/tasks/{id}/files/{*path}", get(files::below))
        .route("/tasks/{id}/exec", post(reach::exec))
        .route("/tasks/{id}/attach", post(reach::attach))
        .route("/tasks/{id}/forward/{port}", post(reach::forward))
        .route("/artifacts", get(artifacts::list))
        .route("/backup", get(backup::send))
        .route("/events", get(events::follow))
        .route("/masters", get(masters::list).post(masters::add))
        .route("/masters/invitations", post(masters::invite))
        .route("/masters/{id}", delete(masters::remove))
        .route("/masters/{id}/lead", post(masters::lead))
        .route("/masters/connect", get(masters::connect))
        .route("/masters/image", get(masters::send_image))
        .route("/masters/introduction", get(masters::introduce));
    let artifacts = Router::new()
        .route("/v1/artifacts/{digest}", artifact)
        .route("/v1/masters/artifacts/{digest}", artifact_here)
        .layer(middleware::from_fn_with_state(uploaded, body::bound));
    Router::new()
        .nest("/v1", api)
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/frameworks/{name}/", any(guest::on_request))
        .route("/frameworks/{name}/{*path}", any(guest::on_request))
        .layer(DefaultBodyLimit::max(request::MAX_BODY))
        .layer(middleware::from_fn_with_state(request::BODY, body::bound))
        .merge(artifacts)
        .fallback(get(dashboard::serve))
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(
            master.clone(),
            forward::forward,
        ))
        .layer(middleware::from_fn_with_state(master.clone(), stale::allow))
        .layer(middleware::from_fn_with_state(master.clone(), count))
        .layer(middleware::from_fn_with_state(master.clone(), guard::guard))
        .layer(middleware::from_fn(body::read_away))
        .layer(CatchPanicLayer::new())
        .layer(Extension(master.clone()))
        .with_state(master)
}

async fn wrong_method(uri: Uri) -> ApiError {
    ApiError::MethodNotAllowed(format!("`{}` does not take this method", uri.path()))
}

async fn count(
    axum::extract::State(master): axum::extract::State<Arc<Master>>,
    request: Request,
    next: middleware::Next,
) -> Response {
    let response = next.run(request).await;
    master.metrics.on_response(response.status());
    response
}
