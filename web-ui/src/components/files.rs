//! What is in a task's sandbox: folders to walk through, files to have.

use leptos::html;
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
    column("Changed", "number medium-up"),
];

/// The folder that is shown.
#[derive(Clone, Copy)]
struct Folder {
    /// Below the sandbox.
    path: RwSignal<String>,
    /// Where the page names it.
    place: NodeRef<html::P>,
}

impl Folder {
    /// Shows another one. What was pressed goes with the old one, so the focus goes to where the new
    /// one is named, which is also brought into view.
    fn open(self, path: String) {
        self.path.set(path);
        if let Some(place) = self.place.get_untracked() {
            // It fails only for elements that are not in the page.
            let _ = place.focus();
        }
    }
}

/// The sandbox of the task of that id. It is looked into only once someone wants that: each look is a
/// connection with the task's agent.
#[component]
pub fn Files(
    /// The task's.
    id: Memo<String>,
) -> impl IntoView {
    let is_open = RwSignal::new(false);
    let folder = Folder {
        path: RwSignal::new(String::new()),
        place: NodeRef::new(),
    };
    let list = Feed::<FileList>::new(&[], move || {
        is_open
            .get()
            .then(|| address(&id.get(), &folder.path.get(), "list"))
    });
    let toggle = move |_| is_open.update(|is_open| *is_open = !*is_open);
    view! {
        <section aria-labelledby="task-files-title">
            <h2 id="task-files-title">"Files"</h2>
            <p class="above-table">
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
fn Where(id: Memo<String>, folder: Folder) -> impl IntoView {
    let parts = move || {
        let path = folder.path.get();
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
                    <button type="button" class="link" on:click=move |_| folder.open(path.clone())>{name}</button>
                    " / "
                }
            })
            .collect_view()
    };
    view! {
        <p class="above-table" node_ref=folder.place tabindex="-1">
            {parts}
            <a
                href=move || address(&id.get(), &folder.path.get(), "tar")
                download=move || format!("{}.tar", id.get())
            >
                "download as tar"
            </a>
        </p>
    }
}

fn row(id: Memo<String>, folder: Folder, entry: FileEntry) -> impl IntoView {
    let path = join(&folder.path.get_untracked(), &entry.name);
    let name = match entry.kind {
        // Its name here is not the one that it has.
        FileKind::File | FileKind::Folder if entry.name.contains(char::REPLACEMENT_CHARACTER) => {
            view! {
                <span>{entry.name.clone()}</span>
                <span class="sub">"no text in UTF-8: it comes with its folder, as tar"</span>
            }
            .into_any()
        }
        FileKind::Folder => {
            let label = format!("{}/", entry.name);
            view! { <button type="button" class="link" on:click=move |_| folder.open(path.clone())>{label}</button> }
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
            <td class="number medium-up"><Ago time=Timestamp(entry.modified_ms)/></td>
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
