//! Sending a form that sets something whole: once at a time, and what came of it.

use leptos::prelude::*;
use leptos::task::spawn_local;

use crate::api::{self, ApiError, IdempotencyKey};

/// How far it is.
#[derive(Clone, Copy)]
pub struct Sending {
    is_busy: RwSignal<bool>,
    refusal: RwSignal<Option<ApiError>>,
    is_saved: RwSignal<bool>,
    /// The last body that was sent, and its key: after a lost answer the same is sent again.
    sent: StoredValue<Option<(String, IdempotencyKey)>>,
}

impl Sending {
    /// Nothing was sent yet.
    pub fn new() -> Self {
        Self {
            is_busy: RwSignal::new(false),
            refusal: RwSignal::new(None),
            is_saved: RwSignal::new(false),
            sent: StoredValue::new(None),
        }
    }

    /// Something was typed since.
    pub fn is_outdated(self) {
        self.is_saved.set(false);
    }

    /// What is wrong otherwise.
    pub fn refuse(self, error: ApiError) {
        self.refusal.set(Some(error));
    }

    /// `PUT path`, of what still has that tag.
    pub fn put(self, path: String, body: String, tag: String, on_done: impl FnOnce() + 'static) {
        if self.is_busy.get_untracked() {
            return;
        }
        self.is_busy.set(true);
        self.refusal.set(None);
        self.is_saved.set(false);
        let key = match self.sent.get_value() {
            Some((sent, key)) if sent == body => key,
            _ => IdempotencyKey::random(),
        };
        self.sent.set_value(Some((body.clone(), key.clone())));
        spawn_local(async move {
            let answer = api::set(&path, body, &tag, &key).await;
            // The page may have been left meanwhile.
            if self.is_busy.try_set(false).is_some() {
                return;
            }
            match answer {
                Ok(()) => {
                    self.sent.set_value(None);
                    self.is_saved.set(true);
                    on_done();
                }
                Err(error) => self.refusal.set(Some(error)),
            }
        });
    }
}

/// What the cluster said, if it said no.
#[component]
pub fn SendRefusal(
    /// How far it is.
    sending: Sending,
) -> impl IntoView {
    move || {
        let refusal = sending.refusal.get();
        refusal.map(|error| view! { <p class="notice error" role="alert">{error.to_string()}</p> })
    }
}

/// The button that sends, and whether it was saved.
#[component]
pub fn SendFoot(
    /// How far it is.
    sending: Sending,
    /// The button's words.
    label: &'static str,
) -> impl IntoView {
    let saved = move || sending.is_saved.get().then_some("Saved.");
    view! {
        <div class="form-foot">
            <button
                type="submit"
                class="button primary"
                prop:disabled=move || sending.is_busy.get()
            >
                {label}
            </button>
            <span class="muted" role="status">{saved}</span>
        </div>
    }
}
