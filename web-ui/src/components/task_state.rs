//! States of tasks, jobs, agents and frameworks: a colour and a word, never a
//! colour alone.

use leptos::prelude::*;
use tepui_types::api::job::JobState;
use tepui_types::task::Reason;
use tepui_types::{AgentStatus, FrameworkPhase, TaskState};

/// What a state means to the one who looks: the few colours of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// It comes along.
    Pending,
    /// It runs.
    Active,
    /// It ended well, or is well.
    Good,
    /// It needs a look.
    Warning,
    /// It failed.
    Bad,
    /// It ended and nobody need care.
    Quiet,
}

impl Tone {
    /// The class in the style sheet.
    pub fn class(self) -> &'static str {
        match self {
            Self::Pending => "tone-pending",
            Self::Active => "tone-active",
            Self::Good => "tone-good",
            Self::Warning => "tone-warning",
            Self::Bad => "tone-bad",
            Self::Quiet => "tone-quiet",
        }
    }
}

/// The tone of a task's state.
pub fn task_tone(state: TaskState) -> Tone {
    match state {
        TaskState::Staging | TaskState::Starting => Tone::Pending,
        TaskState::Running => Tone::Active,
        TaskState::Killing | TaskState::Unreachable | TaskState::Unknown => Tone::Warning,
        TaskState::Finished => Tone::Good,
        TaskState::Failed | TaskState::Error => Tone::Bad,
        TaskState::Killed | TaskState::Dropped | TaskState::Gone => Tone::Quiet,
    }
}

/// The tone and word of a job's state.
pub fn job_state(state: JobState) -> (Tone, &'static str) {
    match state {
        JobState::Waiting => (Tone::Pending, "waiting"),
        JobState::Running => (Tone::Active, "running"),
        JobState::Killing => (Tone::Warning, "killing"),
        JobState::Finished => (Tone::Good, "finished"),
        JobState::Failed => (Tone::Bad, "failed"),
        JobState::Killed => (Tone::Quiet, "killed"),
    }
}

/// The tone and word of an agent. One that is active but not connected is
/// still within the window in which it may come back.
pub fn agent_state(status: AgentStatus, is_connected: bool) -> (Tone, &'static str) {
    match status {
        AgentStatus::Active if is_connected => (Tone::Good, "active"),
        AgentStatus::Active => (Tone::Warning, "reconnecting"),
        AgentStatus::Unreachable => (Tone::Bad, status.as_str()),
        AgentStatus::Deactivated | AgentStatus::Draining | AgentStatus::Full => {
            (Tone::Warning, status.as_str())
        }
        AgentStatus::Drained | AgentStatus::Gone => (Tone::Quiet, status.as_str()),
    }
}

/// The tone and word of a framework's phase.
pub fn framework_phase(phase: FrameworkPhase) -> (Tone, &'static str) {
    let tone = match phase {
        FrameworkPhase::Starting => Tone::Pending,
        FrameworkPhase::Running => Tone::Good,
        FrameworkPhase::Backoff => Tone::Warning,
        FrameworkPhase::Failed => Tone::Bad,
        FrameworkPhase::Removing => Tone::Quiet,
    };
    (tone, phase.as_str())
}

/// The tone and word of a task's state.
pub fn task_state(state: TaskState) -> (Tone, &'static str) {
    (task_tone(state), state.as_str())
}

/// A word in its colour, with a dot for those who scan.
#[component]
pub fn StatePill(
    /// Tone and word.
    #[prop(into)]
    state: Signal<(Tone, &'static str)>,
) -> impl IntoView {
    view! { <span class=move || format!("pill {}", state.get().0.class())>{move || state.get().1}</span> }
}

/// Why something is as it is: the sentence, and the code for those who search.
#[component]
pub fn ReasonText(
    /// The reason.
    reason: Reason,
) -> impl IntoView {
    view! {
        <span class="reason">
            {reason.message}
            " "
            <code class="reason-code">{reason.code}</code>
        </span>
    }
}
