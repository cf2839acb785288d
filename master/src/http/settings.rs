//! `/v1/settings`: what is decided for the whole cluster.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tepui_cluster::{Accepted, Command, State};
use tepui_types::api::problem::Problem;
use tepui_types::setting::Settings;

use crate::Master;
use crate::http::error::ApiError;
use crate::http::request::{ApiJson, Caller, read};

/// Shows the settings; what nobody has set is as usual.
#[utoipa::path(get, path = "/v1/settings", tag = "settings",
    responses((status = 200, body = Settings)))]
pub async fn show(Extract(master): Extract<Arc<Master>>) -> Result<Response, ApiError> {
    Ok(shown(&*read(&master).await?))
}

/// Sets them, whole; what is left out is as usual.
#[utoipa::path(put, path = "/v1/settings", tag = "settings",
    request_body = Settings,
    responses((status = 200, body = Settings), (status = 422, body = Problem)))]
pub async fn set(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiJson(settings): ApiJson<Settings>,
) -> Result<Response, ApiError> {
    settings.validate().map_err(ApiError::Unprocessable)?;
    let command = Command::SetSettings(settings);
    let Accepted::Settings { .. } = caller.submit(&master, command).await?.outcome? else {
        return Err(ApiError::Internal("unexpected outcome".into()));
    };
    Ok(shown(&master.view.load()))
}

fn shown(state: &State) -> Response {
    let record = &state.settings;
    let etag = format!("\"{}\"", record.revision);
    ([(header::ETAG, etag)], Json(&*record.settings)).into_response()
}
