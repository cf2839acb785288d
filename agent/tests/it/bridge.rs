//! A network of a test's own: a bridge by Debian's CNI plugins, which ends with the test.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Maps ports.
pub const PORTMAP: &str = r#"{"type": "portmap", "capabilities": {"portMappings": true}}"#;

/// A bridge, and the folder that describes it as the network `tests`.
pub struct Bridge {
    name: String,
    subnet: u32,
    config: tempfile::TempDir,
}

/// Whether this machine has the plugins.
pub fn has_plugins() -> bool {
    let has = Path::new("/usr/lib/cni/bridge").exists();
    if !has {
        eprintln!("skipped: there is no /usr/lib/cni; apt-get install containernetworking-plugins");
    }
    has
}

impl Bridge {
    /// A bridge with addresses, then these plugins.
    pub fn make(then: &[&str]) -> Self {
        // Tests of one process run side by side.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let subnet = (std::process::id() * 8 + number) % 250;
        let name = format!("tt{}x{number}", std::process::id());
        let config = tempfile::tempdir().unwrap();
        let bridge = format!(
            r#"{{"type": "bridge", "bridge": "{name}", "isGateway": true, "ipam": {{
                "type": "host-local", "dataDir": "{}/leases", "subnet": "10.213.{subnet}.0/24"}}}}"#,
            config.path().display(),
        );
        let plugins = [&[bridge.as_str()], then].concat().join(", ");
        let list = format!(r#"{{"cniVersion": "1.0.0", "name": "tests", "plugins": [{plugins}]}}"#);
        std::fs::write(config.path().join("tests.conflist"), list).unwrap();
        Self {
            name,
            subnet,
            config,
        }
    }

    /// The folder with its list.
    pub fn folder(&self) -> &'static str {
        // One a test.
        self.config.path().to_str().unwrap().to_owned().leak()
    }

    /// The machine's address on it.
    pub fn gateway(&self) -> String {
        format!("10.213.{}.1", self.subnet)
    }

    /// Addresses that are leased.
    pub fn leases(&self) -> usize {
        let leases = std::fs::read_dir(self.config.path().join("leases/tests"));
        let names = leases
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name());
        names
            .filter(|name| name.to_string_lossy().starts_with("10."))
            .count()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["link", "del", &self.name])
            .output();
    }
}
