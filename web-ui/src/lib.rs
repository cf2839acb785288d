//! The parts of the dashboard that need no browser: what people type is turned
//! into requests here, and what the cluster answers into text.
//!
//! `main.rs` holds everything that touches the page. Nothing here calls
//! JavaScript, so that all of it is tested natively.

pub mod amounts;
pub mod argv;
pub mod job_form;
pub mod log_buffer;
pub mod log_source;
pub mod program;
pub mod query;
pub mod role_form;
pub mod settings_form;
pub mod windows;
