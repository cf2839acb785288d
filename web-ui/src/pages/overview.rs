//! The cluster at a glance: what it has, what it does, and what waits.

use std::collections::BTreeMap;

use leptos::prelude::*;
use tepui_types::TaskState;
use tepui_types::api::cluster::ClusterView;
use tepui_types::api::demand::DemandView;
use tepui_types::api::list::Page;
use tepui_web::amounts;

use crate::app::{Cluster, PageHead};
use crate::components::loaded::{Empty, Loaded};
use crate::components::resource_bar::{BarCard, Resource, Share};
use crate::components::task_state::task_tone;
use crate::components::waiting::WaitingList;
use crate::feed::Feed;
use crate::live::Topic;

/// The page.
#[component]
pub fn OverviewPage() -> impl IntoView {
    let cluster = expect_context::<Cluster>().0;
    let demands =
        Feed::<Page<DemandView>>::new(&[Topic::Demands, Topic::Tasks, Topic::Agents], || {
            Some("/v1/demands?limit=20".into())
        });
    view! {
        <PageHead title="Overview".to_owned()/>
        <Loaded feed=cluster let:cluster>
            <Capacity cluster=cluster/>
            <Tasks cluster=cluster/>
            <Loaded feed=demands quiet=true let:demands>
                <WaitingList demands=Signal::derive(move || demands.get().items)/>
            </Loaded>
            <div class="halves">
                <Counts
                    title="Agents"
                    href="/agents"
                    counts=Signal::derive(move || cluster.with(|cluster| cluster.agents.clone()))
                    hint="Start one: tepui-agent --dir DIR --master URL"
                />
                <Counts
                    title="Frameworks"
                    href="/frameworks"
                    counts=Signal::derive(move || cluster.with(|cluster| cluster.frameworks.clone()))
                    hint="Deploy one: tepui framework deploy NAME FILE.wasm"
                />
            </div>
            <Facts cluster=cluster/>
        </Loaded>
    }
}

#[component]
fn Capacity(cluster: Signal<ClusterView>) -> impl IntoView {
    // Few clusters have gpus; the others need no card that says 0 of 0.
    let shown = Memo::new(move |_| {
        let has = |resource: &Resource| {
            *resource != Resource::Gpus || cluster.with(|cluster| resource.of(&cluster.total) > 0)
        };
        Resource::ALL.into_iter().filter(has).collect::<Vec<_>>()
    });
    let card = move |resource: Resource| {
        let share = Signal::derive(move || {
            cluster.with(|cluster| {
                Share::of(resource, &cluster.used, &cluster.offered, &cluster.total)
            })
        });
        view! { <BarCard resource=resource share=share/> }
    };
    view! {
        <section aria-labelledby="capacity-title">
            <div class="section-head">
                <h2 id="capacity-title">"Capacity"</h2>
                <p class="legend muted" aria-hidden="true">
                    <span class="key key-used"></span>
                    "used"
                    <span class="key key-offered"></span>
                    "on offer"
                    <span class="key key-free"></span>
                    "free"
                </p>
            </div>
            <div class="cards">{move || shown.get().into_iter().map(card).collect_view()}</div>
        </section>
    }
}

/// States that are shown though no task is in them.
const USUAL: [TaskState; 3] = [TaskState::Running, TaskState::Finished, TaskState::Failed];

#[component]
fn Tasks(cluster: Signal<ClusterView>) -> impl IntoView {
    let states = Memo::new(move |_| {
        cluster.with(|cluster| {
            let number = |state: &TaskState| count_of(cluster, *state);
            let is_shown = |state: &TaskState| USUAL.contains(state) || number(state) > 0;
            TaskState::ALL
                .into_iter()
                .filter(is_shown)
                .collect::<Vec<_>>()
        })
    });
    let tile = move |state: TaskState| {
        let number = Memo::new(move |_| cluster.with(|cluster| count_of(cluster, state)));
        view! {
            <a
                class=format!("tile {}", task_tone(state).class())
                href=format!("/tasks?state={state}")
            >
                <span class="tile-number">{move || amounts::count(number.get())}</span>
                <span class="tile-name">{state.as_str()}</span>
            </a>
        }
    };
    let waiting = move || cluster.with(|cluster| cluster.waiting);
    view! {
        <section aria-labelledby="tasks-title">
            <div class="section-head">
                <h2 id="tasks-title">"Tasks"</h2>
                <p class="muted">"ended states count since the cluster began"</p>
            </div>
            <div class="tiles">
                <a class="tile tone-pending" href="/tasks">
                    <span class="tile-number">{move || amounts::count(waiting())}</span>
                    <span class="tile-name">"waiting"</span>
                </a>
                {move || states.get().into_iter().map(tile).collect_view()}
            </div>
        </section>
    }
}

/// Living tasks as they are; ended ones since the cluster began, of which the
/// list remembers only the latest.
fn count_of(cluster: &ClusterView, state: TaskState) -> u64 {
    let counts = if state.is_terminal() {
        &cluster.ended
    } else {
        &cluster.tasks
    };
    counts.get(&state).copied().unwrap_or(0)
}

#[component]
fn Counts(
    title: &'static str,
    href: &'static str,
    counts: Signal<BTreeMap<String, u64>>,
    hint: &'static str,
) -> impl IntoView {
    let total = move || counts.with(|counts| counts.values().sum::<u64>());
    let parts = move || {
        let parts = counts.get().into_iter().filter(|(_, number)| *number > 0);
        parts
            .map(|(name, number)| {
                view! {
                    <li class=name_tone(&name)>
                        <strong class="number">{amounts::count(number)}</strong>
                        " "
                        {name.clone()}
                    </li>
                }
            })
            .collect_view()
    };
    view! {
        <section class="card">
            <div class="section-head">
                <h2>
                    <a href=href>{title}</a>
                </h2>
                <span class="muted number">{move || amounts::count(total())}</span>
            </div>
            <Show
                when=move || { total() > 0 }
                fallback=move || view! { <Empty title="None yet.">{hint}</Empty> }
            >
                <ul class="counts">{parts}</ul>
            </Show>
        </section>
    }
}

/// The colour of a status that comes as text.
fn name_tone(name: &str) -> &'static str {
    match name {
        "active" | "running" => "tone-good",
        "starting" => "tone-pending",
        "backoff" | "deactivated" | "draining" => "tone-warning",
        "unreachable" | "failed" => "tone-bad",
        _ => "tone-quiet",
    }
}

#[component]
fn Facts(cluster: Signal<ClusterView>) -> impl IntoView {
    let leader = move || {
        cluster.with(|cluster| match (cluster.leader, &cluster.leader_url) {
            (Some(_), Some(url)) => format!("led by {url}"),
            (Some(leader), None) => format!("led by {leader}"),
            (None, _) => "no leader".to_owned(),
        })
    };
    view! {
        <p class="facts muted">
            <span>"cluster " <code>{move || cluster.read().cluster.to_string()}</code></span>
            <a href="/masters">{move || amounts::counted(cluster.read().masters, "master")}</a>
            <span>{leader}</span>
            <span>"term " {move || cluster.read().term}</span>
            <span>"log index " {move || amounts::count(cluster.read().index)}</span>
            <span>"release " {move || cluster.read().version.clone()}</span>
        </p>
    }
}
