//! Commands of an agent's machine: what is run, and what is done for it while it lives.
//!
//! A command may have companions, which with it are one task: they start and end together, in one
//! cgroup and one network, with one sandbox. Those that prepare it run before it, one after another;
//! those that serve it begin before it and end after it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::container::{Container, MountSource, Network, Userns};
use crate::ids::{Digest, is_label};
use crate::image::ImageRef;
use crate::resources::Bytes;
use crate::wasm::{WasmOptions, WasmWorkload};

/// A native command, in a container if it says so.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CommandWorkload {
    /// The program and its arguments; the program is looked up in `PATH`. With an image they follow
    /// its entrypoint, and stand in place of its own arguments unless empty.
    pub argv: Vec<String>,
    /// Added to a minimal environment (`PATH`, `HOME`, `TEPUI_…`).
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The most processes and threads it may have; the agent's default when absent.
    #[serde(default)]
    pub pids: Option<u32>,
    /// What it runs in; the agent's machine as it is when absent.
    #[serde(default)]
    pub container: Option<Box<Container>>,
    /// What is done for it; nothing when absent.
    #[serde(default)]
    pub options: Option<Box<CommandOptions>>,
}

/// What is done for a command while it lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CommandOptions {
    /// Whether it is started again where it is; its end is the task's when absent.
    #[serde(default)]
    pub restart: Option<Restart>,
    /// How much of its output is kept; what the agent keeps of any when absent.
    #[serde(default)]
    pub logs: Option<LogPolicy>,
    /// What it reads.
    #[serde(default)]
    pub stdin: CommandStdin,
    /// How it shares its machine's disks.
    #[serde(default)]
    pub io: Option<IoLimits>,
    /// The processors that it may run on, as cpuset(7) lists them: `0-3,8`.
    #[serde(default)]
    pub cpuset: Option<String>,
    /// What runs with it; such a task is in a container.
    #[serde(default)]
    pub companions: Vec<Companion>,
    /// What its image is given if that is a WebAssembly program; nothing when absent.
    #[serde(default)]
    pub wasm: Option<Box<WasmOptions>>,
}

/// When a command is started again, in its place and in the same task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Restart {
    /// After which ends.
    #[serde(default)]
    pub after: RestartAfter,
    /// How often at most; without end when absent.
    #[serde(default)]
    pub most: Option<u32>,
    /// Milliseconds before the first time; doubled each time after that.
    #[serde(default = "default_backoff_ms")]
    pub backoff_ms: u64,
    /// Where the doubling ends, in milliseconds. A command that has run for as long begins with
    /// `backoff_ms` again.
    #[serde(default = "default_max_backoff_ms")]
    pub max_backoff_ms: u64,
}

/// After which ends a command is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RestartAfter {
    /// After those that are no success.
    #[default]
    Failure,
    /// After all.
    Any,
}

/// How much of a command's output is kept, of each stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogPolicy {
    /// Bytes of one file.
    pub max_bytes: Bytes,
    /// How many files: with more than one the oldest is thrown away for a new one, so that the
    /// latest output is kept; with one, the first output is.
    #[serde(default = "one")]
    pub files: u32,
}

/// What a command reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CommandStdin {
    /// Nothing.
    #[default]
    Nothing,
    /// What is sent to it while it runs, by a pipe.
    Open,
    /// What is sent to it while it runs, by a terminal, which is also its output and error.
    Terminal,
}

/// How a command shares its machine's disks; what is absent is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IoLimits {
    /// Its share where disks are busy, from 1 to 1,000; others have 100.
    #[serde(default)]
    pub weight: Option<u16>,
    /// Bytes it may read in a second.
    #[serde(default)]
    pub read_bytes: Option<u64>,
    /// Bytes it may write in a second.
    #[serde(default)]
    pub write_bytes: Option<u64>,
    /// Reads in a second.
    #[serde(default)]
    pub reads: Option<u64>,
    /// Writes in a second.
    #[serde(default)]
    pub writes: Option<u64>,
}

/// A command that with another is one task.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Companion {
    /// Its name in the task, a DNS label; the command itself is `main`.
    pub name: String,
    /// What it is to the others.
    #[serde(default)]
    pub role: CompanionRole,
    /// The program and its arguments, as for any command.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Added to its environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Its container; it shares the task's network and names, and says neither.
    #[serde(default)]
    pub container: Option<Box<Container>>,
    /// Whether it is started again; a sidecar always is, unless it says how.
    #[serde(default)]
    pub restart: Option<Restart>,
    /// What it may have of the task's memory; all of it when absent.
    #[serde(default)]
    pub mem_bytes: Option<Bytes>,
}

/// What a companion is to the others of its task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CompanionRole {
    /// It runs to its end before all that come after it in the list, and before the command.
    Init,
    /// It runs from before the command until after it; its own end is not the task's.
    #[default]
    Sidecar,
    /// It is as important as the command: the task succeeds when both have, and ends when one fails.
    Peer,
}

fn one() -> u32 {
    1
}

/// A second.
pub fn default_backoff_ms() -> u64 {
    1_000
}

/// A minute.
pub fn default_max_backoff_ms() -> u64 {
    60_000
}

/// The name of the command itself among its companions.
pub const MAIN: &str = "main";

impl Default for Restart {
    fn default() -> Self {
        Self {
            after: RestartAfter::default(),
            most: None,
            backoff_ms: default_backoff_ms(),
            max_backoff_ms: default_max_backoff_ms(),
        }
    }
}

impl CommandWorkload {
    /// A command of the agent's machine, as it is.
    pub fn new(argv: Vec<String>) -> Self {
        Self {
            argv,
            env: BTreeMap::new(),
            pids: None,
            container: None,
            options: None,
        }
    }

    /// The image that it runs from.
    pub fn image(&self) -> Option<&ImageRef> {
        self.container.as_ref()?.image.as_ref()
    }

    /// What runs with it.
    pub fn companions(&self) -> &[Companion] {
        let options = self.options.as_ref();
        options.map_or(&[], |options| options.companions.as_slice())
    }

    /// The names of the commands of its task, its own first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let theirs = self.companions().iter().map(|it| it.name.as_str());
        std::iter::once(MAIN).chain(theirs)
    }

    /// All containers of its task, its own first.
    pub fn containers(&self) -> impl Iterator<Item = &Container> {
        let companions = self.companions().iter();
        let theirs = companions.filter_map(|companion| companion.container.as_deref());
        self.container.as_deref().into_iter().chain(theirs)
    }

    /// All images that its containers run from or mount, its own first.
    pub fn images(&self) -> impl Iterator<Item = &ImageRef> {
        self.containers().flat_map(|container| {
            let mounted = container
                .mounts
                .iter()
                .filter_map(|mount| match &mount.source {
                    MountSource::Image(image) => Some(image),
                    _ => None,
                });
            container.image.iter().chain(mounted)
        })
    }

    /// Whether what is sent to it while it runs is read.
    pub fn stdin(&self) -> CommandStdin {
        let options = self.options.as_ref();
        options.map_or(CommandStdin::Nothing, |options| options.stdin)
    }

    /// What it is where its image is a WebAssembly program, whose bytes have this digest: an image
    /// says only at its agent which kind it is.
    ///
    /// # Errors
    /// With what such programs do not have and it asks for.
    pub fn as_wasm(&self, artifact: Digest) -> Result<WasmWorkload, &'static str> {
        let options = self.options.as_deref().cloned().unwrap_or_default();
        if let Some(container) = self.container.as_deref() {
            // These two say how it came.
            let plain = Container {
                image: container.image.clone(),
                pull: container.pull,
                ..Container::default()
            };
            if *container != plain {
                return Err("it runs in no container: leave out all but its image and `pull`");
            }
        }
        if !options.companions.is_empty() {
            return Err("it has no companions: give it a task of its own");
        }
        if self.pids.is_some() {
            return Err("it starts no processes: leave out pids");
        }
        let plain = CommandOptions {
            wasm: options.wasm.clone(),
            ..CommandOptions::default()
        };
        if options != plain {
            return Err(
                "what it reads is in `wasm`, and of a command's other options it has none: leave out \
                 restart, logs, stdin, io and cpuset",
            );
        }
        Ok(WasmWorkload {
            args: self.argv.clone(),
            env: self.env.clone(),
            options: options.wasm,
            ..WasmWorkload::new(artifact)
        })
    }

    /// All words that become arguments and environment.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &String> {
        let companions = self.companions().iter();
        let theirs =
            companions.flat_map(|companion| companion.argv.iter().chain(companion.env.values()));
        self.argv.iter().chain(self.env.values()).chain(theirs)
    }

    /// What is wrong with it in itself.
    pub(crate) fn validate(&self) -> Result<(), String> {
        names_a_program(&self.argv, self.image())?;
        if self.pids == Some(0) {
            return Err("pids is 0: a command needs at least one process".into());
        }
        if let Some(container) = &self.container {
            let checked = container.validate();
            checked.map_err(|why| format!("container: {why}"))?;
        }
        let Some(options) = &self.options else {
            return Ok(());
        };
        options
            .validate()
            .map_err(|why| format!("options: {why}"))?;
        if options.wasm.is_some() && self.image().is_none() {
            return Err(
                "options: wasm is for an image that is a WebAssembly program: name one".into(),
            );
        }
        match &self.container {
            Some(container) if container.userns == Userns::Private => self.companions_have_images(),
            None if !options.companions.is_empty() => {
                Err("companions share containers: give the command one (`container`)".into())
            }
            Some(_) | None => Ok(()),
        }
    }

    fn companions_have_images(&self) -> Result<(), String> {
        let has_image = |companion: &Companion| {
            let container = companion.container.as_ref();
            container.is_some_and(|container| container.image.is_some())
        };
        match self.companions().iter().find(|one| !has_image(one)) {
            Some(companion) => Err(format!(
                "companion `{}`: the task's userns is private, which needs an image: name one",
                companion.name
            )),
            None => Ok(()),
        }
    }
}

/// An image may say what to run.
fn names_a_program(argv: &[String], image: Option<&ImageRef>) -> Result<(), String> {
    let is_named = argv.first().map(|program| !program.is_empty());
    match is_named.unwrap_or(image.is_some()) {
        true => Ok(()),
        false => Err("argv is empty: name the program to run".into()),
    }
}

impl CommandOptions {
    /// The most companions: each is a container, and a page of a status.
    pub const MAX_COMPANIONS: usize = 15;
    /// The most files of one stream.
    pub const MAX_LOG_FILES: u32 = 100;
    /// The longest pause before a restart, in milliseconds: a day.
    pub const MAX_BACKOFF_MS: u64 = 24 * 3_600_000;

    fn validate(&self) -> Result<(), String> {
        if let Some(restart) = &self.restart {
            restart.validate()?;
        }
        if let Some(logs) = &self.logs {
            logs.validate()?;
        }
        if let Some(io) = &self.io {
            io.validate()?;
        }
        if let Some(cpuset) = self.cpuset.as_ref().filter(|text| !is_cpuset(text)) {
            return Err(format!(
                "cpuset is `{cpuset}`: list processors as in `0-3,8`"
            ));
        }
        if let Some(wasm) = &self.wasm {
            wasm.validate().map_err(|why| format!("wasm: {why}"))?;
        }
        if self.companions.len() > Self::MAX_COMPANIONS {
            return Err(format!(
                "a command has at most {} companions",
                Self::MAX_COMPANIONS
            ));
        }
        let mut names = BTreeSet::from([MAIN]);
        for companion in &self.companions {
            let name = &companion.name;
            if !is_label(name) || !names.insert(name) {
                return Err(format!(
                    "`{name}` names no companion: use 1 to 63 of a-z, 0-9 and `-`, each once, and \
                     not `{MAIN}`"
                ));
            }
            let checked = companion.validate();
            checked.map_err(|why| format!("companion `{name}`: {why}"))?;
        }
        Ok(())
    }
}

impl Restart {
    fn validate(&self) -> Result<(), String> {
        let most = CommandOptions::MAX_BACKOFF_MS;
        match self.backoff_ms <= self.max_backoff_ms && self.max_backoff_ms <= most {
            true => Ok(()),
            false => Err(format!(
                "a restart waits for backoff_ms, then for more up to max_backoff_ms, which is at \
                 most {most}"
            )),
        }
    }
}

impl LogPolicy {
    /// The smallest file: less would be thrown away before anybody could read it.
    pub const MIN_BYTES: Bytes = Bytes(4096);

    fn validate(&self) -> Result<(), String> {
        let most = CommandOptions::MAX_LOG_FILES;
        match self.max_bytes >= Self::MIN_BYTES && (1..=most).contains(&self.files) {
            true => Ok(()),
            false => Err(format!(
                "logs are kept in 1 to {most} files of at least {} each",
                Self::MIN_BYTES
            )),
        }
    }
}

impl IoLimits {
    fn validate(&self) -> Result<(), String> {
        if self
            .weight
            .is_some_and(|weight| !(1..=1_000).contains(&weight))
        {
            return Err("io: the weight goes from 1 to 1000".into());
        }
        let rates = [self.read_bytes, self.write_bytes, self.reads, self.writes];
        match rates.contains(&Some(0)) {
            true => Err("io: a rate of 0 would stop it: leave out what is not limited".into()),
            false => Ok(()),
        }
    }
}

impl Companion {
    /// How it is started again.
    pub fn restart(&self) -> Option<Restart> {
        let always = Restart {
            after: RestartAfter::Any,
            ..Restart::default()
        };
        match self.role {
            CompanionRole::Sidecar => Some(self.restart.unwrap_or(always)),
            CompanionRole::Init | CompanionRole::Peer => self.restart,
        }
    }

    fn validate(&self) -> Result<(), String> {
        let image = self.container.as_ref().and_then(|it| it.image.as_ref());
        names_a_program(&self.argv, image)?;
        let bad_name = |name: &&String| name.is_empty() || name.contains(['=', '\0']);
        if let Some(name) = self.env.keys().find(bad_name) {
            return Err(format!("`{name}` cannot name an environment variable"));
        }
        if let Some(restart) = &self.restart {
            restart.validate()?;
            if self.role == CompanionRole::Init && restart.after == RestartAfter::Any {
                return Err(
                    "what prepares a command ends: restart it after a failure alone".into(),
                );
            }
        }
        if self.mem_bytes == Some(Bytes(0)) {
            return Err("mem_bytes is 0: leave it out for all of the task's".into());
        }
        let Some(container) = &self.container else {
            return Ok(());
        };
        container.validate()?;
        let own = container.network != Network::Host
            || container.hostname.is_some()
            || container.userns != Userns::Host
            || !container.share.is_empty();
        match own {
            true => Err(
                "network, hostname, share and userns are those of the task: say them in the command's \
                 own container"
                    .into(),
            ),
            false => Ok(()),
        }
    }
}

/// Whether it lists processors, from low to high: `0-3,8`.
fn is_cpuset(text: &str) -> bool {
    let number = |text: &str| text.parse::<u16>().ok().filter(|_| !text.starts_with('+'));
    let is_part = |part: &str| match part.split_once('-') {
        Some((first, last)) => number(first)
            .zip(number(last))
            .is_some_and(|(first, last)| first <= last),
        None => number(part).is_some(),
    };
    text.len() <= 1024 && text.split(',').all(is_part)
}

#[cfg(test)]
mod tests;
