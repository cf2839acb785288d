//! Tasks in a table; a row leads to its task's page.

use leptos::prelude::*;
use tepui_types::Timestamp;
use tepui_types::api::task::TaskView;
use tepui_web::program;

use crate::components::table::{Column, Rows, Table, column};
use crate::components::task_state::{StatePill, task_state};
use crate::components::time::{Ago, Elapsed};

const COLUMNS: &[Column] = &[
    column("Task", ""),
    column("State", ""),
    column("Program", "wide-only"),
    column("Framework", "medium-up"),
    column("Agent", "medium-up"),
    column("Took", "number"),
    column("Launched", "number medium-up"),
];

/// The table.
#[component]
pub fn TaskTable(
    /// Its rows.
    #[prop(into)]
    tasks: Signal<Vec<TaskView>>,
) -> impl IntoView {
    view! {
        <Table caption="Tasks" columns=COLUMNS>
            <Rows
                items=tasks
                key=|task: &TaskView| task.id.clone()
                row=|task| view! { <TaskRow task=task/> }
            />
        </Table>
    }
}

#[component]
fn TaskRow(task: Signal<TaskView>) -> impl IntoView {
    // What never changes is read once.
    let first = task.get_untracked();
    let state = Signal::derive(move || task.with(|task| task_state(task.status.state)));
    let why = move || {
        task.with(|task| {
            let reason = task.status.reason.as_ref();
            reason
                .filter(|_| task.status.state.is_terminal())
                .map(|reason| reason.code.clone())
        })
    };
    view! {
        <tr>
            <th scope="row">
                <a class="row-link" href=format!("/tasks/{}", first.id)>
                    {first.id.name.to_string()}
                </a>
                <span class="sub">{first.id.to_string()}</span>
            </th>
            <td>
                <StatePill state=state/>
                {move || why().map(|why| view! { <span class="sub">{why}</span> })}
            </td>
            <td class="wide-only">
                <code class="clip" title=program::line(&first.spec.workload)>
                    {program::line(&first.spec.workload)}
                </code>
            </td>
            <td class="medium-up">{first.framework_name}</td>
            <td class="medium-up">
                {first.agent.to_string()} <span class="sub">{first.hostname}</span>
            </td>
            <td class="number">
                <Elapsed
                    from=Signal::derive(move || took(&task.read()).0)
                    to=Signal::derive(move || took(&task.read()).1)
                />
            </td>
            <td class="number medium-up">
                <Ago time=Signal::derive(move || task.with(|task| task.launched_at))/>
            </td>
        </tr>
    }
}

/// From when to when it ran. A short task's start may never have been told.
pub fn took(task: &TaskView) -> (Option<Timestamp>, Option<Timestamp>) {
    (
        task.started_at.or(task.ended_at.map(|_| task.launched_at)),
        task.ended_at,
    )
}
