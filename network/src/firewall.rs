//! One at a time in the machine's firewall.
//!
//! `portmap` and `firewall` look whether a chain that all attachments share is there, and make it if
//! not; of two that look at once, the second is refused ("File exists") and its task with it. All agents
//! of a machine take turns ([`Turn`]). That is a courtesy: who waits too long, or may have no such file,
//! goes on.

use std::path::Path;
use std::time::Duration;

use tepui_folder::turn::Turn;

use crate::plugin::Verb;

/// The file; only root may open it, so that no task without that right holds it.
const FILE: &str = "/run/tepui-firewall.lock";
/// The plugins that share chains with their like.
const SHARING: [&str; 2] = ["portmap", "firewall"];
/// How long is waited for another: a plugin that hangs holds up nobody for longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits for the turn, if this call of this plugin needs one; it ends with what this gives.
pub(crate) fn turn_of(plugin: &str, verb: Verb) -> Option<Turn> {
    // Only ADD makes what is shared; nothing takes it away.
    let wanted = verb == Verb::Add && SHARING.contains(&plugin);
    wanted.then(|| at(Path::new(FILE), PATIENCE)).flatten()
}

fn at(path: &Path, patience: Duration) -> Option<Turn> {
    let path_shown = path.display();
    Turn::wait(path, patience).unwrap_or_else(|error| {
        tracing::warn!(path = %path_shown, %error, "other users of the firewall are not waited for");
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_too_long_or_may_have_no_such_file_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = at(&path, Duration::ZERO);
        assert!(first.is_some());
        assert!(at(&path, Duration::ZERO).is_none());
        assert!(at(Path::new("/none/lock"), Duration::ZERO).is_none());
    }

    #[test]
    fn only_what_makes_shared_chains_waits() {
        assert!(turn_of("bridge", Verb::Add).is_none());
        assert!(turn_of("portmap", Verb::Del).is_none());
    }
}
