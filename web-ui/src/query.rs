//! Paths and queries of URLs, written and read.
//!
//! Filters of the task list stand in the page's own address, so that a view
//! can be sent to someone and survives a reload; the same text goes to the API.

use tepui_types::api::task::TaskView;

/// `text` with everything escaped that is not plain in every part of a URL.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

/// `path` with those of `parameters` that have a value.
pub fn with_query(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut url = path.to_owned();
    let present = parameters.iter().filter(|(_, value)| !value.is_empty());
    for (position, (name, value)) in present.enumerate() {
        url.push(if position == 0 { '?' } else { '&' });
        url.push_str(name);
        url.push('=');
        url.push_str(&escape(value));
    }
    url
}

/// The job of the built-in framework that a task is of: called as it, or as it and the task's number.
pub fn job_of(task: &TaskView) -> Option<&str> {
    let name = task.id.name.as_str();
    let job = match task.array_index {
        None => Some(name),
        Some(index) => name.strip_suffix(&format!("-{index}")),
    };
    job.filter(|_| task.framework_name == "batch")
}

/// Which tasks are wanted; empty text filters nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// One state, or several separated by commas.
    pub state: String,
    /// A framework's name or id.
    pub framework: String,
    /// An agent's id.
    pub agent: String,
    /// Part of a task's name.
    pub search: String,
}

impl TaskFilter {
    /// Whether every task is wanted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `path` with the filter as its query, in the names of page and API alike.
    pub fn applied_to(&self, path: &str, more: &[(&str, &str)]) -> String {
        let mut parameters = vec![
            ("state", self.state.as_str()),
            ("framework", self.framework.as_str()),
            ("agent", self.agent.as_str()),
            ("search", self.search.trim()),
        ];
        parameters.extend_from_slice(more);
        with_query(path, &parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_plain_is_escaped() {
        assert_eq!(escape("f1.hello-7.0"), "f1.hello-7.0");
        assert_eq!(escape("a b&c=/é"), "a%20b%26c%3D%2F%C3%A9");
    }

    #[test]
    fn a_task_belongs_to_the_job_that_it_is_called_after() {
        let task = |framework: &str, name: &str, index: &str| {
            let json = format!(
                r#"{{"id": "f1.{name}.0", "framework_name": "{framework}", "role": "*", "agent": "a1",
                    "hostname": "h", "status": {{"state": "running", "time": 1}}, "resources": {{}},
                    "spec": {{"workload": {{"command": {{"argv": ["true"]}}}}}}, "array_index": {index},
                    "launched_at": 1, "revision": 1}}"#
            );
            serde_json::from_str::<TaskView>(&json).unwrap()
        };
        assert_eq!(job_of(&task("batch", "web-3", "null")), Some("web-3"));
        assert_eq!(job_of(&task("batch", "web-3", "3")), Some("web"));
        assert_eq!(job_of(&task("batch", "web-3", "4")), None);
        assert_eq!(job_of(&task("cron", "web", "null")), None);
    }

    #[test]
    fn only_values_that_are_there_stand_in_a_query() {
        let filter = TaskFilter {
            search: " x y ".into(),
            ..TaskFilter::default()
        };
        assert_eq!(
            filter.applied_to("/v1/tasks", &[]),
            "/v1/tasks?search=x%20y"
        );
        assert_eq!(TaskFilter::default().applied_to("/tasks", &[]), "/tasks");
        let filter = TaskFilter {
            state: "running,failed".into(),
            ..TaskFilter::default()
        };
        assert_eq!(
            filter.applied_to("/v1/tasks", &[("limit", "50"), ("page", "")]),
            "/v1/tasks?state=running%2Cfailed&limit=50"
        );
    }
}
