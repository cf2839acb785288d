//! How long what broke off is tried again: the master or the agent may only be away for a moment.

use std::time::Duration;

use crate::client::ClientError;

/// How often in a row something is tried in vain, and the pause in between: together about ten
/// seconds for an agent to come back, or for masters to have another leader.
pub const MAX_FAILURES: u32 = 40;
/// The pause.
pub const PAUSE: Duration = Duration::from_millis(250);

/// Whether the master or the agent may only be away for a moment.
pub fn may_come_back(error: &ClientError) -> bool {
    error.is_connection() || matches!(error.status(), Some(502..=504))
}
