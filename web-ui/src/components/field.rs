//! A labelled field of a form, with its hint and its message.

use std::collections::BTreeMap;

use leptos::prelude::*;

/// What was typed, as a form keeps it.
pub trait Form: Clone + Send + Sync + 'static {
    /// A field that a message can stand at.
    type Field: Copy + Ord + Send + Sync + 'static;
}

/// What is wrong, by field.
pub type Problems<F> = BTreeMap<<F as Form>::Field, String>;

/// A form's state, shared by its fields.
pub struct FormState<F: Form> {
    /// What was typed.
    pub form: RwSignal<F>,
    /// What is wrong, shown once a submission was tried.
    pub shown: Signal<Problems<F>>,
}

impl<F: Form> Clone for FormState<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Form> Copy for FormState<F> {}

impl<F: Form> FormState<F> {
    /// A form, what it makes or what is wrong with it, and whether a submission was tried.
    pub fn new<T>(
        form: RwSignal<F>,
        outcome: Memo<Result<T, Problems<F>>>,
        was_tried: RwSignal<bool>,
    ) -> Self
    where
        T: Clone + PartialEq + Send + Sync + 'static,
    {
        let shown = Signal::derive(move || match outcome.get() {
            Err(problems) if was_tried.get() => problems,
            _ => Problems::<F>::new(),
        });
        Self { form, shown }
    }

    /// The message at `field`.
    pub fn problem(self, field: F::Field) -> Option<String> {
        self.shown.with(|problems| problems.get(&field).cloned())
    }
}

/// How one of the form's texts is reached.
pub type Text<F> = fn(&mut F) -> &mut String;

/// Words about a field.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// Its id in the page.
    pub id: &'static str,
    /// Its name.
    pub label: &'static str,
    /// What may stand in it.
    pub hint: &'static str,
}

/// Label, field, hint and message, tied together for screen readers.
#[component]
pub fn FieldFrame<F: Form>(
    /// The form.
    state: FormState<F>,
    /// Which field.
    field: F::Field,
    /// What is said about it.
    words: Words,
    children: Children,
) -> impl IntoView {
    let message = move || {
        state.problem(field).map(|problem| {
            view! { <span class="field-problem">{problem}</span> }
        })
    };
    view! {
        <div class="field" class:has-problem=move || state.problem(field).is_some()>
            <label for=words.id>{words.label}</label>
            {children()}
            <p class="field-foot" id=format!("{}-foot", words.id) aria-live="polite">
                {message}
                <span class="field-hint">{words.hint}</span>
            </p>
        </div>
    }
}

/// A field of one line.
#[component]
pub fn LineField<F: Form>(
    /// The form.
    state: FormState<F>,
    /// Which field.
    field: F::Field,
    /// What is said about it.
    words: Words,
    /// Where its text is.
    text: Text<F>,
    /// Which keyboard suits it: `text`, `decimal` or `numeric`.
    #[prop(default = "text")]
    inputmode: &'static str,
    /// An example.
    #[prop(default = "")]
    placeholder: &'static str,
    /// Whether it is code.
    #[prop(optional)]
    is_code: bool,
) -> impl IntoView {
    view! {
        <FieldFrame state=state field=field words=words>
            <input
                id=words.id
                type="text"
                inputmode=inputmode
                class:code=is_code
                class:number=inputmode != "text"
                placeholder=placeholder
                autocomplete="off"
                autocapitalize="off"
                spellcheck="false"
                aria-describedby=format!("{}-foot", words.id)
                aria-invalid=move || state.problem(field).is_some().to_string()
                prop:value=move || value(state, text)
                on:input:target=move |event| set(state, text, event.target().value())
            />
        </FieldFrame>
    }
}

/// A field of several lines.
#[component]
pub fn LinesField<F: Form>(
    /// The form.
    state: FormState<F>,
    /// Which field.
    field: F::Field,
    /// What is said about it.
    words: Words,
    /// Where its text is.
    text: Text<F>,
    /// An example.
    placeholder: &'static str,
) -> impl IntoView {
    view! {
        <FieldFrame state=state field=field words=words>
            <textarea
                id=words.id
                rows="3"
                class="code"
                placeholder=placeholder
                autocomplete="off"
                autocapitalize="off"
                spellcheck="false"
                aria-describedby=format!("{}-foot", words.id)
                aria-invalid=move || state.problem(field).is_some().to_string()
                prop:value=move || value(state, text)
                on:input:target=move |event| set(state, text, event.target().value())
            ></textarea>
        </FieldFrame>
    }
}

fn value<F: Form>(state: FormState<F>, text: Text<F>) -> String {
    let mut form = state.form.get();
    std::mem::take(text(&mut form))
}

fn set<F: Form>(state: FormState<F>, text: Text<F>, typed: String) {
    state.form.update(|form| *text(form) = typed);
}
