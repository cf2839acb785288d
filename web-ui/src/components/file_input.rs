//! The place where a WebAssembly file is chosen, or dropped.
//!
//! Its digest is taken at once, so that by the time the form is submitted only
//! the upload is left, and a file that is no WebAssembly is told right here.

use leptos::prelude::*;
use leptos::task::spawn_local;
use tepui_types::Bytes;
use tepui_web::amounts;
use tepui_web::job_form::{Field, JobForm};
use web_sys::File;

use crate::components::field::FormState;
use crate::upload;

/// A place to choose a file or drop one on.
#[component]
pub fn FileInput(
    /// The field's id in the page.
    id: &'static str,
    /// The form, whose artifact is the file's digest once it is known.
    state: FormState<JobForm>,
    /// The file that was chosen.
    file: RwSignal<Option<File>, LocalStorage>,
) -> impl IntoView {
    // Bytes read while the digest is taken.
    let read = RwSignal::new(None::<f64>);
    let problem = RwSignal::new(None::<String>);
    // The latest choice counts, however long an earlier file takes.
    let choice = StoredValue::new(0u32);
    let choose = move |chosen: Option<File>| {
        let mine = choice.get_value().wrapping_add(1);
        choice.set_value(mine);
        problem.set(None);
        read.set(None);
        state.form.update(|form| form.artifact = None);
        file.set(chosen.clone());
        let Some(chosen) = chosen else { return };
        read.set(Some(0.0));
        spawn_local(async move {
            let is_wanted = move || choice.try_get_value() == Some(mine);
            let outcome = upload::digest(&chosen, |bytes| {
                is_wanted() && read.try_set(Some(bytes)).is_none()
            });
            let outcome = outcome.await;
            if !is_wanted() {
                return;
            }
            read.set(None);
            match outcome {
                Ok(digest) => state.form.update(|form| form.artifact = digest),
                Err(error) => problem.set(Some(error)),
            }
        });
    };
    view! {
        <div class="drop">
            <input
                id=id
                type="file"
                accept=".wasm,application/wasm"
                aria-describedby=format!("{}-foot", id)
                aria-invalid=move || state.problem(Field::File).is_some().to_string()
                on:change:target=move |event| {
                    choose(event.target().files().and_then(|files| files.get(0)))
                }
            />
            <FileWords file=file read=read problem=problem/>
        </div>
    }
}

#[component]
fn FileWords(
    file: RwSignal<Option<File>, LocalStorage>,
    read: RwSignal<Option<f64>>,
    problem: RwSignal<Option<String>>,
) -> impl IntoView {
    let words = move || match file.get() {
        None => view! {
            <strong>"Choose a .wasm file"</strong>
            <span class="muted">"or drop it here"</span>
        }
        .into_any(),
        Some(file) => {
            let size = Bytes(file.size() as u64);
            let progress = move || match (read.get(), problem.get()) {
                (_, Some(problem)) => problem,
                (Some(bytes), None) => {
                    let share = amounts::percent_text(bytes as u64, size.0);
                    format!("{size}, reading {share}")
                }
                (None, None) => size.to_string(),
            };
            view! {
                <strong class="break">{file.name()}</strong>
                <span class="muted" class:problem=move || problem.with(Option::is_some)>{progress}</span>
            }
            .into_any()
        }
    };
    view! {
        <div class="drop-words" aria-live="polite">
            {words}
        </div>
    }
}
