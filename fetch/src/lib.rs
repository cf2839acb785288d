//! What a task's sandbox is filled with before it starts: fetched, checked, kept, unpacked.
//!
//! [`Fetcher::fetch`] takes a list of [`Item`]s and puts them into a sandbox, all of them or none.
//! What it fetches is a stranger's word: URLs, servers, archives and the names in them. Nothing is
//! put anywhere but below the sandbox, nothing is read but what the operator allows, nobody is asked
//! on the agent's own machine unless the operator allows that, nothing takes more than it was given, and
//! what was asked for by digest has it. It runs nothing of what it fetches.
//!
//! In the order of flow: `item` says what is wanted, `http` and `files` get it, `cache`
//! keeps it, `place` puts it, perhaps by `archive`, into the `sandbox`.

mod archive;
mod cache;
mod config;
mod error;
mod fetcher;
mod files;
mod http;
mod item;
mod name;
mod place;
mod progress;
mod sandbox;

pub use config::FetchConfig;
pub use error::FetchError;
pub use fetcher::{Fetcher, Filled};
pub use item::{Extract, Item, Owner, Request, Source};
pub use progress::Progress;
pub use tepui_transfer::{Network, ParseNetworkError};
