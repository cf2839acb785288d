//! A button for what cannot be undone: it asks before it acts, and stays to
//! say when the cluster refused.

use std::future::Future;
use std::pin::Pin;

use leptos::html;
use leptos::prelude::*;
use leptos::task::spawn_local;

use crate::api::{ApiError, IdempotencyKey};

/// What is done once confirmed.
pub type Action = fn(String, IdempotencyKey) -> Pin<Box<dyn Future<Output = Result<(), ApiError>>>>;

/// A button, and the dialog that it opens.
#[component]
pub fn ConfirmButton(
    /// The button's words, in the page and in the dialog.
    label: &'static str,
    /// The question.
    #[prop(into)]
    title: Signal<String>,
    /// What will happen.
    text: &'static str,
    /// What it is done to, handed to `action`.
    #[prop(into)]
    subject: Signal<String>,
    /// Does it.
    action: Action,
    /// Called once it was done.
    on_done: impl Fn() + Clone + Send + Sync + 'static,
) -> impl IntoView {
    let dialog = NodeRef::<html::Dialog>::new();
    let is_busy = RwSignal::new(false);
    let error = RwSignal::new(None::<ApiError>);
    // One key for one asking: pressing again after a lost answer is the same change.
    let key = StoredValue::new(IdempotencyKey::random());
    let open = move |_| {
        error.set(None);
        key.set_value(IdempotencyKey::random());
        if let Some(dialog) = dialog.get_untracked() {
            // It fails only for a dialog that is open already.
            let _ = dialog.show_modal();
        }
    };
    let close = move || {
        if let Some(dialog) = dialog.get_untracked() {
            dialog.close();
        }
    };
    let on_outcome = move |outcome: Result<(), ApiError>| match outcome {
        Ok(()) => {
            close();
            on_done();
        }
        Err(refused) => error.set(Some(refused)),
    };
    let act = move |_| {
        is_busy.set(true);
        error.set(None);
        let on_outcome = on_outcome.clone();
        spawn_local(async move {
            let outcome = action(subject.get_untracked(), key.get_value()).await;
            // The page may have been left meanwhile.
            if is_busy.try_set(false).is_none() {
                on_outcome(outcome);
            }
        });
    };
    let refusal = move || {
        let error = error.get();
        error.map(|error| view! { <p class="notice error" role="alert">{error.to_string()}</p> })
    };
    view! {
        <button type="button" class="button danger" on:click=open>
            {label}
        </button>
        <dialog node_ref=dialog class="dialog" aria-label=move || title.get()>
            <h2>{move || title.get()}</h2>
            <p>{text}</p>
            {refusal}
            <div class="dialog-buttons">
                <button type="button" class="button" on:click=move |_| close()>
                    "Cancel"
                </button>
                <button
                    type="button"
                    class="button danger solid"
                    prop:disabled=move || is_busy.get()
                    on:click=act
                >
                    {label}
                </button>
            </div>
        </dialog>
    }
}
