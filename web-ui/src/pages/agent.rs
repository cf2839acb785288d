//! One machine, and what runs on it.

use leptos::prelude::*;
use leptos_router::hooks::use_params_map;
use tepui_types::api::agent::AgentView;
use tepui_types::api::list::Page;
use tepui_types::api::task::TaskView;
use tepui_web::query::{self, TaskFilter};

use crate::app::PageHead;
use crate::components::loaded::{Empty, Loaded};
use crate::components::resource_bar::{BarCard, Resource};
use crate::components::table::Detail;
use crate::components::task_state::{StatePill, agent_state};
use crate::components::task_table::TaskTable;
use crate::components::time::Ago;
use crate::feed::Feed;
use crate::live::Topic;
use crate::pages::agents::agent_share;

/// The most tasks shown here; the task list has the rest.
const TASKS_SHOWN: &str = "50";

/// The page.
#[component]
pub fn AgentPage() -> impl IntoView {
    let params = use_params_map();
    let id = Memo::new(move |_| params.with(|params| params.get("id").unwrap_or_default()));
    let agent = Feed::<AgentView>::new(&[Topic::Agents, Topic::Tasks], move || {
        Some(format!("/v1/agents/{}", query::escape(&id.get())))
    });
    let filter = move || TaskFilter {
        agent: id.get(),
        ..TaskFilter::default()
    };
    let tasks = Feed::<Page<TaskView>>::new(&[Topic::Tasks], move || {
        Some(filter().applied_to("/v1/tasks", &[("limit", TASKS_SHOWN)]))
    });
    view! {
        <PageHead title=Signal::derive(move || format!("Agent {}", id.get())) above=("/agents", "Agents")/>
        <Loaded feed=agent let:agent>
            <AgentDetails agent=agent/>
        </Loaded>
        <section aria-labelledby="agent-tasks-title">
            <div class="section-head">
                <h2 id="agent-tasks-title">"Tasks"</h2>
                <a href=move || filter().applied_to("/tasks", &[])>"All its tasks"</a>
            </div>
            <Loaded feed=tasks let:page>
                <Show
                    when=move || page.with(|page| !page.items.is_empty())
                    fallback=|| view! { <Empty title="Nothing has run here yet."/> }
                >
                    <TaskTable tasks=Signal::derive(move || page.get().items)/>
                </Show>
            </Loaded>
        </section>
    }
}

#[component]
fn AgentDetails(agent: Signal<AgentView>) -> impl IntoView {
    let state =
        Signal::derive(move || agent.with(|agent| agent_state(agent.status, agent.connected)));
    let shown = Memo::new(move |_| {
        let has_gpus = agent.with(|agent| !agent.total.gpus.is_empty());
        let is_shown = |resource: &Resource| *resource != Resource::Gpus || has_gpus;
        Resource::ALL
            .into_iter()
            .filter(is_shown)
            .collect::<Vec<_>>()
    });
    let cards = move || {
        let card = |resource| {
            view! { <BarCard resource=resource share=agent_share(agent, resource)/> }
        };
        shown.get().into_iter().map(card).collect_view()
    };
    let attributes = move || {
        let attributes = agent.with(|agent| agent.attributes.clone());
        if attributes.is_empty() {
            return view! { <span class="muted">"none"</span> }.into_any();
        }
        let chip = |(name, value)| view! { <li>{format!("{name}={value}")}</li> };
        view! { <ul class="chips">{attributes.into_iter().map(chip).collect_view()}</ul> }
            .into_any()
    };
    let ports = move || {
        agent.with(|agent| {
            if agent.total.ports.is_empty() {
                "none".into()
            } else {
                agent.total.ports.to_string()
            }
        })
    };
    view! {
        <div class="cards">{cards}</div>
        <dl class="card details">
            <Detail term="Status">
                <StatePill state=state/>
            </Detail>
            <Detail term="Hostname">{move || agent.read().hostname.clone()}</Detail>
            <Detail term="Living tasks">{move || agent.read().tasks}</Detail>
            <Detail term="Ports">{ports}</Detail>
            <Detail term="Attributes">{attributes}</Detail>
            <Detail term="Release">{move || agent.read().version.clone()}</Detail>
            <Detail term="Registered">
                <Ago time=Signal::derive(move || agent.read().registered_at)/>
            </Detail>
        </dl>
    }
}
