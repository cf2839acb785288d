//! The schedulers that run in the master.

use leptos::prelude::*;
use tepui_types::api::framework::FrameworkView;
use tepui_types::api::list::Page;
use tepui_types::{Bytes, FrameworkPhase};
use tepui_web::amounts;

use crate::app::PageHead;
use crate::components::loaded::{Empty, Loaded};
use crate::components::table::{Column, Rows, Table, column};
use crate::components::task_state::{ReasonText, StatePill, framework_phase};
use crate::components::time::Ago;
use crate::feed::Feed;
use crate::live::Topic;

const COLUMNS: &[Column] = &[
    column("Framework", ""),
    column("Phase", ""),
    column("Role", "medium-up"),
    column("Tasks", "number"),
    column("Waiting", "number"),
    column("Store", "number wide-only"),
    column("Deployed", "number medium-up"),
    column("Its page", "medium-up"),
];

/// The page.
#[component]
pub fn FrameworksPage() -> impl IntoView {
    let frameworks = Feed::<Page<FrameworkView>>::new(
        &[Topic::Frameworks, Topic::Tasks, Topic::Demands],
        || Some("/v1/frameworks?limit=1000".into()),
    );
    view! {
        <PageHead title="Frameworks".to_owned()/>
        <Loaded feed=frameworks let:page>
            <Show
                when=move || page.with(|page| !page.items.is_empty())
                fallback=|| {
                    view! {
                        <Empty title="No framework is deployed.">
                            "Deploy one: " <code>"tepui framework deploy NAME FILE.wasm"</code>
                        </Empty>
                    }
                }
            >
                <Table caption="Frameworks" columns=COLUMNS>
                    <Rows
                        items=Signal::derive(move || page.get().items)
                        key=|framework: &FrameworkView| framework.id
                        row=|framework| view! { <FrameworkRow framework=framework/> }
                    />
                </Table>
            </Show>
        </Loaded>
    }
}

#[component]
fn FrameworkRow(framework: Signal<FrameworkView>) -> impl IntoView {
    let first = framework.get_untracked();
    let state = Signal::derive(move || framework_phase(framework.read().phase));
    let reason = move || {
        let reason = framework.read().reason.clone();
        reason.map(|reason| view! { <span class="sub"><ReasonText reason=reason/></span> })
    };
    let store = move || {
        framework.with(|framework| {
            let keys = amounts::counted(framework.store_keys, "key");
            (Bytes(framework.store_bytes).to_string(), keys)
        })
    };
    view! {
        <tr>
            <th scope="row">
                <a class="row-link" href=format!("/frameworks/{}", first.id)>
                    {first.name.clone()}
                </a>
                <span class="sub">{first.id.to_string()}</span>
            </th>
            <td>
                <StatePill state=state/>
                {reason}
            </td>
            <td class="medium-up">{first.show_roles()}</td>
            <td class="number">{move || amounts::count(framework.read().tasks)}</td>
            <td class="number">{move || amounts::count(framework.read().waiting)}</td>
            <td class="number wide-only">
                {move || store().0} <span class="sub">{move || store().1}</span>
            </td>
            <td class="number medium-up">
                <Ago time=Signal::derive(move || framework.read().deployed_at)/>
            </td>
            <td class="medium-up above-link">
                <FrameworkPageLink framework=framework/>
            </td>
        </tr>
    }
}

/// A link to what the framework itself serves: foreign pages, kept apart.
#[component]
pub fn FrameworkPageLink(
    /// Whose.
    framework: Signal<FrameworkView>,
) -> impl IntoView {
    let answers = move || framework.read().phase == FrameworkPhase::Running;
    view! {
        <Show when=answers fallback=|| view! { <span class="muted">"not running"</span> }>
            <a
                href=move || format!("/frameworks/{}/", framework.read().name)
                target="_blank"
                rel="noopener noreferrer"
            >
                "Open"
                <span class="visually-hidden">" its page in a new tab"</span>
                <span aria-hidden="true">" ↗"</span>
            </a>
        </Show>
    }
}
