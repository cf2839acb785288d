//! The machines, and how full each is.

use leptos::prelude::*;
use tepui_types::AgentId;
use tepui_types::api::agent::AgentView;
use tepui_types::api::list::Page;
use tepui_types::api::maintenance::WindowView;
use tepui_types::resources::ResourceRequest;
use tepui_web::{amounts, windows};

use crate::app::PageHead;
use crate::components::loaded::{Empty, Loaded};
use crate::components::resource_bar::{BarCell, Resource, Share};
use crate::components::table::{Column, Rows, Table, column};
use crate::components::task_state::{StatePill, agent_state};
use crate::components::time::{Ago, Ahead};
use crate::feed::Feed;
use crate::live::Topic;

const COLUMNS: &[Column] = &[
    column("Agent", ""),
    column("Status", ""),
    column("Cpus", "bar-column"),
    column("Memory", "bar-column medium-up"),
    column("Disk", "bar-column wide-only"),
    column("Tasks", "number"),
    column("Registered", "number wide-only"),
];

/// The page.
#[component]
pub fn AgentsPage() -> impl IntoView {
    let agents = Feed::<Page<AgentView>>::new(&[Topic::Agents, Topic::Tasks], || {
        Some("/v1/agents?limit=1000".into())
    });
    let windows = windows();
    view! {
        <PageHead title="Agents".to_owned()/>
        <Loaded feed=agents let:page>
            <Show
                when=move || page.with(|page| !page.items.is_empty())
                fallback=|| {
                    view! {
                        <Empty title="No agent has registered.">
                            "Start one: " <code>"tepui-agent --dir DIR --master URL"</code>
                        </Empty>
                    }
                }
            >
                <Table caption="Agents" columns=COLUMNS>
                    <Rows
                        items=Signal::derive(move || page.get().items)
                        key=|agent: &AgentView| agent.id
                        row=move |agent| view! { <AgentRow agent=agent windows=windows/> }
                    />
                </Table>
                <Show when=move || page.with(|page| page.next.is_some())>
                    <p class="muted">"Only the first 1,000 agents are shown."</p>
                </Show>
            </Show>
        </Loaded>
    }
}

#[component]
fn AgentRow(agent: Signal<AgentView>, windows: Windows) -> impl IntoView {
    let first = agent.get_untracked();
    let next = Memo::new(move |_| windows.planned(first.id).into_iter().next());
    let maintenance = move || {
        next.get().map(|window| view! {
            <span class="sub" title=window.note>"maintenance " <Ahead time=window.drains_at/></span>
        })
    };
    let state =
        Signal::derive(move || agent.with(|agent| agent_state(agent.status, agent.connected)));
    let share = move |resource| agent_share(agent, resource);
    view! {
        <tr>
            <th scope="row">
                <a class="row-link" href=format!("/agents/{}", first.id)>
                    {first.id.to_string()}
                </a>
                <span class="sub">{move || agent.read().hostname.clone()}</span>
            </th>
            <td>
                <StatePill state=state/>
                <span class="sub">{move || agent.with(drain_left)}</span>
                {maintenance}
            </td>
            <td class="bar-column">
                <BarCell resource=Resource::Cpus share=share(Resource::Cpus)/>
            </td>
            <td class="bar-column medium-up">
                <BarCell resource=Resource::Mem share=share(Resource::Mem)/>
            </td>
            <td class="bar-column wide-only">
                <BarCell resource=Resource::Disk share=share(Resource::Disk)/>
            </td>
            <td class="number">{move || amounts::count(agent.read().tasks)}</td>
            <td class="number wide-only">
                <Ago time=Signal::derive(move || agent.read().registered_at)/>
            </td>
        </tr>
    }
}

/// The windows of maintenance, as the cluster has them.
#[derive(Clone, Copy)]
pub struct Windows(Feed<Page<WindowView>>);

/// Follows them.
pub fn windows() -> Windows {
    Windows(Feed::new(&[Topic::Agents], || {
        Some("/v1/maintenance".into())
    }))
}

impl Windows {
    /// Those of an agent that have not begun.
    pub fn planned(self, agent: AgentId) -> Vec<WindowView> {
        let of_agent = |page: &Page<WindowView>| windows::planned(&page.items, agent);
        self.0
            .data
            .with(|page| page.as_ref().map(of_agent).unwrap_or_default())
    }
}

/// What is left of a drain.
fn drain_left(agent: &AgentView) -> Option<String> {
    let left = agent.drain.is_some() && agent.tasks > 0;
    left.then(|| format!("{} left", amounts::count(agent.tasks)))
}

/// An agent's share of one resource.
pub fn agent_share(agent: Signal<AgentView>, resource: Resource) -> Signal<Share> {
    Signal::derive(move || {
        agent.with(|agent| {
            let [used, offered, total] =
                [&agent.used, &agent.offered, &agent.total].map(ResourceRequest::from);
            Share::of(resource, &used, &offered, &total)
        })
    })
}
