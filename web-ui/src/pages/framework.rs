//! One scheduler: how it is, what it has, and what it logs.

use std::collections::VecDeque;

use leptos::prelude::*;
use leptos::task::spawn_local;
use leptos_router::NavigateOptions;
use leptos_router::hooks::{use_navigate, use_params_map};
use tepui_types::api::framework::{FrameworkView, LogLine};
use tepui_types::{Bytes, FrameworkPhase};
use tepui_web::amounts;
use tepui_web::query::{self, TaskFilter};

use crate::api::{self, ApiError};
use crate::app::PageHead;
use crate::components::confirm::ConfirmButton;
use crate::components::loaded::{Empty, ErrorNotice, Loaded};
use crate::components::table::Detail;
use crate::components::task_state::{ReasonText, StatePill, framework_phase};
use crate::components::time::{Ago, clock, exact};
use crate::components::waiting::request_text;
use crate::feed::Feed;
use crate::live::{Live, Topic};
use crate::pages::frameworks::FrameworkPageLink;

/// The most lines of a log that are held: about what the master keeps.
const MAX_LINES: usize = 1_000;
/// The longest line that is put together, in bytes; a longer one is no line.
const MAX_LINE_BYTES: usize = 256 * 1024;

/// The page.
#[component]
pub fn FrameworkPage() -> impl IntoView {
    let params = use_params_map();
    let id = Memo::new(move |_| params.with(|params| params.get("id").unwrap_or_default()));
    let framework = Feed::<FrameworkView>::new(
        &[Topic::Frameworks, Topic::Tasks, Topic::Demands],
        move || Some(format!("/v1/frameworks/{}", query::escape(&id.get()))),
    );
    let title = move || {
        framework.data.with(|framework| {
            framework
                .as_ref()
                .map_or_else(|| id.get(), |framework| framework.name.clone())
        })
    };
    view! {
        <PageHead title=Signal::derive(title) above=("/frameworks", "Frameworks")>
            <FrameworkButtons feed=framework/>
        </PageHead>
        <Loaded feed=framework let:view>
            <FrameworkDetails framework=view/>
            <FrameworkLog id=view.get_untracked().id.to_string()/>
        </Loaded>
    }
}

#[component]
fn FrameworkDetails(framework: Signal<FrameworkView>) -> impl IntoView {
    let state = Signal::derive(move || framework_phase(framework.read().phase));
    let reason = move || {
        framework
            .read()
            .reason
            .clone()
            .map(|reason| view! { <ReasonText reason=reason/> })
    };
    let tasks = move || {
        let name = framework.read().name.clone();
        TaskFilter {
            framework: name,
            ..TaskFilter::default()
        }
        .applied_to("/tasks", &[])
    };
    let store = move || {
        framework.with(|framework| {
            let keys = amounts::counted(framework.store_keys, "key");
            format!("{} in {keys}", Bytes(framework.store_bytes))
        })
    };
    view! {
        <dl class="card details">
            <Detail term="Phase">
                <StatePill state=state/>
                " "
                {reason}
            </Detail>
            <Detail term="Role">{move || framework.read().show_roles()}</Detail>
            <Detail term="Living tasks">
                <a href=tasks>{move || amounts::count(framework.read().tasks)}</a>
            </Detail>
            <Detail term="Waiting">{move || amounts::count(framework.read().waiting)}</Detail>
            <Detail term="Its tasks have">{move || request_text(&framework.read().used)}</Detail>
            <Detail term="Store">{store}</Detail>
            <Detail term="Turns">
                {move || amounts::count(framework.read().turns)} " in incarnation "
                {move || framework.read().incarnation}
            </Detail>
            <Detail term="Deployed">
                <Ago time=Signal::derive(move || framework.read().deployed_at)/>
            </Detail>
            <Detail term="Its page">
                <FrameworkPageLink framework=framework/>
            </Detail>
            <Detail term="Component">
                <code class="break">{move || framework.read().artifact.to_string()}</code>
            </Detail>
        </dl>
    }
}

#[component]
fn FrameworkButtons(feed: Feed<FrameworkView>) -> impl IntoView {
    let navigate = use_navigate();
    let phase = Memo::new(move |_| {
        feed.data
            .with(|framework| framework.as_ref().map(|framework| framework.phase))
    });
    let read = move |field: fn(&FrameworkView) -> String| {
        Signal::derive(move || {
            feed.data
                .with(|data| data.as_ref().map(field).unwrap_or_default())
        })
    };
    let (id, name) = (
        read(|framework| framework.id.to_string()),
        read(|it| it.name.clone()),
    );
    let can_restart = move || {
        matches!(
            phase.get(),
            Some(FrameworkPhase::Failed | FrameworkPhase::Backoff)
        )
    };
    let can_remove = move || !matches!(phase.get(), None | Some(FrameworkPhase::Removing));
    view! {
        <Show when=can_restart>
            <ConfirmButton
                label="Restart"
                title=Signal::derive(move || format!("Restart {}?", name.get()))
                text="It starts from its store; its tasks go on."
                subject=id
                action=|id, key| {
                    Box::pin(async move {
                        let path = format!("/v1/frameworks/{id}/restart");
                        api::change("POST", &path, None, &key).await.map(drop)
                    })
                }
                on_done=move || feed.refresh()
            />
        </Show>
        <Show when=can_remove>
            <ConfirmButton
                label="Remove"
                title=Signal::derive(move || format!("Remove {}?", name.get()))
                text="Its tasks are killed and its store is deleted. This cannot be undone."
                subject=id
                action=|id, key| {
                    Box::pin(async move {
                        let path = format!("/v1/frameworks/{id}");
                        api::change("DELETE", &path, None, &key).await.map(drop)
                    })
                }
                on_done={
                    let navigate = navigate.clone();
                    move || navigate("/frameworks", NavigateOptions::default())
                }
            />
        </Show>
    }
}

/// Its log lines as they come, the newest last.
#[component]
fn FrameworkLog(id: String) -> impl IntoView {
    let live = expect_context::<Live>();
    let lines = RwSignal::new(VecDeque::<(u64, LogLine)>::new());
    let error = RwSignal::new(None::<ApiError>);
    let retry = Trigger::new();
    let path = format!("/v1/frameworks/{id}/logs?follow=true");
    Effect::new(move |_| {
        retry.track();
        // After the master was away the log is read anew.
        live.connection.track();
        let is_visible = live.visible.get();
        let path = path.clone();
        if let (true, Some(signal)) = (is_visible, api::abort_on_cleanup()) {
            error.set(None);
            spawn_local(async move {
                let mut reader = LineReader::default();
                let mut is_first = true;
                let outcome = api::stream(&path, &signal, |bytes| {
                    let new = reader.push(bytes);
                    lines.update(|lines| {
                        if std::mem::take(&mut is_first) {
                            lines.clear();
                        }
                        let next = lines.back().map_or(0, |(number, _)| number + 1);
                        lines.extend((next..).zip(new));
                        let excess = lines.len().saturating_sub(MAX_LINES);
                        lines.drain(..excess);
                    });
                });
                let outcome = outcome.await;
                if !signal.aborted() {
                    error.set(outcome.err());
                }
            });
        }
    });
    let is_empty = Memo::new(move |_| lines.with(VecDeque::is_empty));
    view! {
        <section aria-labelledby="framework-log-title">
            <div class="section-head">
                <h2 id="framework-log-title">"Log"</h2>
            </div>
            <ErrorNotice error=error on_retry=move || retry.notify()/>
            <Show
                when=move || !is_empty.get()
                fallback=|| view! { <Empty title="It has logged nothing."/> }
            >
                <ol class="card lines" role="log" aria-live="off" tabindex="0">
                    <For
                        // The newest comes first, and the style sheet draws it last: a list
                        // drawn upwards stays at its newest line by itself.
                        each=move || lines.get().into_iter().rev()
                        key=|(number, line)| (*number, line.time)
                        children=|(_, line)| {
                            let level = level_class(&line.level);
                            view! {
                                <li class=format!("line {level}")>
                                    <time title=exact(line.time)>{clock(line.time)}</time>
                                    <span class="line-level">{line.level}</span>
                                    <span class="line-text">{line.message}</span>
                                </li>
                            }
                        }
                    />
                </ol>
            </Show>
        </section>
    }
}

fn level_class(level: &str) -> &'static str {
    match level {
        "error" => "tone-bad",
        "warn" => "tone-warning",
        "info" => "tone-active",
        _ => "tone-quiet",
    }
}

/// Puts lines of JSON together from pieces that end anywhere.
#[derive(Default)]
struct LineReader(Vec<u8>);

impl LineReader {
    fn push(&mut self, bytes: &[u8]) -> Vec<LogLine> {
        self.0.extend_from_slice(bytes);
        let Some(end) = self.0.iter().rposition(|byte| *byte == b'\n') else {
            if self.0.len() > MAX_LINE_BYTES {
                self.0.clear();
            }
            return Vec::new();
        };
        let rest = self.0.split_off(end + 1);
        let complete = std::mem::replace(&mut self.0, rest);
        let lines = complete
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        // A line of a later release's shape is left out, not the whole log.
        lines
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }
}
