//! The jobs of the built-in framework `batch`.

use leptos::prelude::*;
use serde::Deserialize;
use tepui_types::api::job::JobView;
use tepui_web::amounts;
use tepui_web::query::with_query;

use crate::api::ApiError;
use crate::app::PageHead;
use crate::components::loaded::{Empty, Loaded};
use crate::components::table::{Column, Rows, Table, column};
use crate::components::task_state::{StatePill, Tone, job_state};
use crate::components::waiting::request_text;
use crate::feed::Feed;
use crate::live::Topic;

/// Where `batch` answers.
pub const JOBS: &str = "/frameworks/batch/jobs";

/// Rows of a page.
const LIMIT: &str = "50";

const COLUMNS: &[Column] = &[
    column("Job", ""),
    column("State", ""),
    column("Progress", "progress-column"),
    column("Tasks", "number medium-up"),
    column("Each has", "wide-only"),
    column("Priority", "number wide-only"),
    column("User", "medium-up"),
];

/// One page of jobs, in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct JobList {
    items: Vec<JobView>,
    #[serde(default)]
    next: Option<String>,
}

/// The page.
#[component]
pub fn JobsPage() -> impl IntoView {
    // After which name each page gone through begins.
    let after = RwSignal::new(Vec::<String>::new());
    let jobs = Feed::<JobList>::new(
        &[Topic::Tasks, Topic::Demands, Topic::Frameworks],
        move || {
            let after = after.get().pop().unwrap_or_default();
            Some(with_query(JOBS, &[("limit", LIMIT), ("after", &after)]))
        },
    );
    let is_missing = Memo::new(move |_| jobs.error.with(is_batch_missing));
    view! {
        <PageHead title="Jobs".to_owned()/>
        <Show when=move || is_missing.get()>
            <BatchMissing/>
        </Show>
        <Loaded feed=jobs let:list>
            <Show
                when=move || list.with(|list| !list.items.is_empty())
                fallback=|| {
                    view! {
                        <Empty title="No job was submitted yet.">
                            <a href="/submit">"Submit one"</a>
                            " or type "
                            <code>"tepui run -- echo hello"</code>
                        </Empty>
                    }
                }
            >
                <Table caption="Jobs" columns=COLUMNS>
                    <Rows
                        items=Signal::derive(move || list.get().items)
                        key=|job: &JobView| job.name.clone()
                        row=|job| view! { <JobRow job=job/> }
                    />
                </Table>
                <Show when=move || list.with(|list| list.next.is_some()) || !after.with(Vec::is_empty)>
                    <nav class="pager" aria-label="Pages of jobs">
                        <button
                            type="button"
                            class="button small"
                            prop:disabled=move || after.with(Vec::is_empty)
                            on:click=move |_| after.update(|after| drop(after.pop()))
                        >
                            "Previous"
                        </button>
                        <button
                            type="button"
                            class="button small"
                            prop:disabled=move || list.with(|list| list.next.is_none())
                            on:click=move |_| {
                                if let Some(next) = list.with_untracked(|list| list.next.clone()) {
                                    after.update(|after| after.push(next));
                                }
                            }
                        >
                            "Next"
                        </button>
                    </nav>
                </Show>
            </Show>
        </Loaded>
    }
}

fn is_batch_missing(error: &Option<ApiError>) -> bool {
    error
        .as_ref()
        .is_some_and(|error| error.status() == Some(404))
}

/// What to do where nothing takes jobs.
#[component]
pub fn BatchMissing() -> impl IntoView {
    view! {
        <p class="notice warning">
            "Jobs are taken by the built-in framework batch, which is not deployed here. Deploy it: "
            <code>"tepui framework deploy batch batch.wasm"</code>
        </p>
    }
}

#[component]
fn JobRow(job: Signal<JobView>) -> impl IntoView {
    let first = job.get_untracked();
    let state = Signal::derive(move || job_state(job.read().state));
    view! {
        <tr>
            <th scope="row">
                <a class="row-link" href=format!("/jobs/{}", first.name)>{first.name.clone()}</a>
            </th>
            <td>
                <StatePill state=state/>
            </td>
            <td class="progress-column">
                <JobProgress job=job/>
            </td>
            <td class="number medium-up">{amounts::count(first.count.into())}</td>
            <td class="wide-only">{request_text(&first.resources)}</td>
            <td class="number wide-only">{first.priority}</td>
            <td class="medium-up">{first.user}</td>
        </tr>
    }
}

/// How many of a job's tasks are where, as one bar.
#[component]
pub fn JobProgress(
    /// The job.
    job: Signal<JobView>,
) -> impl IntoView {
    let parts = move || {
        job.with(|job| {
            [
                (Tone::Good, job.finished, "finished"),
                (Tone::Bad, job.failed, "failed"),
                (Tone::Quiet, job.killed, "killed"),
                (Tone::Active, job.active, "active"),
                (Tone::Pending, job.waiting, "waiting"),
            ]
        })
    };
    let sentence = move || {
        let parts = parts().into_iter().filter(|(_, number, _)| *number > 0);
        let words =
            parts.map(|(_, number, word)| format!("{} {word}", amounts::count(number.into())));
        words.collect::<Vec<_>>().join(", ")
    };
    let bars = move || {
        let total = job.read().count.into();
        parts()
            .into_iter()
            .filter(|(tone, number, _)| *number > 0 && *tone != Tone::Pending)
            .map(|(tone, number, _)| {
                let width = format!("{:.2}%", amounts::percent(number.into(), total));
                view! { <span class=format!("bar-part {}", tone.class()) style:width=width></span> }
            })
            .collect_view()
    };
    view! {
        <div class="bar-cell">
            <span class="bar" role="img" aria-label=sentence title=sentence>
                {bars}
            </span>
            <span class="bar-numbers">{sentence}</span>
        </div>
    }
}
