//! `/v1/demands`: what frameworks want and do not have, and why not.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use serde::Deserialize;
use tepui_cluster::Allocator;
use tepui_cluster::state::frameworks::{Framework, GangEntry};
use tepui_types::api::demand::{DemandView, Explanation, GangView};
use tepui_types::api::list::Page;
use tepui_types::api::problem::Problem;
use tepui_types::{FrameworkId, Timestamp};

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
    let after: Option<(FrameworkId, bool, String)> = paging.after()?;
    let state = read(&master).await?;
    let only = match &filter.framework {
        Some(framework) => Some(find(&state, framework)?.id),
        None => None,
    };
    let first = after
        .as_ref()
        .map_or(FrameworkId(0), |(framework, ..)| *framework);
    let frameworks = state
        .frameworks
        .range(first..)
        .map(|(_, framework)| framework);
    let mut views = Vec::new();
    for framework in frameworks.filter(|framework| only.is_none_or(|only| only == framework.id)) {
        for (key, entry) in &framework.demands {
            if is_seen(&after, framework.id, false, key) {
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
                gang: None,
                since: entry.since,
                explanation,
            });
            if views.len() > limit {
                break;
            }
        }
        for (key, entry) in &framework.gangs {
            if views.len() > limit {
                break;
            }
            if is_seen(&after, framework.id, true, key) {
                continue;
            }
            let explain = |allocator: &mut Allocator| {
                let why = allocator.explain_gang(&state, framework.id, &entry.gang);
                (why, allocator.starts_by(framework.id, key))
            };
            let (explanation, starts_by) = master.offers.with(explain);
            views.extend(gang_view(framework, key, entry, explanation, starts_by));
        }
    }
    let key = |view: &DemandView| (view.framework, view.gang.is_some(), view.key.clone());
    let (items, next) = page::cut(views, limit, key);
    Ok(Json(Page {
        items,
        next,
        index: state.index,
        total: None,
    }))
}

/// Whether a page before this one had it: a framework's gangs come after its single demands.
fn is_seen(
    after: &Option<(FrameworkId, bool, String)>,
    framework: FrameworkId,
    is_gang: bool,
    key: &str,
) -> bool {
    let after = after.as_ref();
    after.is_some_and(|(id, gang, last)| (framework, is_gang, key) <= (*id, *gang, last.as_str()))
}

fn gang_view(
    framework: &Framework,
    key: &str,
    entry: &GangEntry,
    explanation: Explanation,
    starts_by: Option<Timestamp>,
) -> Option<DemandView> {
    let first = entry.gang.parts.first()?;
    Some(DemandView {
        framework: framework.id,
        framework_name: framework.info.name.clone(),
        key: key.to_owned(),
        count: entry.gang.count(),
        request: first.request.clone(),
        constraints: first.constraints.clone(),
        role: framework.role_of_gang(&entry.gang).clone(),
        gang: Some(GangView {
            parts: entry.gang.parts.clone(),
            deadline: entry.deadline,
            starts_by,
        }),
        since: entry.since,
        explanation,
    })
}
