//! One job: how many of its tasks are where, and for a job of one task that
//! task's output.

use std::time::Duration;

use leptos::prelude::*;
use leptos_router::hooks::use_params_map;
use tepui_types::api::job::{JobState, JobTask, JobView};
use tepui_types::api::list::Page;
use tepui_types::api::task::TaskView;
use tepui_types::{TaskId, TaskState};
use tepui_web::query::{self, TaskFilter};
use tepui_web::{amounts, program};

use crate::api;
use crate::app::PageHead;
use crate::components::confirm::ConfirmButton;
use crate::components::loaded::{Empty, Loaded};
use crate::components::log_view::LogView;
use crate::components::table::Detail;
use crate::components::task_state::{ReasonText, StatePill, job_state, task_state};
use crate::components::task_table::TaskTable;
use crate::components::waiting::request_text;
use crate::feed::Feed;
use crate::live::Topic;
use crate::pages::jobs::{JOBS, JobProgress};

/// A framework learns of a task a moment after the cluster does, and tells of
/// it with no event of its own: a job that is not over is read this often.
const POLL: Duration = Duration::from_secs(1);

/// The most tasks shown here; the task list has the rest.
const TASKS_SHOWN: &str = "20";

/// The page.
#[component]
pub fn JobPage() -> impl IntoView {
    let params = use_params_map();
    let name = Memo::new(move |_| params.with(|params| params.get("name").unwrap_or_default()));
    let job = Feed::<JobView>::new(&[Topic::Tasks, Topic::Demands], move || {
        Some(format!("{JOBS}/{}", query::escape(&name.get())))
    });
    let is_over = Memo::new(move |_| {
        job.data
            .with(|job| job.as_ref().is_some_and(|job| is_terminal(job.state)))
    });
    poll(job, is_over);
    let is_array = Memo::new(move |_| {
        job.data
            .with(|job| job.as_ref().is_some_and(|job| job.count > 1))
    });
    view! {
        <PageHead title=name above=("/jobs", "Jobs")>
            <Show when=move || job.data.with(Option::is_some) && !is_over.get()>
                <KillJob name=name job=job/>
            </Show>
        </PageHead>
        <Loaded feed=job let:view>
            <Summary job=view/>
            <OneTask job=view/>
            <Show when=move || is_array.get()>
                <ArrayTasks name=name/>
            </Show>
        </Loaded>
    }
}

fn is_terminal(state: JobState) -> bool {
    match state {
        JobState::Waiting | JobState::Running | JobState::Killing => false,
        JobState::Finished | JobState::Failed | JobState::Killed => true,
    }
}

/// Reads `job` every second until it is over.
fn poll(job: Feed<JobView>, is_over: Memo<bool>) {
    Effect::new(move |_| {
        if is_over.get() {
            return;
        }
        if let Ok(interval) = set_interval_with_handle(move || job.refresh(), POLL) {
            on_cleanup(move || interval.clear());
        }
    });
}

#[component]
fn KillJob(name: Memo<String>, job: Feed<JobView>) -> impl IntoView {
    view! {
        <ConfirmButton
            label="Kill"
            title=Signal::derive(move || format!("Kill the job {}?", name.get()))
            text="Its running tasks are ended, and those that wait never start."
            subject=name
            action=|name, key| {
                Box::pin(async move {
                    let path = format!("{JOBS}/{}", query::escape(&name));
                    api::change("DELETE", &path, None, &key).await.map(drop)
                })
            }
            on_done=move || job.refresh()
        />
    }
}

#[component]
fn Summary(job: Signal<JobView>) -> impl IntoView {
    let state = Signal::derive(move || job_state(job.read().state));
    let reason = move || {
        let reason = job.read().reason.clone();
        reason.map(|reason| view! { <p class="status-reason"><ReasonText reason=reason/></p> })
    };
    let restarts = move || {
        let restarts = job.read().restarts;
        (restarts > 0).then(|| amounts::counted(restarts.into(), "restart"))
    };
    view! {
        <section class="card status" aria-label="Status">
            <div class="status-line">
                <span id="job-state" class="status-state" aria-live="polite">
                    <StatePill state=state/>
                </span>
                <span class="muted">{move || amounts::counted(job.read().count.into(), "task")}</span>
                <span class="muted">{restarts}</span>
            </div>
            <JobProgress job=job/>
            {reason}
            <dl class="details inner">
                <Detail term="Each task has">{move || request_text(&job.read().resources)}</Detail>
                <Detail term="Priority">{move || job.read().priority}</Detail>
                <Detail term="Submitted by">{move || job.read().user.clone()}</Detail>
                {move || job.with(terms)}
            </dl>
        </section>
    }
}

/// What was asked of its tasks beyond what every job says.
fn terms(job: &JobView) -> impl IntoView + use<> {
    let role = job.role.as_ref().map(ToString::to_string);
    let place = Some(job.constraints.to_string()).filter(|place| !place.is_empty());
    let volumes = Some(job.volumes.join(", ")).filter(|volumes| !volumes.is_empty());
    let revocable = job
        .revocable
        .then(|| "also what can be taken back".to_owned());
    let gang = job.gang.then(|| "all tasks start together".to_owned());
    let limit = job.time_limit_ms.map(amounts::duration);
    let terms = [
        ("Role", role),
        ("Only where", place),
        ("Volumes", volumes),
        ("Takes", revocable),
        ("Gang", gang),
        ("Time limit", limit),
    ];
    let shown = |(term, said): (&'static str, Option<String>)| {
        said.map(|said| view! { <Detail term=term>{said}</Detail> })
    };
    terms.into_iter().filter_map(shown).collect_view()
}

/// The output of a job's one task, from its latest attempt.
#[component]
fn OneTask(job: Signal<JobView>) -> impl IntoView {
    let id = Memo::new(move |_| job.with(|job| job.task.as_ref().map(|task| task.id.clone())));
    let is_single = Memo::new(move |_| job.read().count == 1);
    move || match (is_single.get(), id.get()) {
        (false, _) => ().into_any(),
        (true, Some(id)) => view! { <TaskOutput id=id job=job/> }.into_any(),
        (true, None) => view! {
            <Empty title="The task has not been launched yet.">
                "Its output appears here as soon as it runs. "
                <a href="/tasks?framework=batch">"See what waits and why"</a>
            </Empty>
        }
        .into_any(),
    }
}

#[component]
fn TaskOutput(id: TaskId, job: Signal<JobView>) -> impl IntoView {
    let path = format!("/tasks/{id}");
    // The cluster knows of the task's end a moment before the framework does.
    let api_path = format!("/v1{path}");
    let task = Feed::<TaskView>::new(&[Topic::Tasks], move || Some(api_path.clone()));
    let state = Memo::new(move |_| {
        let told = job.with(|job| job.task.as_ref().map(|JobTask { state, .. }| *state));
        let known = task
            .data
            .with(|task| task.as_ref().map(|task| task.status.state));
        known.or(told).unwrap_or(TaskState::Staging)
    });
    let exit_code = move || {
        let code = task
            .data
            .with(|task| task.as_ref().and_then(|task| task.status.exit_code));
        code.map(|code| view! { <span>"exit code " <strong class="number">{code}</strong></span> })
    };
    let members = Signal::derive(move || {
        let members = |task: &TaskView| program::members(&task.spec);
        task.data
            .with(|task| task.as_ref().map(members).unwrap_or_default())
    });
    view! {
        <div class="section-head">
            <h2>
                "Task " <a href=path>{id.to_string()}</a>
            </h2>
            <div class="status-line">
                {exit_code}
                <span id="task-state" aria-live="polite">
                    <StatePill state=Signal::derive(move || task_state(state.get()))/>
                </span>
            </div>
        </div>
        <LogView task=id state=state members=members/>
    }
}

#[component]
fn ArrayTasks(name: Memo<String>) -> impl IntoView {
    let filter = move || TaskFilter {
        framework: "batch".into(),
        // Tasks of an array are called after it; the dot is the one before a name in an id.
        search: format!(".{}-", name.get()),
        ..TaskFilter::default()
    };
    let tasks = Feed::<Page<TaskView>>::new(&[Topic::Tasks], move || {
        Some(filter().applied_to("/v1/tasks", &[("limit", TASKS_SHOWN)]))
    });
    view! {
        <section aria-labelledby="job-tasks-title">
            <div class="section-head">
                <h2 id="job-tasks-title">"Latest tasks"</h2>
                <a href=move || filter().applied_to("/tasks", &[])>"All its tasks"</a>
            </div>
            <Loaded feed=tasks let:page>
                <Show
                    when=move || page.with(|page| !page.items.is_empty())
                    fallback=|| view! { <Empty title="No task of it is remembered."/> }
                >
                    <TaskTable tasks=Signal::derive(move || page.get().items)/>
                </Show>
            </Loaded>
        </section>
    }
}
