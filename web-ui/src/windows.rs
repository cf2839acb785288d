//! Maintenance that is planned for an agent.
//!
//! Once a window has begun the agent is drained, and its drain tells of it.

use tepui_types::AgentId;
use tepui_types::api::maintenance::WindowView;

/// Those of the agent that have not begun, the next one first.
pub fn planned(windows: &[WindowView], agent: AgentId) -> Vec<WindowView> {
    let is_meant = |window: &&WindowView| !window.has_begun && window.agents.contains(&agent);
    let mut planned: Vec<_> = windows.iter().filter(is_meant).cloned().collect();
    planned.sort_by_key(|window| (window.drains_at, window.id));
    planned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_begun_or_is_anothers_is_not_planned() {
        let window = |id: &str, agent: &str, drains_at: u64, has_begun: bool| {
            let json = format!(
                r#"{{"id": "{id}", "agents": ["a9", "{agent}"], "drains_at": {drains_at},
                    "start": 60, "end": 70, "has_begun": {has_begun}, "note": "", "revision": 1}}"#
            );
            serde_json::from_str::<WindowView>(&json).unwrap()
        };
        let windows = [
            window("w1", "a1", 50, false),
            window("w2", "a2", 10, false),
            window("w3", "a1", 5, true),
            window("w4", "a1", 20, false),
        ];
        let agent: AgentId = "a1".parse().unwrap();
        let ids: Vec<_> = planned(&windows, agent)
            .iter()
            .map(|window| window.id.to_string())
            .collect();
        assert_eq!(ids, ["w4", "w1"]);
    }
}
