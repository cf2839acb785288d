//! The form that turns a file or a command line into a job of `batch`.
//!
//! Messages stand at their fields once a submission was tried, and go as the
//! fields are mended. What the cluster refuses is shown in its own words. The
//! same job submitted again after a lost answer carries the same key.

use leptos::prelude::*;
use leptos::task::spawn_local;
use leptos_router::NavigateOptions;
use leptos_router::hooks::use_navigate;
use tepui_types::api::job::{JobRequest, JobView};
use tepui_web::job_form::{Field, JobForm, Kind, Problems};
use tepui_web::{amounts, argv, query};
use wasm_bindgen::JsCast;
use web_sys::{File, HtmlElement};

use crate::api::{self, ApiError, IdempotencyKey};
use crate::app::PageHead;
use crate::components::field::{FieldFrame, Form, FormState, LineField, LinesField};
use crate::components::file_input::FileInput;
use crate::components::waiting::request_text;
use crate::pages::jobs::{BatchMissing, JOBS};
use words::{
    ARGS, ARGV, CONNECT, COUNT, CPUS, ENV, FILE, GANG_WAIT, IMAGE, MEM, NAME, PORTS, PRIORITY,
    RESTARTS, ROLE, STDIN, TIME_LIMIT, VOLUMES, WHERE,
};

mod words;

impl Form for JobForm {
    type Field = Field;
}

/// How far a submission is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Idle,
    /// Bytes sent, of all.
    Uploading(f64, f64),
    Submitting,
}

/// The signals of the page.
#[derive(Clone, Copy)]
struct Submission {
    form: RwSignal<JobForm>,
    was_tried: RwSignal<bool>,
    step: RwSignal<Step>,
    refusal: RwSignal<Option<ApiError>>,
    file: RwSignal<Option<File>, LocalStorage>,
    /// The last body that was sent, and its key.
    sent: StoredValue<Option<(String, IdempotencyKey)>>,
}

impl Submission {
    fn new() -> Self {
        Self {
            form: RwSignal::new(JobForm::default()),
            was_tried: RwSignal::new(false),
            step: RwSignal::new(Step::Idle),
            refusal: RwSignal::new(None),
            file: RwSignal::new_local(None),
            sent: StoredValue::new(None),
        }
    }

    /// Uploads what is to be uploaded, and submits.
    async fn send(self, job: JobRequest) -> Result<JobView, ApiError> {
        let artifact = self.form.with_untracked(|form| (form.kind, form.artifact));
        if let ((Kind::Wasm, Some(digest)), Some(file)) = (artifact, self.file.get_untracked()) {
            let size = file.size();
            self.step.set(Step::Uploading(0.0, size));
            let on_progress = move |sent| {
                // The page may have been left.
                let _ = self.step.try_set(Step::Uploading(sent, size));
            };
            api::upload(digest, &file, &IdempotencyKey::random(), on_progress).await?;
        }
        // The page may have been left meanwhile; then nothing is submitted.
        if self.step.try_set(Step::Submitting).is_some() {
            return Err(ApiError::Offline);
        }
        let body = api::json(&job)?;
        let key = match self.sent.get_value() {
            Some((sent, key)) if sent == body => key,
            _ => IdempotencyKey::random(),
        };
        self.sent.set_value(Some((body.clone(), key.clone())));
        api::parse(&api::change("POST", JOBS, Some(body), &key).await?)
    }
}

/// The page.
#[component]
pub fn SubmitPage() -> impl IntoView {
    let submission = Submission::new();
    let Submission {
        form,
        was_tried,
        step,
        refusal,
        ..
    } = submission;
    let outcome = Memo::new(move |_| form.with(JobForm::job));
    let state = FormState::new(form, outcome, was_tried);
    let navigate = use_navigate();
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        if step.get_untracked() != Step::Idle {
            return;
        }
        was_tried.set(true);
        refusal.set(None);
        match outcome.get_untracked() {
            Err(problems) => focus_first(&problems),
            Ok(job) => {
                let navigate = navigate.clone();
                step.set(Step::Submitting);
                spawn_local(async move {
                    let answer = submission.send(job).await;
                    if step.try_set(Step::Idle).is_some() {
                        return;
                    }
                    match answer {
                        Ok(job) => {
                            let page = format!("/jobs/{}", query::escape(&job.name));
                            navigate(&page, NavigateOptions::default());
                        }
                        Err(error) => refusal.set(Some(error)),
                    }
                });
            }
        }
    };
    view! {
        <PageHead title="Submit a job".to_owned()/>
        <form class="card form" novalidate on:submit=submit>
            <KindTabs form=form/>
            <WasmFields state=state file=submission.file/>
            <CommandFields state=state/>
            <CommonFields state=state/>
            <Refusal refusal=refusal/>
            <Foot step=step outcome=outcome/>
        </form>
    }
}

#[component]
fn KindTabs(form: RwSignal<JobForm>) -> impl IntoView {
    let kinds = [
        (Kind::Wasm, "submit-tab-wasm", "submit-wasm", "WebAssembly"),
        (
            Kind::Command,
            "submit-tab-command",
            "submit-command",
            "Native command",
        ),
    ];
    let is_open = move |kind| form.with(|form| form.kind == kind);
    let open = move |kind| form.update(|form| form.kind = kind);
    // Two tabs: either arrow leads to the other one.
    let on_key = move |event: web_sys::KeyboardEvent| {
        if matches!(event.key().as_str(), "ArrowLeft" | "ArrowRight") {
            event.prevent_default();
            let (kind, id) = match form.with_untracked(|form| form.kind) {
                Kind::Wasm => (Kind::Command, "submit-tab-command"),
                Kind::Command => (Kind::Wasm, "submit-tab-wasm"),
            };
            open(kind);
            focus(id);
        }
    };
    let tabs = kinds.map(|(kind, id, panel, title)| {
        view! {
            <button
                type="button"
                role="tab"
                id=id
                aria-controls=panel
                aria-selected=move || is_open(kind).to_string()
                tabindex=move || if is_open(kind) { "0" } else { "-1" }
                on:click=move |_| open(kind)
            >
                {title}
            </button>
        }
    });
    view! {
        <div class="tabs large" role="tablist" aria-label="Kind of program" on:keydown=on_key>
            {tabs.into_iter().collect_view()}
        </div>
    }
}

#[component]
fn CommandFields(state: FormState<JobForm>) -> impl IntoView {
    let split = Memo::new(move |_| state.form.with(|form| argv::split(&form.argv)));
    let preview = move || match split.get() {
        Ok(words) if words.is_empty() => ().into_any(),
        Ok(words) => {
            let words = words
                .into_iter()
                .map(|word| view! { <li><code>{word}</code></li> });
            view! {
                <div class="split">
                    <span class="muted">"Runs as"</span>
                    <ol class="chips">{words.collect_view()}</ol>
                </div>
            }
            .into_any()
        }
        // Once the field says so itself, that is enough.
        Err(_) if state.problem(Field::Argv).is_some() => ().into_any(),
        Err(error) => view! {
            <div class="split">
                <span class="muted">"Not complete yet: " {error.to_string()}</span>
            </div>
        }
        .into_any(),
    };
    view! {
        <div
            id="submit-command"
            role="tabpanel"
            aria-labelledby="submit-tab-command"
            hidden=move || state.form.with(|form| form.kind != Kind::Command)
        >
            <LineField
                state=state
                field=Field::Argv
                words=ARGV
                text=|form| &mut form.argv
                placeholder="echo 'hello there'"
                is_code=true
            />
            {preview}
            <LineField
                state=state
                field=Field::Image
                words=IMAGE
                text=|form| &mut form.image
                placeholder="busybox:1.36"
                is_code=true
            />
        </div>
    }
}

#[component]
fn WasmFields(
    state: FormState<JobForm>,
    file: RwSignal<Option<File>, LocalStorage>,
) -> impl IntoView {
    view! {
        <div
            id="submit-wasm"
            role="tabpanel"
            aria-labelledby="submit-tab-wasm"
            hidden=move || state.form.with(|form| form.kind != Kind::Wasm)
        >
            <FieldFrame state=state field=Field::File words=FILE>
                <FileInput id=FILE.id state=state file=file/>
            </FieldFrame>
            <LineField
                state=state
                field=Field::Args
                words=ARGS
                text=|form| &mut form.args
                placeholder="--verbose 'two words'"
                is_code=true
            />
            <LineField
                state=state
                field=Field::Connect
                words=CONNECT
                text=|form| &mut form.connect
                placeholder="db.example:5432, *:443"
                is_code=true
            />
            <LinesField
                state=state
                field=Field::Stdin
                words=STDIN
                text=|form| &mut form.stdin
                placeholder=""
            />
        </div>
    }
}

#[component]
fn CommonFields(state: FormState<JobForm>) -> impl IntoView {
    view! {
        <div class="field-row">
            <LineField
                state=state
                field=Field::Name
                words=NAME
                text=|form| &mut form.name
                placeholder="hello"
            />
        </div>
        <div class="field-row thirds">
            <LineField
                state=state
                field=Field::Cpus
                words=CPUS
                text=|form| &mut form.cpus
                inputmode="decimal"
            />
            <LineField
                state=state
                field=Field::Mem
                words=MEM
                text=|form| &mut form.mem_mib
                inputmode="numeric"
            />
            <LineField
                state=state
                field=Field::Count
                words=COUNT
                text=|form| &mut form.count
                inputmode="numeric"
            />
        </div>
        <details class="more">
            <summary>"More: environment, agents, ports, restarts, limits, role, volumes, gangs"</summary>
            <LinesField
                state=state
                field=Field::Env
                words=ENV
                text=|form| &mut form.env
                placeholder="LEVEL=debug"
            />
            <LinesField
                state=state
                field=Field::Where
                words=WHERE
                text=|form| &mut form.wanted
                placeholder="zone=a"
            />
            <div class="field-row thirds">
                <LineField
                    state=state
                    field=Field::Restarts
                    words=RESTARTS
                    text=|form| &mut form.restarts
                    inputmode="numeric"
                />
                <LineField
                    state=state
                    field=Field::Priority
                    words=PRIORITY
                    text=|form| &mut form.priority
                />
                <LineField
                    state=state
                    field=Field::TimeLimit
                    words=TIME_LIMIT
                    text=|form| &mut form.time_limit
                    inputmode="numeric"
                />
            </div>
            <div class="field-row">
                <LineField
                    state=state
                    field=Field::Role
                    words=ROLE
                    text=|form| &mut form.role
                    placeholder="eng/web"
                    is_code=true
                />
                <LineField
                    state=state
                    field=Field::Volumes
                    words=VOLUMES
                    text=|form| &mut form.volumes
                    placeholder="data"
                    is_code=true
                />
                <LineField
                    state=state
                    field=Field::Ports
                    words=PORTS
                    text=|form| &mut form.ports
                    inputmode="numeric"
                />
            </div>
            <div class="field-row">
                <label class="check" for="submit-gang">
                    <input
                        id="submit-gang"
                        type="checkbox"
                        prop:checked=move || state.form.with(|form| form.is_gang)
                        on:change:target=move |event| {
                            let is_gang = event.target().checked();
                            state.form.update(|form| form.is_gang = is_gang);
                        }
                    />
                    "A gang: all tasks start together, or none does"
                </label>
                <LineField
                    state=state
                    field=Field::GangWait
                    words=GANG_WAIT
                    text=|form| &mut form.gang_wait
                    inputmode="numeric"
                />
            </div>
        </details>
    }
}

/// What the cluster said, if it said no.
#[component]
fn Refusal(refusal: RwSignal<Option<ApiError>>) -> impl IntoView {
    move || {
        refusal.get().map(|error| {
            let is_missing = error.status() == Some(404);
            let title = if error.leaves_open() {
                "It is not known whether the job was accepted. Submitting it again is safe. "
            } else {
                "The job was not accepted. "
            };
            view! {
                <div class="notice error" role="alert">
                    <p>
                        <strong>{title}</strong>
                        {error.to_string()}
                    </p>
                </div>
                {is_missing.then(|| view! { <BatchMissing/> })}
            }
        })
    }
}

#[component]
fn Foot(step: RwSignal<Step>, outcome: Memo<Result<JobRequest, Problems>>) -> impl IntoView {
    let words = move || match step.get() {
        Step::Idle => "Submit",
        Step::Uploading(..) => "Uploading…",
        Step::Submitting => "Submitting…",
    };
    let progress = move || match step.get() {
        Step::Uploading(sent, size) => Some(view! {
            <progress aria-label="Upload" max=size prop:value=sent></progress>
        }),
        _ => None,
    };
    let sum = move || {
        outcome.get().ok().map(|job| {
            let tasks = amounts::counted(job.count.into(), "task");
            format!("{tasks}, each with {}", request_text(&job.resources))
        })
    };
    view! {
        <div class="form-foot">
            <button
                id="submit-button"
                type="submit"
                class="button primary"
                prop:disabled=move || step.get() != Step::Idle
            >
                {words}
            </button>
            {progress}
            <span class="muted">{sum}</span>
        </div>
    }
}

/// Takes the reader to what is to be mended first.
fn focus_first(problems: &Problems) {
    if let Some(field) = problems.keys().next() {
        let words = words::of(*field);
        let is_in_more = words::FOLDED.iter().any(|folded| folded.id == words.id);
        if is_in_more && let Ok(Some(more)) = document().query_selector("details.more") {
            // Closed, the field could not be seen. It cannot fail for this name.
            let _ = more.set_attribute("open", "");
        }
        focus(words.id);
    }
}

fn focus(id: &'static str) {
    let element = document().get_element_by_id(id);
    if let Some(element) = element.and_then(|element| element.dyn_into::<HtmlElement>().ok()) {
        // It fails only for elements that are not in the page.
        let _ = element.focus();
    }
}
