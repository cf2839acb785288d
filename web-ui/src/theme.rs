//! Light, dark, or as the system says; remembered where the browser lets us.
//!
//! `boot.js` applies the remembered choice before anything is drawn; this
//! module changes it. The style sheet reads `data-theme` of the root element.

use leptos::prelude::*;

/// Under which name the choice is remembered.
const STORAGE_KEY: &str = "tepui-theme";

/// The choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    /// As the system says.
    System,
    /// Always light.
    Light,
    /// Always dark.
    Dark,
}

impl Theme {
    /// All, in the order of the switch.
    pub const ALL: [Self; 3] = [Self::System, Self::Light, Self::Dark];

    /// The name in storage and in the page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }

    /// What was remembered; the system's where nothing was or nothing can be.
    pub fn remembered() -> Self {
        let stored = storage().and_then(|storage| storage.get_item(STORAGE_KEY).ok().flatten());
        let is_stored = |theme: &Self| Some(theme.as_str()) == stored.as_deref();
        Self::ALL
            .into_iter()
            .find(is_stored)
            .unwrap_or(Self::System)
    }

    /// Shows and remembers it. Where storage is closed it lasts until the page
    /// is left.
    pub fn apply(self) {
        if let Some(root) = document().document_element() {
            let _ = match self {
                Self::System => root.remove_attribute("data-theme"),
                chosen => root.set_attribute("data-theme", chosen.as_str()),
            };
        }
        if let Some(storage) = storage() {
            let _ = match self {
                Self::System => storage.remove_item(STORAGE_KEY),
                chosen => storage.set_item(STORAGE_KEY, chosen.as_str()),
            };
        }
    }
}

fn storage() -> Option<web_sys::Storage> {
    window().local_storage().ok().flatten()
}
