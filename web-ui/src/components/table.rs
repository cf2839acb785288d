//! Tables: real ones, so that a screen reader can walk them, and rows that
//! keep their place in the page while their data changes.

use std::hash::Hash;

use leptos::prelude::*;

use crate::feed::Data;

/// One column's heading.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its words.
    pub title: &'static str,
    /// Its class: `number` aligns right; `wide-only` and `medium-up` leave it
    /// out on narrow screens.
    pub class: &'static str,
}

/// A heading.
pub const fn column(title: &'static str, class: &'static str) -> Column {
    Column { title, class }
}

/// A table of rows that `children` makes.
#[component]
pub fn Table(
    /// What it lists, for those who hear the page.
    caption: &'static str,
    /// Its headings.
    columns: &'static [Column],
    children: Children,
) -> impl IntoView {
    let headings: Vec<_> = columns
        .iter()
        .map(|column| view! { <th scope="col" class=column.class>{column.title}</th> })
        .collect();
    view! {
        <div class="table-frame" role="region" aria-label=caption tabindex="0">
            <table>
                <caption class="visually-hidden">{caption}</caption>
                <thead>
                    <tr>{headings}</tr>
                </thead>
                <tbody>{children()}</tbody>
            </table>
        </div>
    }
}

/// Rows by key: a row is made once for each key, and its signal follows the
/// item of that key, so that focus and selection stay where they are.
#[component]
pub fn Rows<T, K, V, R>(
    /// The items, in order.
    #[prop(into)]
    items: Signal<Vec<T>>,
    /// What tells one from another.
    key: fn(&T) -> K,
    /// Makes a row.
    row: R,
) -> impl IntoView
where
    T: Data,
    R: Fn(Signal<T>) -> V + Clone + Send + Sync + 'static,
    K: Eq + Hash + Clone + Send + Sync + 'static,
    V: IntoView + 'static,
{
    view! {
        <For
            each=move || items.get()
            key=key
            children=move |item| {
                let id = key(&item);
                let latest = Memo::new(move |last: Option<&T>| {
                    let found = items.with(|items| {
                        items.iter().find(|item| key(item) == id).cloned()
                    });
                    found.or_else(|| last.cloned()).unwrap_or_else(|| item.clone())
                });
                row(latest.into())
            }
        />
    }
}

/// A term and what it is, for lists of details.
#[component]
pub fn Detail(
    /// The term.
    term: &'static str,
    children: Children,
) -> impl IntoView {
    view! {
        <div class="detail">
            <dt>{term}</dt>
            <dd>{children()}</dd>
        </div>
    }
}
