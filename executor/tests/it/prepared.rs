//! What an agent prepares for a task beside its image and its volumes.

use std::path::Path;
use std::sync::Arc;

use tepui_types::wire::executor::{LocalDevices, LocalImage};

use crate::env::Builder;

impl Builder {
    /// An image that a mount shows.
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
