//! `/v1/demands`: what frameworks want and do not have, and why not.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use serde::Deserialize;
use tepui_types::FrameworkId;
use tepui_types::api::demand::DemandView;
use tepui_types::api::list::Page;
use tepui_types::api::problem::Problem;

use crate::Master;
use crate::http::error::ApiError;
use crate::http::frameworks::find;
use crate::http::page::{self, Paging};
use crate::http::request::{ApiQuery, read};

/// Filters of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    framework: Option<String>,
    limit: Option<usize>,
    page: Option<String>,
}

/// Lists open demand by framework and key.
#[utoipa::path(get, path = "/v1/demands", tag = "frameworks",
    params(
        ("framework" = Option<String>, Query, description = "Only of this one; id or name"),
        ("limit" = Option<usize>, Query), ("page" = Option<String>, Query),
    ),
    responses((status = 200, body = Page<DemandView>), (status = 400, body = Problem)))]
pub async fn list(
    Extract(master): Extract<Arc<Master>>,
    ApiQuery(filter): ApiQuery<Filter>,
) -> Result<Json<Page<DemandView>>, ApiError> {
    let paging = Paging::new(filter.limit, filter.page);
    let limit = paging.limit()?;
    let after: Option<(FrameworkId, String)> = paging.after()?;
    let state = read(&master).await?;
    let only = match &filter.framework {
        Some(framework) => Some(find(&state, framework)?.id),
        None => None,
    };
    let first = after
        .as_ref()
        .map_or(FrameworkId(0), |(framework, _)| *framework);
    let frameworks = state
        .frameworks
        .range(first..)
        .map(|(_, framework)| framework);
    let mut views = Vec::new();
    for framework in frameworks.filter(|framework| only.is_none_or(|only| only == framework.id)) {
        for (key, entry) in &framework.demands {
            let seen = after
                .as_ref()
                .is_some_and(|(id, last)| (framework.id, key.as_ref()) <= (*id, last.as_str()));
            if seen {
                continue;
            }
            let explanation = master
                .offers
                .with(|allocator| allocator.explain(&state, framework.id, &entry.demand));
            views.push(DemandView {
                framework: framework.id,
                framework_name: framework.info.name.clone(),
                key: key.to_string(),
                count: entry.demand.count,
                request: entry.demand.request.clone(),
                constraints: entry.demand.constraints.clone(),
                role: framework.role_of(&entry.demand).clone(),
                since: entry.since,
                explanation,
            });
            if views.len() > limit {
                break;
            }
        }
    }
    let key = |view: &DemandView| (view.framework, view.key.clone());
    let (items, next) = page::cut(views, limit, key);
    Ok(Json(Page {
        items,
        next,
        index: state.index,
        total: None,
    }))
}
