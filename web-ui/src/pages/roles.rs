//! Roles: how much each counts, what it is promised and allowed, and what it has.

use leptos::prelude::*;
use tepui_types::api::list::Page;
use tepui_types::api::role::RoleView;
use tepui_types::resources::ResourceRequest;
use tepui_types::{MilliCpus, Role};
use tepui_web::{amounts, query};

use crate::api::{self, IdempotencyKey};
use crate::app::{Cluster, PageHead};
use crate::components::confirm::ConfirmButton;
use crate::components::loaded::{Empty, Loaded};
use crate::components::resource_bar::{BarCell, Resource, Share};
use crate::components::table::{Column, Rows, Table, column};
use crate::feed::Feed;
use crate::live::Topic;

const COLUMNS: &[Column] = &[
    column("Role", ""),
    column("Weight", "number"),
    column("Share", "number"),
    column("Cpus", "bar-column"),
    column("Memory", "bar-column medium-up"),
    column("Gpus", "bar-column wide-only"),
    column("Waiting", "number medium-up"),
    column("", ""),
];

/// What the page shows, for its rows.
#[derive(Clone, Copy)]
struct Roles(Feed<Page<RoleView>>);

/// The page.
#[component]
pub fn RolesPage() -> impl IntoView {
    let topics = &[Topic::Tasks, Topic::Frameworks, Topic::Agents];
    let roles = Feed::<Page<RoleView>>::new(topics, || Some("/v1/roles?limit=1000".into()));
    provide_context(Roles(roles));
    view! {
        <PageHead title="Roles".to_owned()>
            <a class="button" href="/roles/set">"Set a role"</a>
        </PageHead>
        <Loaded feed=roles let:page>
            <Show
                when=move || page.with(|page| !page.items.is_empty())
                fallback=|| {
                    view! {
                        <Empty title="No role is used or set.">
                            "Deploy a framework, or set one."
                        </Empty>
                    }
                }
            >
                <Table caption="Roles" columns=COLUMNS>
                    <Rows
                        items=Signal::derive(move || page.get().items)
                        key=|view: &RoleView| view.role.clone()
                        row=|view| view! { <RoleRow view=view/> }
                    />
                </Table>
                <p class="muted below-table">
                    "A bar goes up to the role's limit, or to the whole cluster."
                </p>
                <Show when=move || page.with(|page| page.next.is_some())>
                    <p class="muted">"Only the first 1,000 roles are shown."</p>
                </Show>
            </Show>
        </Loaded>
    }
}

#[component]
fn RoleRow(view: Signal<RoleView>) -> impl IntoView {
    let role = view.get_untracked().role;
    let (depth, name) = place(&role);
    let frameworks = move || amounts::counted(view.read().frameworks, "framework");
    view! {
        <tr>
            <th scope="row" style:padding-left=format!("{}px", 14 + 18 * depth)>
                <span title=role.to_string()>{name}</span>
                <span class="sub">{frameworks}</span>
                <span class="sub">{move || view.with(preemption)}</span>
            </th>
            <td class="number">{move || MilliCpus(view.read().weight_milli.into()).to_string()}</td>
            <td class="number">{move || amounts::percent_text(view.read().share_ppm, 1_000_000)}</td>
            <td class="bar-column">
                <Holding view=view resource=Resource::Cpus/>
            </td>
            <td class="bar-column medium-up">
                <Holding view=view resource=Resource::Mem/>
            </td>
            <td class="bar-column wide-only">
                <Holding view=view resource=Resource::Gpus/>
            </td>
            <td class="number medium-up">{move || amounts::count(view.read().waiting)}</td>
            <td>
                <Operations view=view/>
            </td>
        </tr>
    }
}

/// How deep a role is in the tree, and what it is called there.
fn place(role: &Role) -> (usize, String) {
    let depth = role.upwards().count() - 1;
    let path = role.as_str();
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    (depth, name.to_owned())
}

/// Whether others may take back what its tasks have, where that was said.
fn preemption(view: &RoleView) -> Option<&'static str> {
    match view.preemptible {
        Some(true) => Some("may be preempted"),
        Some(false) => Some("is never preempted"),
        None => None,
    }
}

/// What the role has of a resource, and what it is promised.
#[component]
fn Holding(view: Signal<RoleView>, resource: Resource) -> impl IntoView {
    let cluster = expect_context::<Cluster>().0;
    let share = Signal::derive(move || {
        let whole = cluster
            .data
            .with(|cluster| cluster.as_ref().map(|cluster| cluster.total.clone()))
            .unwrap_or_default();
        view.with(|view| share_of(view, resource, &whole))
    });
    let promised = move || {
        let promised = view.with(|view| resource.of(&view.guarantee));
        (promised > 0).then(|| format!("{} guaranteed", resource.text(promised)))
    };
    view! {
        <BarCell resource=resource share=share/>
        <span class="sub">{promised}</span>
    }
}

fn share_of(view: &RoleView, resource: Resource, cluster: &ResourceRequest) -> Share {
    let whole = Share::of(resource, &view.used, &view.offered, cluster);
    let limit = match resource {
        Resource::Cpus => view.limit.cpus.map(|cpus| cpus.0),
        Resource::Mem => view.limit.mem.map(|mem| mem.0),
        Resource::Disk => view.limit.disk.map(|disk| disk.0),
        Resource::Gpus => view.limit.gpus_milli,
    };
    Share {
        total: limit.unwrap_or(whole.total),
        ..whole
    }
}

/// What may be done with it now.
#[component]
fn Operations(view: Signal<RoleView>) -> impl IntoView {
    let roles = expect_context::<Roles>().0;
    let subject = Signal::derive(move || view.read().role.to_string());
    let set = move || format!("/roles/set?role={}", query::escape(&subject.get()));
    view! {
        <a class="button" href=set>"Set"</a>
        " "
        <Show when=move || view.read().is_set>
            <ConfirmButton
                label="Reset"
                title=Signal::derive(move || format!("Forget what was set of {}?", subject.get()))
                text="It counts 1 then, is guaranteed nothing and has no limit. What its tasks have stays theirs."
                subject=subject
                action=|role, key| Box::pin(reset(role, key))
                on_done=move || roles.refresh()
            />
        </Show>
    }
}

async fn reset(role: String, key: IdempotencyKey) -> Result<(), api::ApiError> {
    let path = format!("/v1/roles/{}", query::escape(&role));
    api::change("DELETE", &path, None, &key).await.map(drop)
}
