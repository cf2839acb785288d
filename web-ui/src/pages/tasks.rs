//! The list of tasks: filtered and paged by the master, newest launch first.
//!
//! The filter stands in the page's address. Pages follow keys, so going back
//! means remembering where the earlier ones began; that is kept while the
//! dashboard is open, so that a look at one task loses no place.

use leptos::prelude::*;
use leptos_router::NavigateOptions;
use leptos_router::hooks::{use_navigate, use_query_map};
use tepui_types::TaskState;
use tepui_types::api::agent::AgentView;
use tepui_types::api::demand::DemandView;
use tepui_types::api::framework::FrameworkView;
use tepui_types::api::list::Page;
use tepui_types::api::task::TaskView;
use tepui_web::amounts;
use tepui_web::query::{TaskFilter, with_query};

use crate::app::PageHead;
use crate::components::loaded::{Empty, Loaded};
use crate::components::task_table::TaskTable;
use crate::components::waiting::WaitingList;
use crate::feed::Feed;
use crate::live::Topic;

/// Rows of a page: about two screens.
const LIMIT: usize = 50;

/// Where the reader is in the list.
#[derive(Clone, Copy, Default)]
pub struct TaskPages(RwSignal<Place>);

/// The tokens of the pages gone through, and the filter that they belong to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Place {
    filter: TaskFilter,
    tokens: Vec<String>,
}

impl TaskPages {
    /// The pages gone through under `filter`.
    fn tokens(self, filter: &TaskFilter) -> Vec<String> {
        self.0.with(|place| {
            if place.filter == *filter {
                place.tokens.clone()
            } else {
                Vec::new()
            }
        })
    }

    fn go_on(self, filter: TaskFilter, token: String) {
        let mut tokens = self.tokens(&filter);
        tokens.push(token);
        self.0.set(Place { filter, tokens });
    }

    fn go_back(self, filter: TaskFilter) {
        let mut tokens = self.tokens(&filter);
        tokens.pop();
        self.0.set(Place { filter, tokens });
    }
}

/// The page.
#[component]
pub fn TasksPage() -> impl IntoView {
    let query = use_query_map();
    let pages = expect_context::<TaskPages>();
    let filter = Memo::new(move |_| {
        query.with(|query| {
            let value = |name| query.get(name).unwrap_or_default();
            TaskFilter {
                state: value("state"),
                framework: value("framework"),
                agent: value("agent"),
                search: value("search"),
            }
        })
    });
    let tasks = Feed::<Page<TaskView>>::new(&[Topic::Tasks], move || {
        let filter = filter.get();
        let token = pages.tokens(&filter).pop().unwrap_or_default();
        Some(filter.applied_to(
            "/v1/tasks",
            &[("limit", &LIMIT.to_string()), ("page", &token)],
        ))
    });
    let demands =
        Feed::<Page<DemandView>>::new(&[Topic::Demands, Topic::Tasks, Topic::Agents], move || {
            let framework = filter.get().framework;
            Some(with_query(
                "/v1/demands",
                &[("limit", "20"), ("framework", &framework)],
            ))
        });
    view! {
        <PageHead title="Tasks".to_owned()/>
        <Filters filter=filter/>
        <Loaded feed=demands quiet=true let:demands>
            <WaitingList demands=Signal::derive(move || demands.get().items)/>
        </Loaded>
        <Loaded feed=tasks let:page>
            <Show
                when=move || page.with(|page| !page.items.is_empty())
                fallback=move || view! { <NoTasks is_filtered=!filter.get().is_empty()/> }
            >
                <TaskTable tasks=Signal::derive(move || page.get().items)/>
            </Show>
            <Show when=move || has_pages(&page.read(), pages.tokens(&filter.get()).len())>
                <Pager page=page filter=filter/>
            </Show>
        </Loaded>
    }
}

/// Whether there is more than the one page.
fn has_pages(page: &Page<TaskView>, pages_before: usize) -> bool {
    pages_before > 0 || page.next.is_some()
}

#[component]
fn NoTasks(is_filtered: bool) -> impl IntoView {
    if is_filtered {
        view! {
            <Empty title="No task matches.">
                <a href="/tasks">"Show all tasks"</a>
            </Empty>
        }
        .into_any()
    } else {
        view! {
            <Empty title="No task has run yet.">
                <a href="/submit">"Submit one"</a>
                " or type "
                <code>"tepui run -- echo hello"</code>
            </Empty>
        }
        .into_any()
    }
}

#[component]
fn Filters(filter: Memo<TaskFilter>) -> impl IntoView {
    let navigate = use_navigate();
    let change = move |edit: &dyn Fn(&mut TaskFilter)| {
        let mut filter = filter.get_untracked();
        edit(&mut filter);
        let options = NavigateOptions {
            replace: true,
            scroll: false,
            ..Default::default()
        };
        navigate(&filter.applied_to("/tasks", &[]), options);
    };
    let change = StoredValue::new_local(change);
    let set = move |edit: fn(&mut TaskFilter) -> &mut String, value: String| {
        change.with_value(|change| change(&|filter| *edit(filter) = value.clone()));
    };
    let states = Memo::new(|_| {
        TaskState::ALL
            .iter()
            .map(|state| named(state.as_str()))
            .collect()
    });
    let (framework_names, agent_names) = (framework_names(), agent_names());
    view! {
        <form class="filters" role="search" on:submit=|event| event.prevent_default()>
            <input
                id="tasks-search"
                type="search"
                aria-label="Search by name"
                placeholder="Search by name"
                prop:value=move || filter.get().search
                on:input:target=move |event| set(|f| &mut f.search, event.target().value())
            />
            <Choice
                id="tasks-state"
                every="All states"
                value=Signal::derive(move || filter.get().state)
                options=states
                on_change=move |value| set(|f| &mut f.state, value)
            />
            <Choice
                id="tasks-framework"
                every="All frameworks"
                value=Signal::derive(move || filter.get().framework)
                options=framework_names
                on_change=move |value| set(|f| &mut f.framework, value)
            />
            <Choice
                id="tasks-agent"
                every="All agents"
                value=Signal::derive(move || filter.get().agent)
                options=agent_names
                on_change=move |value| set(|f| &mut f.agent, value)
            />
            <Show when=move || !filter.get().is_empty()>
                <a class="button small" href="/tasks">
                    "Clear"
                </a>
            </Show>
        </form>
    }
}

/// A value and its words.
type Named = (String, String);

/// A value that is its own word.
fn named(value: &str) -> Named {
    (value.to_owned(), value.to_owned())
}

fn framework_names() -> Memo<Vec<Named>> {
    let feed = Feed::<Page<FrameworkView>>::new(&[Topic::Frameworks], || {
        Some("/v1/frameworks?limit=1000".into())
    });
    Memo::new(move |_| {
        feed.data.with(|page| {
            let items = page.iter().flat_map(|page| &page.items);
            items.map(|framework| named(&framework.name)).collect()
        })
    })
}

fn agent_names() -> Memo<Vec<Named>> {
    let feed =
        Feed::<Page<AgentView>>::new(&[Topic::Agents], || Some("/v1/agents?limit=1000".into()));
    let name = |agent: &AgentView| {
        let words = format!("{} {}", agent.id, agent.hostname);
        (agent.id.to_string(), words)
    };
    Memo::new(move |_| {
        feed.data
            .with(|page| page.iter().flat_map(|page| &page.items).map(name).collect())
    })
}

/// A select of values and their words, and one for all of them.
#[component]
fn Choice(
    id: &'static str,
    every: &'static str,
    value: Signal<String>,
    options: Memo<Vec<Named>>,
    on_change: impl Fn(String) + 'static,
) -> impl IntoView {
    let listed = move || {
        let mut options = options.get();
        // A value from the address stays chosen though the list lacks it.
        let chosen = value.get();
        if !chosen.is_empty() && options.iter().all(|(value, _)| *value != chosen) {
            options.push((chosen.clone(), chosen));
        }
        options
            .into_iter()
            .map(|(option, words)| {
                let is_chosen = option == value.get_untracked();
                view! { <option value=option prop:selected=is_chosen>{words}</option> }
            })
            .collect_view()
    };
    view! {
        <select
            id=id
            aria-label=every
            class:chosen=move || !value.get().is_empty()
            on:change:target=move |event| on_change(event.target().value())
        >
            <option value="" prop:selected=move || value.get().is_empty()>
                {every}
            </option>
            {listed}
        </select>
    }
}

#[component]
fn Pager(page: Signal<Page<TaskView>>, filter: Memo<TaskFilter>) -> impl IntoView {
    let pages = expect_context::<TaskPages>();
    let number = Memo::new(move |_| pages.tokens(&filter.get()).len());
    let next = move || page.with(|page| page.next.clone());
    let words = move || {
        page.with(|page| {
            let first = number.get() * LIMIT;
            let shown = page.items.len();
            let range = format!(
                "{}–{}",
                amounts::count(first as u64 + 1),
                amounts::count((first + shown) as u64)
            );
            match page.total {
                _ if shown == 0 => String::new(),
                Some(total) => format!("{range} of {}", amounts::count(total)),
                None => range,
            }
        })
    };
    let go_on = move |_| {
        if let Some(token) = page.with_untracked(|page| page.next.clone()) {
            pages.go_on(filter.get_untracked(), token);
        }
    };
    view! {
        <nav class="pager" aria-label="Pages of tasks">
            <span class="muted number" aria-live="polite">
                {words}
            </span>
            <button
                type="button"
                class="button small"
                prop:disabled=move || number.get() == 0
                on:click=move |_| pages.go_back(filter.get_untracked())
            >
                "Previous"
            </button>
            <button
                type="button"
                class="button small"
                prop:disabled=move || next().is_none()
                on:click=go_on
            >
                "Next"
            </button>
        </nav>
    }
}
