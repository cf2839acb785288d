//! A task's output as it comes.
//!
//! One request follows the log; its bytes become text nodes of a `<pre>`, at
//! most a mebibyte of them (see `log_buffer`). When the connection breaks the
//! end of the log is asked for again, and replaces what stands there once it
//! comes. While nobody sees the page nothing is followed. Where nothing was
//! written to the output that is shown, and something to the other one, that
//! one is shown, unless someone chose (see `log_source`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use leptos::html;
use leptos::prelude::*;
use leptos::task::spawn_local;
use tepui_types::{TaskId, TaskState};
use tepui_web::log_buffer::{self, Edit, LogBuffer};
use tepui_web::log_source::{Output, Source};
use web_sys::{AbortSignal, HtmlElement, Text};

use crate::api::{self, ApiError};
use crate::live::Live;

/// How long after a failure the log is asked for again, in milliseconds.
const RETRY_MS: i32 = 2_000;
/// How long to wait for a log that is not there yet, in milliseconds.
const SOON_MS: i32 = 400;
/// Nearer than this to its end, in pixels, the view keeps following.
const AT_END: i32 = 12;

/// What is happening to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// The task has not come far enough to have one.
    Waiting,
    /// It comes.
    Following,
    /// All of it was sent.
    Complete,
    /// It cannot be had now.
    Failed(ApiError),
}

/// The signals of a view.
#[derive(Debug, Clone, Copy)]
struct View {
    source: RwSignal<Source>,
    phase: RwSignal<Phase>,
    is_empty: RwSignal<bool>,
    /// Whether the other output of the command is known to hold something.
    other_has_some: RwSignal<bool>,
    has_dropped: RwSignal<bool>,
    is_at_end: RwSignal<bool>,
}

/// The log of `task`, followed until it ends.
#[component]
pub fn LogView(
    /// Whose.
    task: TaskId,
    /// How far it is.
    #[prop(into)]
    state: Signal<TaskState>,
    /// Its commands, where there are several.
    #[prop(into)]
    members: Signal<Vec<String>>,
) -> impl IntoView {
    let live = expect_context::<Live>();
    let wraps = RwSignal::new(true);
    let retry = Trigger::new();
    let pre = NodeRef::<html::Pre>::new();
    let view = View {
        source: RwSignal::new(Source::default()),
        phase: RwSignal::new(Phase::Following),
        is_empty: RwSignal::new(true),
        other_has_some: RwSignal::new(false),
        has_dropped: RwSignal::new(false),
        is_at_end: RwSignal::new(true),
    };
    let has_ended = Memo::new(move |_| state.get().is_terminal());
    let is_unheard = Memo::new(move |_| state.get() == TaskState::Unreachable);
    // The connection of an agent that was away may be a dead one.
    Effect::new(move |was_unheard: Option<bool>| {
        let is_unheard = is_unheard.get();
        if was_unheard == Some(true) && !is_unheard {
            retry.notify();
        }
        is_unheard
    });
    follow(FollowInput {
        live,
        task: task.clone(),
        view,
        retry,
        pre,
        has_ended,
    });
    let file = {
        let task = task.clone();
        move || view.source.read().file(&task)
    };
    let href = move || view.source.read().path(&task, &[]);
    view! {
        <section class="card log" aria-label="Logs">
            <div class="log-head">
                <MemberChoice source=view.source members=members/>
                <LogTabs source=view.source/>
                <LogPhase view=view is_unheard=is_unheard/>
                <div class="log-tools">
                    <label class="check">
                        <input
                            type="checkbox"
                            prop:checked=move || wraps.get()
                            on:change:target=move |event| wraps.set(event.target().checked())
                        />
                        "Wrap"
                    </label>
                    <a class="button small" href=href download=file>
                        "Download"
                    </a>
                </div>
            </div>
            <Show when=move || view.has_dropped.get()>
                <p class="log-note">
                    "Only the last 1 MiB is shown. Download the log to see all of it."
                </p>
            </Show>
            <LogText pre=pre view=view wraps=wraps/>
            <LogError view=view retry=retry/>
        </section>
    }
}

/// Whose output is shown; nothing where a task is one command.
#[component]
fn MemberChoice(source: RwSignal<Source>, members: Signal<Vec<String>>) -> impl IntoView {
    // The task is read again and again; who its commands are does not change.
    let members = Memo::new(move |_| members.get());
    let options = move || {
        let option = |member: String| {
            let value = member.clone();
            let is_shown = move || source.read().member == value;
            view! { <option value=member.clone() prop:selected=is_shown>{member.clone()}</option> }
        };
        members.get().into_iter().map(option).collect_view()
    };
    view! {
        <Show when=move || members.with(|members| !members.is_empty())>
            <select
                id="log-member"
                class="log-member"
                aria-label="Which command"
                on:change:target=move |event| source.set(Source::of(&event.target().value()))
            >
                {options}
            </select>
        </Show>
    }
}

#[component]
fn LogTabs(source: RwSignal<Source>) -> impl IntoView {
    let tabs = Output::ALL.map(|tab| {
        view! {
            <button
                type="button"
                role="tab"
                id=format!("log-tab-{}", tab.as_str())
                aria-controls="log-output"
                aria-selected=move || (source.read().output == tab).to_string()
                on:click=move |_| source.update(|source| *source = source.chosen(tab))
            >
                {tab.as_str()}
            </button>
        }
    });
    view! {
        <div class="tabs" role="tablist" aria-label="Output">
            {tabs.into_iter().collect_view()}
        </div>
    }
}

/// The text itself; it follows its end until someone scrolls away from there.
#[component]
fn LogText(pre: NodeRef<html::Pre>, view: View, wraps: RwSignal<bool>) -> impl IntoView {
    let on_scroll = move |_| {
        if let Some(pre) = pre.get_untracked() {
            let is_at_end = pre.scroll_top() + pre.client_height() + AT_END >= pre.scroll_height();
            if view.is_at_end.get_untracked() != is_at_end {
                view.is_at_end.set(is_at_end);
            }
        }
    };
    let to_end = move |_| {
        view.is_at_end.set(true);
        if let Some(pre) = pre.get_untracked() {
            pre.set_scroll_top(pre.scroll_height());
        }
    };
    view! {
        <div class="log-body">
            <pre
                id="log-output"
                node_ref=pre
                class:wraps=move || wraps.get()
                tabindex="0"
                role="log"
                aria-live="off"
                aria-label=move || view.source.read().output.as_str()
                on:scroll=on_scroll
            ></pre>
            <Show when=move || !view.is_at_end.get()>
                <button type="button" class="button small log-to-end" on:click=to_end>
                    "Jump to the end"
                </button>
            </Show>
        </div>
    }
}

#[component]
fn LogError(view: View, retry: Trigger) -> impl IntoView {
    move || match view.phase.get() {
        Phase::Failed(error) => Some(view! {
            <div class="notice error" role="alert">
                <p>"The log cannot be read. " {error.to_string()}</p>
                <button type="button" class="button small" on:click=move |_| retry.notify()>
                    "Try again"
                </button>
            </div>
        }),
        _ => None,
    }
}

#[component]
fn LogPhase(view: View, is_unheard: Memo<bool>) -> impl IntoView {
    let nothing = move || {
        let output = view.source.read().output;
        match view.other_has_some.get() {
            true => format!(
                "ended, nothing on {}: look at {}",
                output.as_str(),
                output.other().as_str()
            ),
            false => "ended, nothing was written".into(),
        }
    };
    let words = move || match (view.phase.get(), view.is_empty.get()) {
        (Phase::Waiting, _) => ("tone-pending", "waiting for the task".to_owned()),
        (Phase::Following, _) if is_unheard.get() => (
            "tone-warning",
            "stands still, its agent is not heard of".into(),
        ),
        (Phase::Following, true) => ("tone-active", "following, nothing yet".into()),
        (Phase::Following, false) => ("tone-active", "following".into()),
        (Phase::Complete, true) => ("tone-quiet", nothing()),
        (Phase::Complete, false) => ("tone-quiet", "complete".into()),
        (Phase::Failed(_), _) => ("tone-bad", "cannot be read".into()),
    };
    view! {
        <span class=move || format!("log-phase {}", words().0) role="status">
            {move || words().1}
        </span>
    }
}

/// What following needs.
#[derive(Clone)]
struct FollowInput {
    live: Live,
    task: TaskId,
    view: View,
    retry: Trigger,
    pre: NodeRef<html::Pre>,
    has_ended: Memo<bool>,
}

/// Follows the chosen output while the view is there and seen.
fn follow(input: FollowInput) {
    let FollowInput {
        live,
        task,
        view,
        retry,
        pre,
        has_ended,
    } = input;
    let shown = RefCell::new(None::<Source>);
    Effect::new(move |_| {
        retry.track();
        let source = view.source.get();
        let is_visible = live.visible.get();
        let Some(pre) = pre.get() else { return };
        let is_complete = view.phase.get_untracked() == Phase::Complete;
        let before = shown.replace(Some(source.clone()));
        let is_other = before.is_none_or(|before| !before.is_same_as(&source));
        if !is_visible || (is_complete && !is_other) {
            return;
        }
        if is_other {
            pre.set_text_content(None);
            view.is_empty.set(true);
            view.other_has_some.set(false);
            view.is_at_end.set(true);
        }
        view.phase.set(Phase::Following);
        let Some(signal) = api::abort_on_cleanup() else {
            return;
        };
        let page = Page::new(pre.into(), view);
        let task = task.clone();
        spawn_local(async move {
            run(&source, &task, &page, &signal, has_ended).await;
            if !signal.aborted() && view.is_empty.get_untracked() {
                look_at_other(&source, &task, view, &signal).await;
            }
        });
    });
}

/// Shows the other output where that one has something, or says that it has.
async fn look_at_other(source: &Source, task: &TaskId, view: View, signal: &AbortSignal) {
    let other = source.chosen(source.output.other());
    let has_some = Cell::new(false);
    // One byte tells; what cannot be had now is not worth a notice beside an empty log.
    let path = other.path(task, &[("offset", "-1")]);
    let read = api::stream(&path, signal, |_| has_some.set(true)).await;
    if read.is_err() || signal.aborted() || !has_some.get() {
        return;
    }
    match source.in_place_of_nothing() {
        Some(next) => view.source.set(next),
        None => view.other_has_some.set(true),
    }
}

/// Reads until the log is complete or `signal` aborts.
async fn run(
    source: &Source,
    task: &TaskId,
    page: &Page,
    signal: &AbortSignal,
    has_ended: Memo<bool>,
) {
    // The end of the log: all of it, when it is shorter.
    let offset = format!("-{}", log_buffer::MAX_BYTES);
    let url = source.path(task, &[("offset", &offset), ("follow", "true")]);
    let task_ended = || has_ended.try_get_untracked().unwrap_or(true);
    loop {
        let knew_end = task_ended();
        page.begin();
        let outcome = api::stream(&url, signal, |bytes| page.push(bytes)).await;
        if signal.aborted() {
            return;
        }
        let pause = match outcome {
            // The answer ends with the task; that the task ended may be
            // learned a moment later than its last bytes.
            Ok(()) if knew_end || task_ended() => {
                page.view.phase.set(Phase::Complete);
                return;
            }
            Ok(()) => SOON_MS,
            Err(error) if error.status() == Some(404) && !knew_end => {
                page.view.phase.set(Phase::Waiting);
                SOON_MS
            }
            Err(error) => {
                page.view.phase.set(Phase::Failed(error));
                RETRY_MS
            }
        };
        sleep(pause).await;
        if signal.aborted() {
            return;
        }
        if outcome_is_final(page, task_ended()) {
            page.view.phase.set(Phase::Complete);
            return;
        }
    }
}

/// Whether the answer that ended was the last one after all.
fn outcome_is_final(page: &Page, has_ended: bool) -> bool {
    has_ended && page.view.phase.get_untracked() == Phase::Following
}

async fn sleep(millis: i32) {
    let promise = js_sys::Promise::new(&mut |resolve, _| {
        // Without a timer the promise would never resolve; there always is one.
        let _ = window().set_timeout_with_callback_and_timeout_and_arguments_0(&resolve, millis);
    });
    let _ = wasm_bindgen_futures::JsFuture::from(promise).await;
}

/// The text nodes, as one reading fills them.
#[derive(Clone)]
struct Page {
    pre: HtmlElement,
    view: View,
    buffer: Rc<RefCell<LogBuffer>>,
    nodes: Rc<RefCell<VecDeque<Text>>>,
    received: Rc<Cell<usize>>,
    scrolls: Rc<Cell<bool>>,
}

impl Page {
    fn new(pre: HtmlElement, view: View) -> Self {
        Self {
            pre,
            view,
            buffer: Rc::default(),
            nodes: Rc::default(),
            received: Rc::default(),
            scrolls: Rc::default(),
        }
    }

    /// The next bytes are the first of a new reading.
    fn begin(&self) {
        *self.buffer.borrow_mut() = LogBuffer::default();
        self.nodes.borrow_mut().clear();
        self.received.set(0);
    }

    fn push(&self, bytes: &[u8]) {
        let view = self.view;
        if self.received.get() == 0 {
            self.pre.set_text_content(None);
        }
        self.received
            .set(self.received.get().saturating_add(bytes.len()));
        let edits = self.buffer.borrow_mut().push(bytes);
        for edit in edits {
            self.apply(edit);
        }
        if view.phase.get_untracked() != Phase::Following {
            view.phase.set(Phase::Following);
        }
        if view.is_empty.get_untracked() {
            view.is_empty.set(false);
        }
        let cut =
            self.received.get() >= log_buffer::MAX_BYTES || self.buffer.borrow().has_dropped();
        if view.has_dropped.get_untracked() != cut {
            view.has_dropped.set(cut);
        }
        self.scroll();
    }

    fn apply(&self, edit: Edit) {
        let mut nodes = self.nodes.borrow_mut();
        match edit {
            Edit::Append(text) => {
                if let Some(last) = nodes.back() {
                    // It fails only past the longest string of the browser.
                    let _ = last.append_data(&text);
                }
            }
            Edit::Begin(text) => {
                let node = document().create_text_node(&text);
                let _ = self.pre.append_child(&node);
                nodes.push_back(node);
            }
            Edit::DropFirst => {
                if let Some(first) = nodes.pop_front() {
                    let _ = self.pre.remove_child(&first);
                }
            }
        }
    }

    /// Follows the end, at most once a frame: it makes the browser lay out.
    fn scroll(&self) {
        if !self.view.is_at_end.get_untracked() || self.scrolls.replace(true) {
            return;
        }
        let page = self.clone();
        request_animation_frame(move || {
            page.scrolls.set(false);
            page.pre.set_scroll_top(page.pre.scroll_height());
        });
    }
}
