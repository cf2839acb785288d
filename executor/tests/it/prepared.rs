//! What a task is launched with beside its image and its volumes.

use std::path::Path;
use std::sync::Arc;

use tepui_types::command::CommandOptions;
use tepui_types::task::Workload;
use tepui_types::wire::executor::{LocalDevices, LocalImage};

use crate::env::Builder;

impl Builder {
    /// The options of a command, as JSON.
    pub fn life(mut self, json: &str) -> Self {
        let options: CommandOptions = serde_json::from_str(json).unwrap();
        if let Workload::Command(workload) = &mut self.workload {
            workload.options = Some(Box::new(options));
        }
        self
    }

    /// How long its processes have to end, unless a kill says so.
    pub fn grace(mut self, grace_ms: u64) -> Self {
        self.grace_ms = grace_ms;
        self
    }

    /// An image that a mount shows, or a companion has.
    pub fn other_image(mut self, name: &str, image: LocalImage) -> Self {
        self.images.insert(name.to_owned(), Arc::new(image));
        self
    }

    /// A secret, and the agent's file of it.
    pub fn secret(mut self, name: &str, file: &Path) -> Self {
        let file = file.to_str().unwrap().to_owned();
        self.secrets.insert(name.to_owned(), file);
        self
    }

    /// The devices that it was given.
    pub fn devices(mut self, devices: LocalDevices) -> Self {
        self.devices = Some(Arc::new(devices));
        self
    }
}
