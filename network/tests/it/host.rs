//! A "machine" of its own for a test: a network namespace, and a mount namespace with an empty
//! file system at the test's folder.
//!
//! Both belong to a thread and to what it starts. Nothing of them is left when those have ended,
//! whether the test has passed or not. It wants root.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tepui_network::{Attach, Attachment, AttachmentId, Dns, Networks, NetworksConfig};

/// Debian's plugins.
pub const PLUGINS: &str = "/usr/lib/cni";
/// How long is waited for what should come at once.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The machine.
pub struct Host {
    folder: PathBuf,
}

/// Runs a test on a new machine, on a thread of its own. What still runs on it afterwards is killed.
pub fn on_a_host(test: impl FnOnce(&Host) + Send) {
    let folder = tempfile::tempdir().unwrap();
    let joined = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
                .expect("these tests make namespaces: run them as root");
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let tmpfs = Some("tmpfs");
            mount(tmpfs, folder.path(), tmpfs, MsFlags::empty(), None::<&str>).unwrap();
            let _end = KillAll(fs::read_link("/proc/thread-self/ns/net").unwrap());
            run("ip", &["link", "set", "lo", "up"]);
            test(&Host::at(folder.path()));
        });
        thread.join()
    });
    if let Err(panic) = joined {
        std::panic::resume_unwind(panic);
    }
}

/// Kills what was started in a namespace, when dropped.
struct KillAll(PathBuf);

impl Drop for KillAll {
    fn drop(&mut self) {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
                continue;
            };
            let namespace = fs::read_link(entry.path().join("ns/net"));
            if pid != Pid::this().as_raw() && namespace.is_ok_and(|namespace| namespace == self.0) {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
    }
}

impl Host {
    /// The machine whose folder this is; for processes that a test starts on it.
    pub fn at(folder: &Path) -> Self {
        for below in ["net.d", "bin"] {
            fs::create_dir_all(folder.join(below)).unwrap();
        }
        Self {
            folder: folder.to_owned(),
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file of the machine's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn networks(&self) -> Networks {
        self.networks_within(DEADLINE)
    }

    /// With another time limit for plugins.
    pub fn networks_within(&self, plugin_timeout: Duration) -> Networks {
        let config = NetworksConfig {
            config_dirs: vec![self.path("net.d")],
            plugin_dirs: vec![self.path("bin"), PLUGINS.into()],
            plugin_timeout,
        };
        Networks::open(&self.path("state"), config).unwrap()
    }

    /// Configures a network: a bridge with addresses of 10.9.0.0/24, then these plugins.
    pub fn bridge(&self, name: &str, version: &str, then: &[&str]) {
        let leases = self.path("leases");
        let bridge = format!(
            r#"{{"type": "bridge", "bridge": "br-{name}", "isGateway": true, "ipMasq": true,
            "ipam": {{"type": "host-local", "dataDir": "{}",
                "ranges": [[{{"subnet": "10.9.0.0/24"}}]],
                "routes": [{{"dst": "0.0.0.0/0"}}]}},
            "dns": {{"nameservers": ["10.9.0.1"], "search": ["{name}.example"]}}}}"#,
            leases.display()
        );
        let plugins = [&[bridge.as_str()], then].concat().join(", ");
        self.list(name, version, &plugins);
    }

    /// Configures a network.
    pub fn list(&self, name: &str, version: &str, plugins: &str) {
        let list =
            format!(r#"{{"cniVersion": "{version}", "name": "{name}", "plugins": [{plugins}]}}"#);
        fs::write(self.path(&format!("net.d/{name}.conflist")), list).unwrap();
    }

    /// Makes a shell script a plugin.
    pub fn plugin(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The addresses that are taken.
    pub fn leases(&self, network: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path("leases").join(network)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("10.9.")).collect()
    }

    /// The lines of a file that scripts have written; none if there is none yet.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What has been recorded and not removed.
    pub fn records(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("state")).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// Rules that translate addresses, without those of the tables themselves.
    pub fn rules(&self) -> Vec<String> {
        let rules = run("iptables", &["-t", "nat", "-S"]);
        let rules = rules.lines().filter(|rule| rule.starts_with("-A"));
        rules.map(str::to_owned).collect()
    }
}

pub fn id(text: &str) -> AttachmentId {
    text.parse().unwrap()
}

pub fn attach(name: &str, network: &str) -> Attach {
    Attach {
        id: id(name),
        network: network.into(),
        port_mappings: Vec::new(),
        dns: Dns::default(),
    }
}

pub fn address(attachment: &Attachment) -> IpAddr {
    attachment.addresses().next().unwrap()
}

/// Runs something in a namespace.
pub fn within<T: Send>(netns: &Path, run: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(netns).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            run()
        });
        thread.join().unwrap()
    })
}

/// Listens in a namespace, and answers everyone with this word.
pub fn serve(netns: &Path, port: u16, word: &'static str) {
    let listener = within(netns, || TcpListener::bind(("0.0.0.0", port)).unwrap());
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            stream.unwrap().write_all(word.as_bytes()).ok();
        }
    });
}

/// What is answered at an address.
pub fn ask(address: impl Into<IpAddr>, port: u16) -> std::io::Result<String> {
    let address = SocketAddr::new(address.into(), port);
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Waits until something is so.
#[expect(clippy::disallowed_methods, reason = "these tests have no runtime")]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + DEADLINE;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        // sleep: between two looks at what another process does.
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}
