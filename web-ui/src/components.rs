//! Views that several pages share, one noun a file.

pub mod confirm;
pub mod field;
pub mod file_input;
pub mod files;
pub mod loaded;
pub mod log_view;
pub mod nav;
pub mod resource_bar;
pub mod send;
pub mod set_aside;
pub mod table;
pub mod task_state;
pub mod task_table;
pub mod time;
pub mod usage;
pub mod waiting;
