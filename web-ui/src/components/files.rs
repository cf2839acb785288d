//! What is in a task's sandbox: folders to walk through, files to have.

use leptos::prelude::*;
use tepui_types::api::file::{FileEntry, FileKind, FileList};
use tepui_types::{Bytes, Timestamp};
use tepui_web::query;

use crate::components::loaded::Loaded;
use crate::components::table::{Column, Table, column};
use crate::components::time::Ago;
use crate::feed::Feed;

const COLUMNS: &[Column] = &[
    column("Name", ""),
    column("Size", "number"),
    column("Changed", "medium-up"),
];

/// The sandbox of the task of that id. It is looked into only once someone wants that: each look is a
/// connection with the task's agent.
#[component]
pub fn Files(
    /// The task's.
    id: Memo<String>,
) -> impl IntoView {
    let is_open = RwSignal::new(false);
    let folder = RwSignal::new(String::new());
    let list = Feed::<FileList>::new(&[], move || {
        is_open
            .get()
            .then(|| address(&id.get(), &folder.get(), "list"))
    });
    let toggle = move |_| is_open.update(|is_open| *is_open = !*is_open);
    view! {
        <section aria-labelledby="task-files-title">
            <h2 id="task-files-title">"Files"</h2>
            <p>
                <button
                    type="button"
                    class="button small"
                    id="task-files"
                    aria-expanded=move || is_open.get().to_string()
                    on:click=toggle
                >
                    {move || if is_open.get() { "Hide the sandbox" } else { "Look into the sandbox" }}
                </button>
            </p>
            <Show when=move || is_open.get()>
                <Where folder=folder id=id/>
                <Loaded feed=list let:list>
                    <Table caption="Files" columns=COLUMNS>
                        {move || {
                            let list = list.get();
                            let rows = list.entries.into_iter().map(|entry| row(id, folder, entry));
                            rows.collect_view()
                        }}
                    </Table>
                    {move || list.read().is_cut.then(|| view! {
                        <p class="muted">"There are more. Download the folder to have them all."</p>
                    })}
                    {move || list.read().entries.is_empty().then(|| view! {
                        <p class="muted">"Nothing is in it."</p>
                    })}
                </Loaded>
            </Show>
        </section>
    }
}

/// The way to the folder that is shown, each part of which leads back to itself.
#[component]
fn Where(id: Memo<String>, folder: RwSignal<String>) -> impl IntoView {
    let parts = move || {
        let path = folder.get();
        let mut above = String::new();
        let mut parts = vec![("sandbox".to_owned(), String::new())];
        for part in path.split('/').filter(|part| !part.is_empty()) {
            above = join(&above, part);
            parts.push((part.to_owned(), above.clone()));
        }
        parts
            .into_iter()
            .map(|(name, path)| {
                view! {
                    <button type="button" class="link" on:click=move |_| folder.set(path.clone())>{name}</button>
                    " / "
                }
            })
            .collect_view()
    };
    view! {
        <p>
            {parts}
            <a
                href=move || address(&id.get(), &folder.get(), "tar")
                download=move || format!("{}.tar", id.get())
            >
                "download as tar"
            </a>
        </p>
    }
}

fn row(id: Memo<String>, folder: RwSignal<String>, entry: FileEntry) -> impl IntoView {
    let path = join(&folder.get_untracked(), &entry.name);
    let name = match entry.kind {
        FileKind::Folder => {
            let label = format!("{}/", entry.name);
            view! { <button type="button" class="link" on:click=move |_| folder.set(path.clone())>{label}</button> }
                .into_any()
        }
        FileKind::File => {
            let href = address(&id.get_untracked(), &path, "bytes");
            view! { <a href=href download=entry.name.clone()>{entry.name.clone()}</a> }.into_any()
        }
        FileKind::Link => view! { <span>{format!("{} (a link)", entry.name)}</span> }.into_any(),
        FileKind::Other => view! { <span class="muted">{entry.name.clone()}</span> }.into_any(),
    };
    let size = (entry.kind == FileKind::File).then(|| Bytes(entry.size).to_string());
    view! {
        <tr>
            <td class="break">{name}</td>
            <td class="number">{size}</td>
            <td class="medium-up"><Ago time=Timestamp(entry.modified_ms)/></td>
        </tr>
    }
}

fn join(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}

fn address(id: &str, path: &str, form: &str) -> String {
    let parts = path.split('/').filter(|part| !part.is_empty());
    let parts: String = parts
        .map(|part| format!("/{}", query::escape(part)))
        .collect();
    let path = format!("/v1/tasks/{}/files{parts}", query::escape(id));
    query::with_query(&path, &[("form", form)])
}
