//! Settings of the cluster, and the one command that changes them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tepui_types::api::event::EventBody;
use tepui_types::setting::Settings;

use crate::outcome::{Accepted, Outcome, Rejection};
use crate::state::State;
use crate::state::context::Context;

/// What operators have set for the whole cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsRecord {
    /// It.
    pub settings: Arc<Settings>,
    /// Log index of its last change; 0 while it is as usual.
    pub revision: u64,
}

impl State {
    /// Sets them, whole.
    pub(super) fn set_settings(
        &mut self,
        context: &mut Context,
        settings: &Settings,
        expected: Option<u64>,
    ) -> Outcome {
        context.check_revision(expected, self.settings.revision)?;
        settings.validate().map_err(Rejection::Conflict)?;
        self.settings = SettingsRecord {
            settings: Arc::new(settings.clone()),
            revision: context.index,
        };
        context.changes.settings = true;
        context.event(EventBody::Settings {});
        Ok(Accepted::Settings {
            revision: context.index,
        })
    }
}
