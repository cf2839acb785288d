//! Nothing that a test started outlives it, not even when the test is killed.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tepui_cli::leftovers;

use crate::eventually::eventually_blocking;

/// What the watchdog does once nobody holds its input: ends all that names the
/// folder, twice for what was just being started, unmounts what is in it, and removes it.
const WATCHDOG: &str = r#"
read -r _
for round in 1 2; do
    for process in /proc/[0-9]*; do
        if grep -qaF "$1/" "$process/cmdline" "$process/environ" 2>/dev/null; then
            kill -9 "${process#/proc/}"
        fi
    done
done
awk -v dir="$1/" 'index($2, dir) == 1 { print $2 }' /proc/mounts |
    while read -r mount; do umount -l "$mount"; done
rm -rf "$1"
"#;

/// Ends whatever names a folder once it is dropped; and, by a shell that waits
/// for it, also when this program is itself killed and comes to drop nothing.
#[derive(Debug)]
pub struct Watchdog {
    shell: Child,
    dir: PathBuf,
}

impl Watchdog {
    /// Watches over a folder.
    pub fn over(dir: &Path) -> std::io::Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", WATCHDOG, "watchdog"]).arg(dir);
        // In a group of its own, Ctrl-C does not reach it.
        shell
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let shell = shell.process_group(0).spawn()?;
        Ok(Self {
            shell,
            dir: dir.to_owned(),
        })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // While its input is still held: what it would do is done here.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        eventually_blocking("what names the folder is gone", || {
            let living = [leftovers::tasks(&self.dir), leftovers::named(&self.dir)].concat();
            living.iter().copied().for_each(leftovers::kill_process);
            match living.is_empty() {
                true => Ok(()),
                false => Err(format!("{living:?}")),
            }
        });
    }
}
