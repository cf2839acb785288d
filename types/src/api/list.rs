//! Lists: keyed pages.

use serde::{Deserialize, Serialize};

/// The most items in one page.
pub const MAX_LIMIT: usize = 1_000;
/// The items of a page when the caller names no limit.
pub const DEFAULT_LIMIT: usize = 100;

/// One page of a list. Pages follow keys, so items that come or go between two
/// requests never shift the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Page<T> {
    /// The items, in the list's order.
    pub items: Vec<T>,
    /// Opaque; pass it as `?page=` to go on. Absent on the last page.
    pub next: Option<String>,
    /// The log index of the state that was read; events after it are changes to it.
    pub index: u64,
    /// How many items match in all, where that is known cheaply.
    pub total: Option<u64>,
}
