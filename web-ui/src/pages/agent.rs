//! One machine, and what runs on it.

use leptos::prelude::*;
use leptos_router::hooks::use_params_map;
use tepui_types::AgentStatus;
use tepui_types::api::agent::AgentView;
use tepui_types::api::list::Page;
use tepui_types::api::maintenance::WindowView;
use tepui_types::api::task::TaskView;
use tepui_types::resources::ResourceRequest;
use tepui_web::amounts;
use tepui_web::query::{self, TaskFilter};

use crate::api::{self, ApiError, IdempotencyKey};
use crate::app::PageHead;
use crate::components::confirm::ConfirmButton;
use crate::components::loaded::{Empty, Loaded};
use crate::components::resource_bar::{BarCard, Resource};
use crate::components::set_aside::SetAside;
use crate::components::table::Detail;
use crate::components::task_state::{StatePill, agent_state};
use crate::components::task_table::TaskTable;
use crate::components::time::{Ago, Ahead, exact};
use crate::feed::Feed;
use crate::live::Topic;
use crate::pages::agents::{Windows, agent_share, windows};

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
    let windows = windows();
    view! {
        <PageHead title=Signal::derive(move || format!("Agent {}", id.get())) above=("/agents", "Agents")>
            <Operations id=id agent=agent/>
        </PageHead>
        <Loaded feed=agent let:agent>
            <AgentDetails agent=agent windows=windows/>
            <SetAside agent=agent/>
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

/// What may be done with it now.
#[component]
fn Operations(id: Memo<String>, agent: Feed<AgentView>) -> impl IntoView {
    let is = move |wanted: fn(&AgentView) -> bool| {
        agent.data.with(|view| view.as_ref().is_some_and(wanted))
    };
    let is_open = move || {
        is(|view| {
            let takes_part = matches!(view.status, AgentStatus::Active | AgentStatus::Full);
            view.drain.is_none() && takes_part
        })
    };
    let is_closed =
        move || is(|view| view.drain.is_some() || view.status == AgentStatus::Deactivated);
    let is_there = move || is(|view| view.status != AgentStatus::Gone);
    view! {
        <Show when=is_open>
            <ConfirmButton
                label="Deactivate"
                title=Signal::derive(move || format!("Deactivate {}?", id.get()))
                text="Nothing more is placed on it. Its tasks go on."
                subject=id
                action=|id, key| Box::pin(operate(id, "deactivate", key))
                on_done=move || agent.refresh()
            />
            <ConfirmButton
                label="Drain"
                title=Signal::derive(move || format!("Drain {}?", id.get()))
                text="Nothing more is placed on it. Its tasks are ended, each with its grace, and run elsewhere."
                subject=id
                action=|id, key| Box::pin(operate(id, "drain", key))
                on_done=move || agent.refresh()
            />
        </Show>
        <Show when=is_closed>
            <ConfirmButton
                label="Reactivate"
                title=Signal::derive(move || format!("Reactivate {}?", id.get()))
                text="It is used again."
                subject=id
                action=|id, key| Box::pin(operate(id, "reactivate", key))
                on_done=move || agent.refresh()
            />
        </Show>
        <Show when=is_there>
            <ConfirmButton
                label="Give up"
                title=Signal::derive(move || format!("Give up {} for good?", id.get()))
                text="For a machine that never comes back: its tasks end as gone, and it is refused if it comes back. This cannot be undone."
                subject=id
                action=|id, key| Box::pin(operate(id, "gone", key))
                on_done=move || agent.refresh()
            />
        </Show>
    }
}

async fn operate(id: String, what: &str, key: IdempotencyKey) -> Result<(), ApiError> {
    let path = format!("/v1/agents/{}/{what}", query::escape(&id));
    api::change("POST", &path, None, &key).await.map(drop)
}

/// How far a drain is.
fn drain_text(agent: &AgentView) -> Option<String> {
    let drain = agent.drain.as_ref()?;
    let progress = match agent.tasks {
        0 => "no task is left".to_owned(),
        1 => "1 task left".to_owned(),
        tasks => format!("{tasks} tasks left"),
    };
    let window = drain
        .window
        .map(|window| format!(", for maintenance {window}"));
    let gone = drain.mark_gone.then_some(", then given up for good");
    Some(format!(
        "{progress}{}{}",
        window.unwrap_or_default(),
        gone.unwrap_or_default()
    ))
}

/// A window that has not begun.
fn window(window: WindowView) -> impl IntoView {
    let span = format!("{} to {}", exact(window.start), exact(window.end));
    let note = Some(window.note).filter(|note| !note.is_empty());
    let note = note.map(|note| format!(": {note}"));
    view! {
        <li>
            {span} {note}
            <span class="sub">"drained " <Ahead time=window.drains_at/></span>
        </li>
    }
}

#[component]
fn AgentDetails(agent: Signal<AgentView>, windows: Windows) -> impl IntoView {
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
    let named = move || {
        let named = agent.with(|agent| {
            let [used, offered, total] =
                [&agent.used, &agent.offered, &agent.total].map(ResourceRequest::from);
            amounts::named(&used, &offered, &total)
        });
        let lines = named.into_iter().map(|line| view! { <li>{line}</li> });
        view! { <ul class="plain">{lines.collect_view()}</ul> }
    };
    let has_named = move || {
        let of_its_own = |agent: &AgentView| !ResourceRequest::from(&agent.total).custom.is_empty();
        agent.with(of_its_own)
    };
    let id = agent.get_untracked().id;
    let planned = Memo::new(move |_| windows.planned(id));
    let maintenance = move || planned.get().into_iter().map(window).collect_view();
    view! {
        <div class="cards">{cards}</div>
        <dl class="card details">
            <Detail term="Status">
                <StatePill state=state/>
            </Detail>
            <Show when=move || agent.with(|agent| agent.drain.is_some())>
                <Detail term="Drain">{move || agent.with(drain_text)}</Detail>
            </Show>
            <Show when=move || planned.with(|planned| !planned.is_empty())>
                <Detail term="Maintenance">
                    <ul class="plain">{maintenance}</ul>
                </Detail>
            </Show>
            <Show when=move || agent.with(|agent| agent.short.is_some())>
                <Detail term="Offers nothing">
                    "It has less than is reserved on it: "
                    {move || agent.with(|agent| agent.short.clone())}
                </Detail>
            </Show>
            <Show when=move || agent.with(|agent| agent.full.is_some())>
                <Detail term="Takes nothing">{move || agent.with(|agent| agent.full.clone())}</Detail>
            </Show>
            <Detail term="Hostname">{move || agent.read().hostname.clone()}</Detail>
            <Detail term="Living tasks">{move || agent.read().tasks}</Detail>
            <Detail term="Ports">{ports}</Detail>
            <Show when=has_named>
                <Detail term="Other resources">{named}</Detail>
            </Show>
            <Detail term="Attributes">{attributes}</Detail>
            <Detail term="Release">{move || agent.read().version.clone()}</Detail>
            <Detail term="Registered">
                <Ago time=Signal::derive(move || agent.read().registered_at)/>
            </Detail>
        </dl>
    }
}
