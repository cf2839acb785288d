//! The newest directory, for readers.
//!
//! One writer keeps its own [`Directory`], changes it and publishes; readers take the one that is
//! there and are never waited for.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::directory::Directory;

/// Where the newest directory is.
#[derive(Debug, Default)]
pub struct Published(ArcSwap<Directory>);

impl Published {
    /// Begins with an empty directory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows a directory to all who read from now on; what was changed in it costs nothing more.
    pub fn publish(&self, directory: &Directory) {
        self.0.store(Arc::new(directory.clone()));
    }

    /// The newest directory.
    pub fn load(&self) -> Arc<Directory> {
        self.0.load_full()
    }
}
