//! Routes, and the frame around every page.
//!
//! What all pages follow is made here once: the event stream and the cluster
//! at a glance. `/frameworks/ID` is ours; everything below `/frameworks/ID/`
//! is the framework's own, and no route of the dashboard may stand there.

use leptos::html;
use leptos::prelude::*;
use leptos_router::components::{FlatRoutes, Route, Router};
use leptos_router::hooks::use_location;
use leptos_router::path;
use tepui_types::api::cluster::ClusterView;

use crate::components::loaded::Empty;
use crate::components::nav::Nav;
use crate::feed::Feed;
use crate::live::{Connection, Live, Topic};
use crate::pages::agent::AgentPage;
use crate::pages::agents::AgentsPage;
use crate::pages::framework::FrameworkPage;
use crate::pages::frameworks::FrameworksPage;
use crate::pages::job::JobPage;
use crate::pages::jobs::JobsPage;
use crate::pages::masters::MastersPage;
use crate::pages::overview::OverviewPage;
use crate::pages::role::RolePage;
use crate::pages::roles::RolesPage;
use crate::pages::settings::SettingsPage;
use crate::pages::submit::SubmitPage;
use crate::pages::task::TaskPage;
use crate::pages::tasks::{TaskPages, TasksPage};

/// Takes the place of what the page shows while it loads.
pub fn start() {
    mount_to_body(App);
    if let Some(boot) = document().get_element_by_id("boot") {
        boot.remove();
    }
}

/// The cluster at a glance, for every page that asks for it.
#[derive(Clone, Copy)]
pub struct Cluster(pub Feed<ClusterView>);

#[component]
fn App() -> impl IntoView {
    Live::provide();
    let everything = &[
        Topic::Tasks,
        Topic::Agents,
        Topic::Frameworks,
        Topic::Demands,
    ];
    provide_context(Cluster(Feed::new(everything, || {
        Some("/v1/cluster".into())
    })));
    provide_context(TaskPages::default());
    view! {
        <Router>
            <a class="skip" href="#main" rel="external">
                "Skip to the content"
            </a>
            <div class="frame">
                <Nav/>
                <Main/>
            </div>
        </Router>
    }
}

#[component]
fn Main() -> impl IntoView {
    let main = NodeRef::<html::Main>::new();
    let path = use_location().pathname;
    // A new page is read from its top; the first one is where the browser puts it.
    Effect::new(move |visited: Option<()>| {
        // A memo that is only tracked, never read, does not follow its sources.
        path.with(|_| ());
        if let (Some(()), Some(main)) = (visited, main.get_untracked()) {
            // It fails only for elements that are not in the page.
            let _ = main.focus();
        }
    });
    view! {
        <main id="main" node_ref=main tabindex="-1">
            <ConnectionBanner/>
            <Warnings/>
            <FlatRoutes fallback=NotFound>
                <Route path=path!("/") view=OverviewPage/>
                <Route path=path!("/jobs") view=JobsPage/>
                <Route path=path!("/jobs/:name") view=JobPage/>
                <Route path=path!("/tasks") view=TasksPage/>
                <Route path=path!("/tasks/:id") view=TaskPage/>
                <Route path=path!("/agents") view=AgentsPage/>
                <Route path=path!("/agents/:id") view=AgentPage/>
                <Route path=path!("/frameworks") view=FrameworksPage/>
                <Route path=path!("/frameworks/:id") view=FrameworkPage/>
                <Route path=path!("/roles") view=RolesPage/>
                <Route path=path!("/roles/set") view=RolePage/>
                <Route path=path!("/settings") view=SettingsPage/>
                <Route path=path!("/masters") view=MastersPage/>
                <Route path=path!("/submit") view=SubmitPage/>
            </FlatRoutes>
        </main>
    }
}

#[component]
fn ConnectionBanner() -> impl IntoView {
    let connection = expect_context::<Live>().connection;
    view! {
        <div aria-live="assertive">
            <Show when=move || connection.get() == Connection::Lost>
                <p class="notice warning connection-banner">
                    <strong>"Connection lost, trying again. "</strong>
                    "What you see may be out of date."
                </p>
            </Show>
        </div>
    }
}

/// What the master wants operators to see, on every page, for as long as it is so.
#[component]
fn Warnings() -> impl IntoView {
    let cluster = expect_context::<Cluster>().0;
    let warnings = Memo::new(move |_| {
        cluster.data.with(|cluster| {
            cluster
                .as_ref()
                .map(|cluster| cluster.warnings.clone())
                .unwrap_or_default()
        })
    });
    move || {
        let notices = warnings.get().into_iter().map(|warning| {
            view! { <p class="notice warning" role="alert">{warning}</p> }
        });
        notices.collect_view()
    }
}

#[component]
fn NotFound() -> impl IntoView {
    view! {
        <PageHead title="Not found"/>
        <Empty title="There is no such page.">
            <a href="/">"Go to the overview"</a>
        </Empty>
    }
}

/// A page's heading, which also names the browser's tab.
#[component]
pub fn PageHead(
    /// The heading.
    #[prop(into)]
    title: Signal<String>,
    /// Where it belongs: a list's address and name.
    #[prop(optional)]
    above: Option<(&'static str, &'static str)>,
    /// What stands beside it.
    #[prop(optional)]
    children: Option<Children>,
) -> impl IntoView {
    Effect::new(move |_| document().set_title(&format!("{} · Tepui", title.get())));
    let above = above.map(|(href, name)| {
        view! { <a class="above" href=href>{name}</a> }
    });
    view! {
        <div class="page-head">
            <div class="page-title">
                {above}
                <h1>{move || title.get()}</h1>
            </div>
            {children.map(|children| view! { <div class="page-tools">{children()}</div> })}
        </div>
    }
}
