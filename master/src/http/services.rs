//! `/v1/services`: services and their instances, as DNS knows them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use serde::Deserialize;
use tepui_discovery::{MAX_PAGE, ServiceCursor, ServiceView, ServicesView};
use tepui_types::api::problem::Problem;

use crate::Master;
use crate::http::error::ApiError;
use crate::http::request::{ApiPath, ApiQuery};

/// From where on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    framework: Option<String>,
    service: Option<String>,
    limit: Option<usize>,
}

/// All services, by framework and name.
#[utoipa::path(get, path = "/v1/services", tag = "services",
    params(
        ("framework" = Option<String>, Query, description = "With `service`: what comes after that one, as `next` says"),
        ("service" = Option<String>, Query, description = "See `framework`"),
        ("limit" = Option<usize>, Query, description = "The most of one answer"),
    ),
    responses((status = 200, body = ServicesView)))]
pub async fn list(
    Extract(master): Extract<Arc<Master>>,
    ApiQuery(query): ApiQuery<Query>,
) -> Json<ServicesView> {
    let after = query.framework.zip(query.service);
    let after = after.map(|(framework, service)| ServiceCursor { framework, service });
    let limit = query.limit.unwrap_or(MAX_PAGE);
    let (directory, zone) = (master.discovery.directory().await, &master.discovery.zone);
    Json(tepui_discovery::services(
        &directory,
        zone,
        after.as_ref(),
        limit,
    ))
}

/// A service and its instances.
#[utoipa::path(get, path = "/v1/services/{framework}/{service}", tag = "services",
    params(("framework" = String, Path), ("service" = String, Path)),
    responses((status = 200, body = ServiceView), (status = 404, body = Problem)))]
pub async fn show(
    Extract(master): Extract<Arc<Master>>,
    ApiPath((framework, service)): ApiPath<(String, String)>,
) -> Result<Json<ServiceView>, ApiError> {
    let (directory, zone) = (master.discovery.directory().await, &master.discovery.zone);
    let found = tepui_discovery::service(&directory, zone, &framework, &service);
    found.map(Json).ok_or_else(|| {
        ApiError::NotFound(format!(
            "framework `{framework}` has no service `{service}`: tasks are instances of one by the \
             label `service`"
        ))
    })
}
