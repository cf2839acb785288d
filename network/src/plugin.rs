//! One call of a CNI plugin: a program with JSON on its input and `CNI_…` in its environment.
//!
//! Every call is bounded in time and output. A plugin dies with the thread that called it; what
//! it has started itself may live a moment longer, and holds the attachment's lock meanwhile, so
//! that whoever comes next waits for it (see `record`). Section 2 of the CNI specification.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde::Deserialize;

use crate::process::{self, Bounds, Failure, Output};

/// The most that a plugin may write, in bytes: results take a few KiB.
const MAX_OUTPUT: usize = 1024 * 1024;
/// How much of a plugin's own words a message repeats, in bytes.
const MAX_QUOTE: usize = 1024;
/// Where plugins find `iptables` and the like, also if the agent was started with a bare `PATH`.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What Debian packages as `containernetworking-plugins`.
const IN_DEBIAN: [&str; 16] = [
    "bandwidth",
    "bridge",
    "dhcp",
    "firewall",
    "host-device",
    "host-local",
    "ipvlan",
    "loopback",
    "macvlan",
    "portmap",
    "ptp",
    "sbr",
    "static",
    "tuning",
    "vlan",
    "vrf",
];

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Attach.
    Add,
    /// See whether it is still attached.
    Check,
    /// Detach.
    Del,
}

/// Why a plugin did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// It is not installed.
    #[error("the CNI plugin `{plugin}` is in none of {folders}: {}", install(.plugin))]
    Missing {
        /// Its name.
        plugin: String,
        /// Where it was looked for.
        folders: String,
    },
    /// It could not be executed.
    #[error("failed to start the CNI plugin {path}: see that it is an executable program")]
    Start {
        /// The program.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// It could not be talked to.
    #[error("failed to talk to the CNI plugin `{plugin}`")]
    Talk {
        /// Its name.
        plugin: String,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// It hung.
    #[error(
        "the CNI plugin `{plugin}` did not answer {verb} within {} s, and was killed: see what it \
         waits for, or give plugins more time (`network_timeout_seconds` of the agent)",
        .limit.as_secs_f32()
    )]
    TimedOut {
        /// Its name.
        plugin: String,
        /// What it was asked.
        verb: Verb,
        /// How long it had.
        limit: Duration,
    },
    /// It wrote without end.
    #[error(
        "the CNI plugin `{plugin}` wrote more than {MAX_OUTPUT} bytes on {verb}, and was killed: \
         it is broken, replace it"
    )]
    TooMuchOutput {
        /// Its name.
        plugin: String,
        /// What it was asked.
        verb: Verb,
    },
    /// It said what is wrong.
    #[error(
        "the CNI plugin `{plugin}` refused {verb} with code {code}: {message}{}{}",
        separated(.details), advice(*.verb, *.code)
    )]
    Refused {
        /// Its name.
        plugin: String,
        /// What it was asked.
        verb: Verb,
        /// CNI's, below 100; above, its own.
        code: u64,
        /// In its words.
        message: String,
        /// In its words; may be empty.
        details: String,
    },
    /// It failed without saying so in CNI's form.
    #[error("the CNI plugin `{plugin}` failed {verb} ({status}): {}", said(.output))]
    Failed {
        /// Its name.
        plugin: String,
        /// What it was asked.
        verb: Verb,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote.
        output: String,
    },
    /// It succeeded with an answer that is none.
    #[error(
        "the CNI plugin `{plugin}` answered {verb} with what is no result ({what}): {}; it is \
         broken, replace it",
        said(.output)
    )]
    Garbage {
        /// Its name.
        plugin: String,
        /// What it was asked.
        verb: Verb,
        /// What is wrong with it.
        what: String,
        /// What it wrote.
        output: String,
    },
}

/// Where plugins are, and how long they may take.
#[derive(Debug, Clone)]
pub(crate) struct Plugins {
    pub folders: Vec<PathBuf>,
    pub timeout: Duration,
}

/// One call.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub verb: Verb,
    pub plugin: &'a str,
    pub container: &'a str,
    /// Empty where the namespace is gone.
    pub netns: &'a Path,
    pub interface: &'a str,
    pub config: &'a [u8],
    /// What the plugin and all that it starts keeps open.
    pub lock: BorrowedFd<'a>,
}

impl Plugins {
    /// Calls it and returns its output. Blocks, up to the time limit.
    pub fn call(&self, call: &Call<'_>) -> Result<Vec<u8>, PluginError> {
        let path = self.find(call.plugin)?;
        let command = self.command(&path, call);
        let bounds = Bounds {
            time: self.timeout,
            output: MAX_OUTPUT,
        };
        let output = process::run(command, call.config, bounds);
        let output = output.map_err(|failure| self.failed(failure, path, call))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(refusal(&output, call))
    }

    /// Where the plugin is.
    pub fn find(&self, plugin: &str) -> Result<PathBuf, PluginError> {
        let mut paths = self.folders.iter().map(|folder| folder.join(plugin));
        let found = paths.find(|path| path.is_file());
        found.ok_or_else(|| PluginError::Missing {
            plugin: plugin.to_owned(),
            folders: join(&self.folders, ", "),
        })
    }

    fn command(&self, path: &Path, call: &Call<'_>) -> Command {
        let mut command = Command::new(path);
        let inherited = std::env::var("PATH").unwrap_or_default();
        command
            .env_clear()
            .env(
                "PATH",
                format!("{inherited}:{SYSTEM_PATH}").trim_start_matches(':'),
            )
            .env("CNI_COMMAND", call.verb.as_str())
            .env("CNI_CONTAINERID", call.container)
            .env("CNI_NETNS", call.netns)
            .env("CNI_IFNAME", call.interface)
            .env("CNI_PATH", join(&self.folders, ":"))
            .current_dir("/");
        let lock = call.lock.as_raw_fd();
        // SAFETY: between fork and exec only prctl(2) and fcntl(2) are called, which are
        // async-signal-safe, and nothing is allocated. `lock` is open in the parent until the
        // plugin has ended, as `call` borrows it.
        unsafe {
            command.pre_exec(move || {
                bind_to_parent()?;
                keep_open(lock)
            });
        }
        command
    }

    fn failed(&self, failure: Failure, path: PathBuf, call: &Call<'_>) -> PluginError {
        let (plugin, verb) = (call.plugin.to_owned(), call.verb);
        match failure {
            Failure::TimedOut => PluginError::TimedOut {
                plugin,
                verb,
                limit: self.timeout,
            },
            Failure::TooMuchOutput => PluginError::TooMuchOutput { plugin, verb },
            Failure::Start(source) => PluginError::Start { path, source },
            Failure::Talk(source) => PluginError::Talk { plugin, source },
        }
    }
}

/// The kernel kills this process when the thread that started it ends.
fn bind_to_parent() -> io::Result<()> {
    // SAFETY: this option takes a signal's number and touches no memory.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The descriptor stays open in the program that is about to be executed.
fn keep_open(fd: i32) -> io::Result<()> {
    // SAFETY: setting a descriptor's flags touches no memory.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An error in CNI's form.
#[derive(Deserialize)]
struct Refusal {
    code: u64,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

fn refusal(output: &Output, call: &Call<'_>) -> PluginError {
    let (plugin, verb) = (call.plugin.to_owned(), call.verb);
    match serde_json::from_slice::<Refusal>(&output.stdout) {
        Ok(refusal) => PluginError::Refused {
            plugin,
            verb,
            code: refusal.code,
            message: quote(refusal.msg.as_bytes()),
            details: quote(refusal.details.as_bytes()),
        },
        Err(_) => PluginError::Failed {
            plugin,
            verb,
            status: output.status,
            output: quote(match output.stderr.is_empty() {
                true => &output.stdout,
                false => &output.stderr,
            }),
        },
    }
}

/// The beginning of what a plugin wrote, on one line.
pub(crate) fn quote(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_QUOTE)]);
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.trim().chars().map(visible).collect();
    if bytes.len() > MAX_QUOTE {
        text + " […]"
    } else {
        text
    }
}

fn said(output: &str) -> String {
    match output {
        "" => "it said nothing".into(),
        output => format!("it said: {output}"),
    }
}

fn separated(details: &str) -> String {
    match details {
        "" => String::new(),
        details => format!("; {details}"),
    }
}

/// What CNI's own codes ask for.
fn advice(verb: Verb, code: u64) -> &'static str {
    match code {
        _ if verb == Verb::Check => {
            " (attach it anew; if the plugin is wrong, put \"disableCheck\": true into the list)"
        }
        1 => " (give the list a \"cniVersion\" that the plugin knows)",
        2 | 6 | 7 => " (correct the network's list)",
        11 => " (try again later)",
        _ => "",
    }
}

fn install(plugin: &str) -> String {
    if IN_DEBIAN.contains(&plugin) {
        return "install Debian's package containernetworking-plugins, which has it in \
                /usr/lib/cni, or name the folder that has it"
            .into();
    }
    "put it into one of them, or name the folder that has it".into()
}

fn join(folders: &[PathBuf], separator: &str) -> String {
    let folders = folders.iter().map(|folder| folder.display().to_string());
    folders.collect::<Vec<_>>().join(separator)
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
