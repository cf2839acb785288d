//! A task's output as it comes.
//!
//! One request follows the log; its bytes become text nodes of a `<pre>`, at
//! most a mebibyte of them (see `log_buffer`). When the connection breaks the
//! end of the log is asked for again, and replaces what stands there once it
//! comes. While nobody sees the page nothing is followed.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use leptos::html;
use leptos::prelude::*;
use leptos::task::spawn_local;
use tepui_types::{TaskId, TaskState};
use tepui_web::log_buffer::{self, Edit, LogBuffer};
use web_sys::{AbortSignal, HtmlElement, Text};

use crate::api::{self, ApiError};
use crate::live::Live;

/// How long after a failure the log is asked for again, in milliseconds.
const RETRY_MS: i32 = 2_000;
/// How long to wait for a log that is not there yet, in milliseconds.
const SOON_MS: i32 = 400;
/// Nearer than this to its end, in pixels, the view keeps following.
const AT_END: i32 = 12;

/// The two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Stdout,
    Stderr,
}

impl Output {
    const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

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
    phase: RwSignal<Phase>,
    is_empty: RwSignal<bool>,
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
) -> impl IntoView {
    let live = expect_context::<Live>();
    let output = RwSignal::new(Output::Stdout);
    let wraps = RwSignal::new(true);
    let retry = Trigger::new();
    let pre = NodeRef::<html::Pre>::new();
    let view = View {
        phase: RwSignal::new(Phase::Following),
        is_empty: RwSignal::new(true),
        has_dropped: RwSignal::new(false),
        is_at_end: RwSignal::new(true),
    };
    let path = {
        let task = task.clone();
        move |output: Output| format!("/v1/tasks/{task}/logs/{}", output.as_str())
    };
    let has_ended = Memo::new(move |_| state.get().is_terminal());
    follow(
        FollowInput {
            live,
            view,
            output,
            retry,
            pre,
            has_ended,
        },
        path.clone(),
    );
    let file = move || format!("{task}-{}.txt", output.get().as_str());
    view! {
        <section class="card log" aria-label="Logs">
            <div class="log-head">
                <LogTabs output=output/>
                <LogPhase view=view/>
                <div class="log-tools">
                    <label class="check">
                        <input
                            type="checkbox"
                            prop:checked=move || wraps.get()
                            on:change:target=move |event| wraps.set(event.target().checked())
                        />
                        "Wrap"
                    </label>
                    <a class="button small" href=move || path(output.get()) download=file>
                        "Download"
                    </a>
                </div>
            </div>
            <Show when=move || view.has_dropped.get()>
                <p class="log-note">
                    "Only the last 1 MiB is shown. Download the log to see all of it."
                </p>
            </Show>
            <LogText pre=pre view=view output=output wraps=wraps/>
            <LogError view=view retry=retry/>
        </section>
    }
}

#[component]
fn LogTabs(output: RwSignal<Output>) -> impl IntoView {
    let tabs = Output::ALL.map(|tab| {
        view! {
            <button
                type="button"
                role="tab"
                id=format!("log-tab-{}", tab.as_str())
                aria-controls="log-output"
                aria-selected=move || (output.get() == tab).to_string()
                on:click=move |_| output.set(tab)
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
fn LogText(
    pre: NodeRef<html::Pre>,
    view: View,
    output: RwSignal<Output>,
    wraps: RwSignal<bool>,
) -> impl IntoView {
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
                aria-label=move || output.get().as_str()
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
fn LogPhase(view: View) -> impl IntoView {
    let words = move || match (view.phase.get(), view.is_empty.get()) {
        (Phase::Waiting, _) => ("tone-pending", "waiting for the task"),
        (Phase::Following, true) => ("tone-active", "following, nothing yet"),
        (Phase::Following, false) => ("tone-active", "following"),
        (Phase::Complete, true) => ("tone-quiet", "ended, nothing was written"),
        (Phase::Complete, false) => ("tone-quiet", "complete"),
        (Phase::Failed(_), _) => ("tone-bad", "cannot be read"),
    };
    view! {
        <span class=move || format!("log-phase {}", words().0) role="status">
            {move || words().1}
        </span>
    }
}

/// What following needs.
#[derive(Clone, Copy)]
struct FollowInput {
    live: Live,
    view: View,
    output: RwSignal<Output>,
    retry: Trigger,
    pre: NodeRef<html::Pre>,
    has_ended: Memo<bool>,
}

/// Follows the chosen output while the view is there and seen.
fn follow(input: FollowInput, path: impl Fn(Output) -> String + 'static) {
    let FollowInput {
        live,
        view,
        output,
        retry,
        pre,
        has_ended,
    } = input;
    let shown_output = Cell::new(None);
    Effect::new(move |_| {
        retry.track();
        let output = output.get();
        let is_visible = live.visible.get();
        let Some(pre) = pre.get() else { return };
        let is_complete = view.phase.get_untracked() == Phase::Complete;
        let is_other = shown_output.replace(Some(output)) != Some(output);
        if !is_visible || (is_complete && !is_other) {
            return;
        }
        if is_other {
            pre.set_text_content(None);
            view.is_empty.set(true);
            view.is_at_end.set(true);
        }
        view.phase.set(Phase::Following);
        let Some(signal) = api::abort_on_cleanup() else {
            return;
        };
        spawn_local(run(
            path(output),
            Page::new(pre.into(), view),
            signal,
            has_ended,
        ));
    });
}

/// Reads until the log is complete or `signal` aborts.
async fn run(path: String, page: Page, signal: AbortSignal, has_ended: Memo<bool>) {
    // The end of the log: all of it, when it is shorter.
    let url = format!("{path}?offset=-{}&follow=true", log_buffer::MAX_BYTES);
    let task_ended = || has_ended.try_get_untracked().unwrap_or(true);
    loop {
        let knew_end = task_ended();
        page.begin();
        let outcome = api::stream(&url, &signal, |bytes| page.push(bytes)).await;
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
        if outcome_is_final(&page, task_ended()) {
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
