//! What of an agent is not for everybody: reserved, revocable, on disks of its own; its volumes, and
//! what was done with all of it.

use leptos::prelude::*;
use serde::de::DeserializeOwned;
use tepui_types::api::agent::AgentView;
use tepui_types::api::list::Page;
use tepui_types::api::reservation::{OperationView, VolumeView};
use tepui_types::operation::ConversionState;
use tepui_types::resources::Pool;
use tepui_web::query;

use crate::api::{self, ApiError, IdempotencyKey};
use crate::components::confirm::ConfirmButton;
use crate::components::loaded::Loaded;
use crate::components::table::{Column, Table, column};
use crate::components::task_state::{StatePill, Tone};
use crate::components::time::Ago;
use crate::feed::Feed;
use crate::live::Topic;

const POOLS: &[Column] = &[
    column("What", ""),
    column("For whom", ""),
    column("In use", "medium-up"),
];
const VOLUMES: &[Column] = &[
    column("Volume", ""),
    column("Role", ""),
    column("Size", "number"),
    column("Used by", "medium-up"),
    column("", ""),
];
const OPERATIONS: &[Column] = &[
    column("Operation", ""),
    column("By", "medium-up"),
    column("State", ""),
    column("When", "number"),
];
/// Operations that are shown, the newest.
const SHOWN: usize = 20;

/// The section; empty where all of the agent is everybody's and always was.
#[component]
pub fn SetAside(agent: Signal<AgentView>) -> impl IntoView {
    let id = agent.get_untracked().id.to_string();
    let pools = move || agent.with(|agent| rows(agent));
    view! {
        <Show when=move || agent.with(|agent| !agent.total.pools.is_empty())>
            <section aria-labelledby="agent-pools-title">
                <h2 id="agent-pools-title">"Set aside"</h2>
                <Table caption="What is not for everybody" columns=POOLS>
                    {pools}
                </Table>
            </section>
        </Show>
        <Volumes agent=id.clone()/>
        <Operations agent=id/>
    }
}

fn rows(agent: &AgentView) -> impl IntoView + use<> {
    // Volumes have a table of their own.
    let pools = agent.total.pools.iter();
    let pools = pools.filter(|pool| pool.kind.volume.is_none());
    let row = |pool: &Pool| {
        let used = agent.used.pools.of(&pool.kind);
        let used = used.map_or_else(|| "–".into(), |used| used.amounts.to_string());
        view! {
            <tr>
                <th scope="row">{pool.amounts.to_string()}</th>
                <td>{pool.kind.to_string()}</td>
                <td class="medium-up">{used}</td>
            </tr>
        }
    };
    pools.map(row).collect_view()
}

#[component]
fn Volumes(agent: String) -> impl IntoView {
    let path = format!("/v1/volumes?limit=1000&agent={}", query::escape(&agent));
    let topics = &[Topic::Agents, Topic::Tasks];
    let volumes = Feed::<Page<VolumeView>>::new(topics, move || Some(path.clone()));
    let rows = move |volumes_now: &[VolumeView]| {
        let row = |volume: &VolumeView| volume_row(volume, volumes);
        volumes_now.iter().map(row).collect_view().into_any()
    };
    view! {
        <Listed
            feed=volumes
            id="agent-volumes-title"
            title="Volumes"
            caption="Persistent volumes"
            columns=VOLUMES
            rows=rows
        />
    }
}

/// A table with a heading, once there is something in it.
#[component]
fn Listed<T, R>(
    feed: Feed<Page<T>>,
    id: &'static str,
    title: &'static str,
    caption: &'static str,
    columns: &'static [Column],
    rows: R,
) -> impl IntoView
where
    T: Clone + PartialEq + Send + Sync + DeserializeOwned + 'static,
    R: Fn(&[T]) -> AnyView + Copy + Send + Sync + 'static,
{
    view! {
        <Loaded feed=feed let:page>
            <Show when=move || page.with(|page| !page.items.is_empty())>
                <section aria-labelledby=id>
                    <h2 id=id>{title}</h2>
                    <Table caption=caption columns=columns>
                        {move || page.with(|page| rows(&page.items))}
                    </Table>
                </section>
            </Show>
        </Loaded>
    }
}

fn volume_row(volume: &VolumeView, volumes: Feed<Page<VolumeView>>) -> impl IntoView + use<> {
    let subject = format!("{}/{}", volume.agent, volume.id);
    let title = format!("Destroy {} with all that is in it?", volume.id);
    let user = volume.used_by.as_ref().map(|task| {
        view! { <a href=format!("/tasks/{task}")>{task.to_string()}</a> }
    });
    let place = match volume.shared {
        true => format!("at {}, shared", volume.path),
        false => format!("at {}", volume.path),
    };
    view! {
        <tr>
            <th scope="row">
                <code>{volume.id.clone()}</code>
                <span class="sub">{place}</span>
            </th>
            <td>{volume.role.to_string()}</td>
            <td class="number">{volume.size_bytes.to_string()}</td>
            <td class="medium-up">{user}</td>
            <td>
                <ConfirmButton
                    label="Destroy"
                    title=Signal::stored(title)
                    text="Its data is gone then. A volume that a task uses is refused."
                    subject=Signal::stored(subject)
                    action=|subject, key| Box::pin(destroy(subject, key))
                    on_done=move || volumes.refresh()
                />
            </td>
        </tr>
    }
}

async fn destroy(subject: String, key: IdempotencyKey) -> Result<(), ApiError> {
    let (agent, volume) = subject.split_once('/').unwrap_or((&subject, ""));
    let (agent, volume) = (query::escape(agent), query::escape(volume));
    let path = format!("/v1/agents/{agent}/volumes/{volume}");
    api::change("DELETE", &path, None, &key).await.map(drop)
}

#[component]
fn Operations(agent: String) -> impl IntoView {
    let path = format!("/v1/operations?limit=1000&agent={}", query::escape(&agent));
    let topics = &[Topic::Agents, Topic::Tasks];
    let operations = Feed::<Page<OperationView>>::new(topics, move || Some(path.clone()));
    let rows = |operations: &[OperationView]| {
        let newest = operations.iter().rev().take(SHOWN);
        newest.map(operation_row).collect_view().into_any()
    };
    view! {
        <Listed
            feed=operations
            id="agent-operations-title"
            title="Latest operations"
            caption="Operations on its resources"
            columns=OPERATIONS
            rows=rows
        />
    }
}

fn operation_row(operation: &OperationView) -> impl IntoView + use<> {
    let state = match operation.state {
        ConversionState::Finished => (Tone::Good, "finished"),
        ConversionState::Dropped => (Tone::Bad, "dropped"),
    };
    let reason = operation
        .reason
        .as_ref()
        .map(|reason| reason.message.clone());
    view! {
        <tr>
            <th scope="row">
                {operation.kind.clone()} " " {operation.name.clone()}
                <span class="sub">{reason}</span>
            </th>
            <td class="medium-up">{operation.by.clone()}</td>
            <td>
                <StatePill state=Signal::stored(state)/>
            </td>
            <td class="number">
                <Ago time=operation.time/>
            </td>
        </tr>
    }
}
