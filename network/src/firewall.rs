//! One at a time in the machine's firewall.
//!
//! `portmap` and `firewall` look whether a chain that all attachments share is there, and make it if
//! not; of two that look at once, the second is refused ("File exists") and its task with it. The turn
//! is a lock of the kernel's on a file in `/run`, so that agents of one machine wait for each other
//! too. It is a courtesy: who waits too long, or may have no such file, goes on.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use crate::plugin::Verb;
use crate::record;

/// The file; only root may open it, so that no task without that right holds it.
const FILE: &str = "/run/tepui-firewall.lock";
/// The plugins that share chains with their like.
const SHARING: [&str; 2] = ["portmap", "firewall"];
/// How long is waited for another: a plugin that hangs holds up nobody for longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The turn; it ends with this.
#[derive(Debug)]
pub(crate) struct Turn {
    _locked: Option<File>,
}

impl Turn {
    /// Waits for it, if this call of this plugin needs one.
    pub fn wanted_by(plugin: &str, verb: Verb) -> Option<Self> {
        // Only ADD makes what is shared; nothing takes it away.
        let wanted = verb == Verb::Add && SHARING.contains(&plugin);
        wanted.then(|| Self::at(Path::new(FILE), PATIENCE))
    }

    fn at(path: &Path, patience: Duration) -> Self {
        let mut options = File::options();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let locked = options.open(path).and_then(|file| {
            let held = record::held_after(&file, patience)?;
            Ok((!held).then_some(file))
        });
        let path = path.display();
        let locked = locked.unwrap_or_else(|error| {
            tracing::warn!(%path, %error, "other users of the firewall are not waited for");
            None
        });
        Self { _locked: locked }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_the_turn_and_nobody_waits_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let take = || Turn::at(&path, Duration::ZERO)._locked.is_some();
        let first = Turn::at(&path, Duration::ZERO);
        assert!(first._locked.is_some());
        assert!(!take());
        drop(first);
        assert!(take());
    }

    #[test]
    fn who_may_have_no_such_file_goes_on() {
        let turn = Turn::at(Path::new("/none/lock"), Duration::ZERO);
        assert!(turn._locked.is_none());
    }

    #[test]
    fn only_what_makes_shared_chains_waits() {
        assert!(Turn::wanted_by("bridge", Verb::Add).is_none());
        assert!(Turn::wanted_by("portmap", Verb::Del).is_none());
    }
}
