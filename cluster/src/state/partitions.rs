//! What becomes of tasks while their agent is not heard of, each by its own policy.
//!
//! Two clocks must agree before a task counts as gone: the leader's monotonic one, which is in the
//! command and begins anew with each leader, and the state's own since the agent became unreachable.
//! So neither a clock that jumps nor a change of leaders makes a task run twice before its time.

use tepui_types::{AgentId, AgentStatus, OperationId, Reason, TaskState, task::reason};

use crate::outcome::{Accepted, Outcome};
use crate::state::State;
use crate::state::agents::Agent;
use crate::state::context::Context;

impl State {
    /// After how many milliseconds tasks of an agent count as gone, each time once, the shortest
    /// first.
    pub fn replacement_times(&self, agent: &Agent) -> Vec<u64> {
        let tasks = agent.tasks.iter();
        let mut times: Vec<u64> = tasks
            .filter_map(|operation| self.replaces_after_ms(*operation))
            .collect();
        times.sort_unstable();
        times.dedup();
        times
    }

    pub(super) fn replace_tasks(
        &mut self,
        context: &mut Context,
        id: AgentId,
        unreachable_ms: u64,
    ) -> Outcome {
        let agent = self.agents.get(&id);
        let lost = agent.filter(|agent| agent.status == AgentStatus::Unreachable);
        let Some((agent, since)) = lost.and_then(|agent| Some((agent, agent.unreachable_since?)))
        else {
            // It came back meanwhile.
            return Ok(Accepted::Done);
        };
        let waited_ms = unreachable_ms.min(context.now.millis_since(since));
        let hostname = agent.info.hostname.clone();
        let tasks = agent.tasks.clone();
        for operation in tasks {
            let after_ms = self.replaces_after_ms(operation);
            let Some(after_ms) = after_ms.filter(|after_ms| *after_ms <= waited_ms) else {
                continue;
            };
            let why = format!("agent {id} ({hostname}) was unreachable for {after_ms} ms");
            let why = Reason::new(reason::REPLACED, why);
            self.end_task(context, operation, TaskState::Gone, Some(why));
        }
        Ok(Accepted::Done)
    }

    fn replaces_after_ms(&self, operation: OperationId) -> Option<u64> {
        let task = self.tasks.get(&operation)?;
        self.specs.get(&task.spec)?.partition.replaces_after_ms()
    }
}
