//! Hosts of their own on one network: a network namespace each, an address each, a bridge between
//! them whose links can be cut, lose packets, or let few through.
//!
//! It wants root, `ip` and `tc` (iproute2), and `iptables`. Dropping it removes every namespace and what runs in them is
//! the test's to end; namespaces that a killed test left are removed by the next.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

/// Begins the names of all namespaces of tests; the number of the process follows.
const PREFIX: &str = "tepui-test-";

/// How much a link carries that is slow, and how long packets wait for their turn before they are
/// dropped: masters of an idle cluster say about as much, so a busy one's packets do wait.
const SLOW_LINK: [&str; 7] = ["tbf", "rate", "1mbit", "burst", "16kb", "latency", "250ms"];

/// Something that runs on a host.
pub type Running<T> = JoinHandle<Result<T>>;

/// A network of hosts, counted from 0.
#[derive(Debug)]
pub struct Net {
    name: String,
    hosts: usize,
}

impl Net {
    /// So many hosts, all connected.
    pub fn new(hosts: usize) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        remove_abandoned()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let net = Self {
            name: format!("{PREFIX}{}-{number}", std::process::id()),
            hosts,
        };
        let bridge = net.bridge();
        ip(&["netns", "add", &bridge])?;
        ip(&["-n", &bridge, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &bridge, "link", "set", "br0", "up"])?;
        for host in 0..hosts {
            net.connect(host)?;
        }
        Ok(net)
    }

    fn connect(&self, host: usize) -> Result<()> {
        let (name, bridge, port) = (self.host(host), self.bridge(), port(host));
        ip(&["netns", "add", &name])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        let veth = ["-n", &name, "link", "add", "eth0", "type", "veth", "peer"];
        ip(&[&veth[..], &["name", &port, "netns", &bridge]].concat())?;
        let address = format!("{}/24", self.address(host));
        ip(&["-n", &name, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        ip(&["-n", &bridge, "link", "set", &port, "master", "br0", "up"])
    }

    /// A host's address.
    pub fn address(&self, host: usize) -> String {
        // Every network has a bridge of its own, so that addresses may be the same.
        format!("10.77.0.{}", host + 1)
    }

    /// What comes before a program and its arguments, so that it runs on a host.
    pub fn on(&self, host: usize) -> [String; 3] {
        ["netns".into(), "exec".into(), self.host(host)]
    }

    /// Runs a program on a host to its end.
    pub fn command(&self, host: usize, program: &Path) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("ip");
        command.args(self.on(host)).arg(program).kill_on_drop(true);
        command
    }

    /// Runs something on a host, on a thread of this process.
    pub fn run<T, F>(&self, host: usize, work: impl FnOnce() -> F + Send + 'static) -> Running<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>>,
    {
        let path = Path::new("/run/netns").join(self.host(host));
        std::thread::spawn(move || {
            let file = File::open(&path);
            let file = file.with_context(|| format!("failed to open {}", path.display()))?;
            setns(file, CloneFlags::CLONE_NEWNET).context("failed to enter a namespace")?;
            // All on this thread: others would be on this machine's own network.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(work())
        })
    }

    /// From now on a host does not hear another, which still hears it.
    pub fn deafen(&self, host: usize, to: usize) -> Result<()> {
        let source = self.address(to);
        self.iptables(host, &["-A", "INPUT", "-s", &source, "-j", "DROP"])
    }

    /// From now on a host loses so many percent of the packets that come to it.
    pub fn lose(&self, host: usize, percent: u64) -> Result<()> {
        let share = format!("{}.{:02}", percent / 100, percent % 100);
        let rule = ["-A", "INPUT", "-m", "statistic", "--mode", "random"];
        let rule = [&rule[..], &["--probability", &share, "-j", "DROP"]].concat();
        self.iptables(host, &rule)
    }

    /// From now on what a host sends waits in a queue that is emptied slowly.
    pub fn slow(&self, host: usize) -> Result<()> {
        let name = self.host(host);
        let add = ["-n", &name, "qdisc", "add", "dev", "eth0", "root"];
        run("tc", &[&add[..], &SLOW_LINK].concat())
    }

    /// Takes back what [`Net::deafen`], [`Net::lose`], [`Net::slow`] and [`Net::cut`] have done to a
    /// host.
    pub fn mend(&self, host: usize) -> Result<()> {
        self.iptables(host, &["-F", "INPUT"])?;
        let name = self.host(host);
        // There may be none.
        run("tc", &["-n", &name, "qdisc", "del", "dev", "eth0", "root"]).ok();
        self.heal(host)
    }

    fn iptables(&self, host: usize, args: &[&str]) -> Result<()> {
        let name = self.host(host);
        ip(&[&["netns", "exec", &name, "iptables", "-w"], args].concat())
    }

    /// Cuts a host off from all others.
    pub fn cut(&self, host: usize) -> Result<()> {
        self.set(host, "down")
    }

    /// Connects it again.
    pub fn heal(&self, host: usize) -> Result<()> {
        self.set(host, "up")
    }

    fn set(&self, host: usize, state: &str) -> Result<()> {
        ip(&["-n", &self.bridge(), "link", "set", &port(host), state])
    }

    fn host(&self, host: usize) -> String {
        format!("{}-{host}", self.name)
    }

    fn bridge(&self) -> String {
        format!("{}-br", self.name)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let hosts = (0..self.hosts).map(|host| self.host(host));
        for name in hosts.chain([self.bridge()]) {
            // One that was not made yet is not there.
            ip(&["netns", "del", &name]).ok();
        }
    }
}

/// The name of a host's end at the bridge; at most 15 bytes.
fn port(host: usize) -> String {
    format!("port{host}")
}

/// Removes the namespaces of tests that are dead.
fn remove_abandoned() -> Result<()> {
    let entries = match std::fs::read_dir("/run/netns") {
        Ok(entries) => entries,
        // No namespace was ever named on this machine.
        Err(_) => return Ok(()),
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        let is_dead = |pid: &str| !Path::new("/proc").join(pid).exists();
        if owner.is_some_and(is_dead) {
            // Another test may have done it in this moment.
            ip(&["netns", "del", &name]).ok();
        }
    }
    Ok(())
}

fn ip(args: &[&str]) -> Result<()> {
    run("ip", args)
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output();
    let output = output
        .with_context(|| format!("failed to start `{program}`: install iproute2 and iptables"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", args.join(" "), said.trim());
    }
    Ok(())
}
