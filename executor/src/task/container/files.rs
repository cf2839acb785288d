//! The folders and files that a container is given beside its root: its sandbox and `/etc`'s
//! `hostname`, `hosts` and `resolv.conf`.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tepui_types::container::{Namespace, Network};

use crate::spec::Plan;

/// Makes the sandbox, and the folder of the container's output and files.
pub fn make(sandbox: &Path, beside: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755);
    builder.create(sandbox)?;
    builder.create(beside)
}

/// A file of the machine, and where the container finds it.
pub type EtcFile = (PathBuf, &'static str);

/// Writes those files of a container's `/etc` that are its own, into a folder beside its sandbox.
/// Without an image, it has its machine's but for what its network says.
pub fn write(folder: &Path, plan: &Plan<'_>) -> io::Result<Vec<EtcFile>> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755).create(folder)?;
    let mut files = Vec::new();
    let mut give = |name: &str, path, text: &str| -> io::Result<()> {
        fs::write(folder.join(name), text)?;
        files.push((folder.join(name), path));
        Ok(())
    };
    let has_image = plan.launch.image.is_some();
    let name = plan.hostname();
    if has_image && !plan.container.share.contains(&Namespace::Uts) {
        give("hostname", "/etc/hostname", &format!("{name}\n"))?;
    }
    match (&plan.launch.network, &plan.container.network) {
        (Some(network), _) => {
            give("resolv.conf", "/etc/resolv.conf", &network.resolv_conf)?;
            give("hosts", "/etc/hosts", &network.hosts)?;
        }
        (None, Network::None) => give("hosts", "/etc/hosts", &loopback(&name))?,
        (None, _) if has_image => {
            // A machine without these files has names by other ways.
            let machines = |path| fs::read_to_string(path).unwrap_or_default();
            give(
                "resolv.conf",
                "/etc/resolv.conf",
                &machines("/etc/resolv.conf"),
            )?;
            give("hosts", "/etc/hosts", &machines("/etc/hosts"))?;
        }
        (None, _) => {}
    }
    Ok(files)
}

fn loopback(name: &str) -> String {
    format!("127.0.0.1 localhost {name}\n::1 localhost ip6-localhost\n")
}
