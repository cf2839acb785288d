//! When the masters were last known to hear the agent, kept for the agent that starts next.
//!
//! Only tasks that are to be stopped without a word from the masters need it; without such a task
//! nothing is written. A file that is lost or torn says nothing, and the time is counted anew: it is
//! not worth a wait for the disk, for a crash of the machine ends the tasks, too.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;

use crate::sandbox::Layout;

/// What the file of this boot of the machine says, by [`uptime`](crate::uptime).
pub fn read(layout: &Layout, boot_id: &str) -> Option<u64> {
    let text = std::fs::read_to_string(layout.contact()).ok()?;
    let (boot, contact) = text.lines().next()?.split_once(' ')?;
    (boot == boot_id).then(|| contact.parse().ok()).flatten()
}

/// Keeps it: in the place of what is there, for a full disk has room for nothing else.
pub fn write(layout: &Layout, boot_id: &str, contact_ms: u64) {
    // Always as long, so that nothing of an earlier one is left behind it.
    let text = format!("{boot_id} {contact_ms:020}\n");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    let file = options.open(layout.contact());
    if let Err(error) = file.and_then(|file| file.write_all_at(text.as_bytes(), 0)) {
        tracing::warn!(%error, "the time of the last contact could not be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_good_for_one_boot_of_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        assert_eq!(read(&layout, "one"), None);
        write(&layout, "one", 7);
        assert_eq!(read(&layout, "one"), Some(7));
        assert_eq!(read(&layout, "two"), None);
        write(&layout, "one", u64::MAX);
        write(&layout, "one", 8);
        assert_eq!(read(&layout, "one"), Some(8));
        std::fs::write(layout.contact(), "one").unwrap();
        assert_eq!(read(&layout, "one"), None);
    }
}
