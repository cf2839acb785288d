//! Folders that strangers fill: sandboxes of tasks, layers of images.
//!
//! Archives, URLs and tasks choose names, links and depth. A path is first read ([`clean`]), then
//! looked up by the kernel in one step with its links judged ([`open`]), never joined to a folder's
//! path and opened; what is made there is made by the handle of its folder. [`remove_folder`] takes
//! away what came of it.

mod entry;
mod lookup;
mod path;
mod removal;

pub use entry::{Time, is_folder, timestamps};
pub use lookup::{BENEATH, FOLDER, HANDLE, IN_ROOT, open, open_folder};
pub use path::{clean, stays_inside};
pub use removal::remove_folder;
