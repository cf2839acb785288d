//! The environment of a task: what it asked for, and the `TEPUI_…` names that
//! every task has.
//!
//! Both executors use this, so that a program finds the same names whatever it
//! is compiled to. The `TEPUI_…` names win over a task's own.

use std::collections::BTreeMap;

use tepui_types::AgentId;
use tepui_types::wire::agent::TaskLaunch;

/// The whole environment of `launch` on `agent`; `sandbox` is the folder as the
/// task sees it.
pub fn of(launch: &TaskLaunch, agent: AgentId, sandbox: &str) -> BTreeMap<String, String> {
    let mut variables = launch.spec.env().clone();
    let mut set = |name: &str, value: String| {
        variables.insert(name.to_owned(), value);
    };
    set("TEPUI_TASK_ID", launch.task.to_string());
    set("TEPUI_TASK_NAME", launch.task.name.to_string());
    set("TEPUI_FRAMEWORK", launch.framework_name.clone());
    set("TEPUI_AGENT_ID", agent.to_string());
    set("TEPUI_SANDBOX", sandbox.to_owned());
    if let Some(index) = launch.array_index {
        set("TEPUI_ARRAY_INDEX", index.to_string());
    }
    if !launch.resources.ports.is_empty() {
        let ports: Vec<_> = launch
            .resources
            .ports
            .iter()
            .map(|port| port.to_string())
            .collect();
        set("TEPUI_PORTS", ports.join(","));
    }
    for (name, items) in &launch.resources.items {
        let name = name.to_ascii_uppercase().replace('-', "_");
        set(&format!("TEPUI_ITEMS_{name}"), items.list());
    }
    variables
}
