//! One task: how far it came and why, what it has and used, and its output.

use leptos::prelude::*;
use leptos_router::hooks::use_params_map;
use tepui_types::api::task::{KillRequest, TaskAttempt, TaskHistory, TaskView};
use tepui_types::task::MemberStatus;
use tepui_types::{Bytes, TaskState};
use tepui_web::{amounts, program, query};

use crate::api;
use crate::app::PageHead;
use crate::components::confirm::ConfirmButton;
use crate::components::files::Files;
use crate::components::loaded::Loaded;
use crate::components::log_view::LogView;
use crate::components::table::Detail;
use crate::components::task_state::{ReasonText, StatePill, task_state};
use crate::components::task_table::took;
use crate::components::time::{Ago, Elapsed};
use crate::components::usage::{UsageNow, instances};
use crate::feed::Feed;
use crate::live::Topic;
use spec::Program;

mod spec;

/// The page.
#[component]
pub fn TaskPage() -> impl IntoView {
    let params = use_params_map();
    let id = Memo::new(move |_| params.with(|params| params.get("id").unwrap_or_default()));
    let task = Feed::<TaskView>::new(&[Topic::Tasks], move || {
        Some(format!("/v1/tasks/{}", query::escape(&id.get())))
    });
    let state = Memo::new(move |_| {
        task.data
            .with(|task| task.as_ref().map(|task| task.status.state))
    });
    let can_kill = move || {
        state
            .get()
            .is_some_and(|state| !state.is_terminal() && state != TaskState::Killing)
    };
    view! {
        <PageHead title=Signal::derive(move || short_title(&id.get())) above=("/tasks", "Tasks")>
            <Show when=can_kill>
                <ConfirmButton
                    label="Kill"
                    title=Signal::derive(move || format!("Kill {}?", id.get()))
                    text="It is asked to end, and ended by force when its grace is over."
                    subject=id
                    action=|id, key| {
                        Box::pin(async move {
                            let body = api::json(&KillRequest::default())?;
                            let path = format!("/v1/tasks/{}/kill", query::escape(&id));
                            api::change("POST", &path, Some(body), &key).await.map(drop)
                        })
                    }
                    on_done=move || task.refresh()
                />
            </Show>
        </PageHead>
        <Loaded feed=task let:view>
            <Status task=view/>
            <LogView
                task=view.get_untracked().id
                state=Signal::derive(move || view.read().status.state)
                members=Signal::derive(move || program::members(&view.read().spec))
            />
            <TaskDetails task=view/>
            <Files id=id/>
            <History id=id/>
            <Program task=view.get_untracked()/>
        </Loaded>
    }
}

/// The name of a task in its id; what is no id as it is.
fn short_title(id: &str) -> String {
    id.split('.').nth(1).unwrap_or(id).to_owned()
}

#[component]
fn Status(task: Signal<TaskView>) -> impl IntoView {
    let state = Signal::derive(move || task.with(|task| task_state(task.status.state)));
    let reason = move || {
        let reason = task.read().status.reason.clone();
        reason.map(|reason| view! { <p class="status-reason"><ReasonText reason=reason/></p> })
    };
    let exit_code = move || {
        let code = task.read().status.exit_code;
        code.map(|code| view! { <span>"exit code " <strong class="number">{code}</strong></span> })
    };
    let usage = move || {
        let usage = task.read().status.usage;
        usage.map(|usage| {
            view! {
                <span>
                    "used " <strong>{amounts::cpu_time(usage.cpu_micros)}</strong> " of cpu"
                </span>
                <span>
                    "at most " <strong>{Bytes(usage.mem_peak_bytes).to_string()}</strong> " of memory"
                </span>
                {usage.instances.map(instances)}
            }
        })
    };
    let id = task.get_untracked().id.to_string();
    let runs = Memo::new(move |_| {
        let state = task.read().status.state;
        matches!(state, TaskState::Running | TaskState::Killing)
    });
    let signs = move || {
        let signs = task.read().status.signs.clone().unwrap_or_default();
        let addresses: Vec<_> = signs.addresses.iter().map(ToString::to_string).collect();
        let addresses = (!addresses.is_empty()).then(|| {
            view! { <p>"reached at " <strong>{addresses.join(", ")}</strong></p> }
        });
        let checks = signs
            .checks
            .iter()
            .map(|check| view! { <p>{check.to_string()}</p> });
        let members = signs.members.iter().map(member);
        view! { {addresses} {checks.collect_view()} {members.collect_view()} }
    };
    // How its commands are is told while it lives; who they were stays.
    let companions = move || {
        let task = task.read();
        let is_told = !task.status.state.is_terminal() || task.status.signs.is_some();
        let names: Vec<_> = program::companions(&task.spec)
            .iter()
            .map(|companion| format!("{} ({})", companion.name, program::role(companion.role)))
            .collect();
        (!is_told && !names.is_empty()).then(|| {
            view! { <p class="muted">"its companions were " {names.join(", ")}</p> }
        })
    };
    view! {
        <section class="card status" aria-label="Status">
            <div class="status-line">
                <span id="task-state" class="status-state" aria-live="polite">
                    <StatePill state=state/>
                </span>
                <span class="muted">
                    "for "
                    <Elapsed
                        from=Signal::derive(move || took(&task.read()).0)
                        to=Signal::derive(move || took(&task.read()).1)
                    />
                </span>
                {exit_code}
                {usage}
                <Show when=move || runs.get()>
                    <UsageNow id=id.clone()/>
                </Show>
            </div>
            {reason}
            {signs}
            {companions}
        </section>
    }
}

fn member(member: &MemberStatus) -> impl IntoView + use<> {
    let restarts = match member.restarts {
        0 => String::new(),
        1 => ", started again once".to_owned(),
        count => format!(", started again {count} times"),
    };
    let message = match member.message.as_str() {
        "" => String::new(),
        message => format!(": {message}"),
    };
    let (name, state) = (member.name.clone(), member.state.as_str());
    view! { <p><strong>{name}</strong> " is " {state} {restarts} {message}</p> }
}

#[component]
fn TaskDetails(task: Signal<TaskView>) -> impl IntoView {
    let first = task.get_untracked();
    let id = first.id.to_string();
    let time = move |read: fn(&TaskView) -> Option<tepui_types::Timestamp>| {
        move || match task.with(read) {
            Some(time) => view! { <Ago time=time/> }.into_any(),
            None => view! { <span class="muted">"not yet"</span> }.into_any(),
        }
    };
    let job = query::job_of(&first).map(|job| {
        let (href, job) = (format!("/jobs/{}", query::escape(job)), job.to_owned());
        view! { <Detail term="Job"><a href=href>{job}</a></Detail> }
    });
    let array_index = first.array_index.map(|index| {
        view! { <Detail term="Array index">{index}</Detail> }
    });
    let after = move || {
        let after = task.with(|task| task.after.clone())?;
        let href = format!("/tasks/{}", query::escape(&after.to_string()));
        Some(view! { <Detail term="Waits after"><a href=href>{after.to_string()}</a></Detail> })
    };
    view! {
        <section aria-labelledby="task-details-title">
            <h2 id="task-details-title">"Details"</h2>
            <dl class="card details">
                <Detail term="Id">
                    <code class="break">{id}</code>
                </Detail>
                <Detail term="Framework">
                    <a href=format!("/frameworks/{}", first.id.framework)>{first.framework_name}</a>
                </Detail>
                {job}
                <Detail term="Role">{first.role.to_string()}</Detail>
                <Detail term="Agent">
                    <a href=format!("/agents/{}", first.agent)>{first.agent.to_string()}</a>
                    " "
                    <span class="muted">{first.hostname}</span>
                </Detail>
                <Detail term="Resources">{first.resources.to_string()}</Detail>
                {array_index}
                {after}
                <Detail term="Launched">{time(|task| Some(task.launched_at))}</Detail>
                <Detail term="Started">{time(|task| task.started_at)}</Detail>
                <Detail term="Ended">{time(|task| task.ended_at)}</Detail>
            </dl>
        </section>
    }
}

/// Every attempt of its name, the newest first, each with the states that it came to.
#[component]
fn History(id: Memo<String>) -> impl IntoView {
    let history = Feed::<TaskHistory>::new(&[Topic::Tasks], move || {
        Some(format!("/v1/tasks/{}/history", query::escape(&id.get())))
    });
    view! {
        <section aria-labelledby="task-history-title">
            <h2 id="task-history-title">"History"</h2>
            <Loaded feed=history let:view>
                {move || {
                    let shown = id.get();
                    let attempts = view.get().attempts.into_iter();
                    attempts.map(|one| attempt(one, &shown)).collect_view()
                }}
                {move || view.read().more.then(|| view! {
                    <p class="muted">"Older attempts are not listed."</p>
                })}
            </Loaded>
        </section>
    }
}

fn attempt(attempt: TaskAttempt, shown: &str) -> impl IntoView + use<> {
    let number = attempt.id.attempt;
    let id = attempt.id.to_string();
    let number = match id == shown {
        true => view! { <strong class="number">{number}</strong> }.into_any(),
        false => view! { <a class="number" href=format!("/tasks/{id}")>{number}</a> }.into_any(),
    };
    let offer = attempt
        .chosen
        .map(|chosen| format!(" by offer {} ({} at hand)", chosen.offer, chosen.among));
    let forgotten = (attempt.forgotten > 0)
        .then(|| format!(" ({} earlier steps are not kept)", attempt.forgotten));
    let steps: Vec<_> = attempt
        .steps
        .into_iter()
        .map(|step| {
            let state = task_state(step.state);
            let reason = step
                .reason
                .map(|reason| view! { <ReasonText reason=reason/> });
            view! {
                <li>
                    <StatePill state=Signal::stored(state)/>
                    " "
                    <span class="muted"><Ago time=step.time/></span>
                    " "
                    {reason}
                </li>
            }
        })
        .collect();
    view! {
        <div class="card attempt">
            <p>
                "Attempt " {number} " on "
                <a href=format!("/agents/{}", attempt.agent)>{attempt.agent.to_string()}</a>
                " "
                <span class="muted">{attempt.hostname} {offer} {forgotten}</span>
            </p>
            <ol class="plain steps">{steps}</ol>
        </div>
    }
}
