//! The networks of a machine: attaching, detaching, and what a dead agent left.
//!
//! All of it blocks, bounded by the time that plugins have: an agent calls it from threads that
//! may. Different attachments go on side by side, one attachment does one thing at a time. A
//! plugin is never called without a record on disk that says how to undo what it does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::attachment::{Attach, Attachment};
use crate::cni;
use crate::error::NetworkError;
use crate::firewall;
use crate::id::AttachmentId;
use crate::list::{self, Configured, NetworkList};
use crate::namespace;
use crate::plugin::{Call, PluginError, Plugins, Verb, quote};
use crate::ports;
use crate::record::{self, Folder, Lock, Record};
use crate::turns::Turns;

/// Where the machine's networks are described, and how long plugins may take.
#[derive(Debug, Clone)]
pub struct NetworksConfig {
    /// Folders with network lists; the first that has a network's name counts.
    pub config_dirs: Vec<PathBuf>,
    /// Folders with plugins.
    pub plugin_dirs: Vec<PathBuf>,
    /// How long one call of a plugin may take.
    pub plugin_timeout: Duration,
}

impl Default for NetworksConfig {
    fn default() -> Self {
        Self {
            config_dirs: vec!["/etc/cni/net.d".into()],
            // CNI's own place, and Debian's.
            plugin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            // Long for `dhcp` on a slow network; others take milliseconds.
            plugin_timeout: Duration::from_secs(30),
        }
    }
}

/// What was found of an earlier process, and is detached now.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Those that nobody keeps; nothing is left of them.
    pub detached: Vec<AttachmentId>,
    /// Those of which something is left; to be detached again later.
    pub failed: Vec<(AttachmentId, NetworkError)>,
}

/// The networks of this machine, and who is attached to them.
#[derive(Debug)]
pub struct Networks {
    state: PathBuf,
    config_dirs: Vec<PathBuf>,
    plugins: Plugins,
    turns: Turns,
}

impl Networks {
    /// The most attachments of a machine: a bridge of Linux has 1,024 ports, and a machine some
    /// bridges.
    pub const MAX_ATTACHMENTS: usize = 8192;

    /// Uses this folder, which is made if there is none, for what has to be undone. One process
    /// has it at a time; whoever holds the folder above it sees to that.
    pub fn open(state: &Path, config: NetworksConfig) -> Result<Self, NetworkError> {
        let io = |source| NetworkError::io("make", state, source);
        fs::create_dir_all(state).map_err(io)?;
        Ok(Self {
            // Plugins are told paths, and run in another folder.
            state: fs::canonicalize(state).map_err(io)?,
            config_dirs: config.config_dirs,
            plugins: Plugins {
                folders: absolute(config.plugin_dirs)?,
                timeout: config.plugin_timeout,
            },
            turns: Turns::default(),
        })
    }

    /// The networks that are configured now.
    pub fn names(&self) -> Result<BTreeSet<String>, NetworkError> {
        let configured = Configured::read(&self.config_dirs)?;
        Ok(configured.lists.into_keys().collect())
    }

    /// Makes a namespace and attaches it. What is attached already, as asked, is left as it is;
    /// after an error nothing is, or the next call and [`Networks::recover`] detach the rest.
    pub fn attach(&self, attach: Attach) -> Result<Attachment, NetworkError> {
        attach.validate().map_err(NetworkError::Request)?;
        let _turn = self.turns.take(&attach.id);
        let folder = self.folder(&attach.id);
        if let Some(attachment) = self.existing(&folder, &attach)? {
            return Ok(attachment);
        }
        let list = self.list(&attach.network)?;
        if !attach.port_mappings.is_empty() && !list.is_capable(cni::PORT_MAPPINGS) {
            return Err(NetworkError::NoPortMappings {
                network: attach.network,
                file: list.file,
            });
        }
        for program in list.programs() {
            // What is missing could not undo anything either.
            self.plugins.find(program)?;
        }
        for mapping in &attach.port_mappings {
            // It would get none of its connections any more, and nobody would tell it.
            ports::check_free(mapping.protocol, mapping.host_port)?;
        }
        if record::folders(&self.state)?.len() >= Self::MAX_ATTACHMENTS {
            let most = Self::MAX_ATTACHMENTS;
            return Err(NetworkError::TooMany { most });
        }
        let id = attach.id.clone();
        let added = self.add(&folder, Record::new(attach, list));
        if added.is_err()
            && let Err(error) = self.undo(&folder)
        {
            tracing::warn!(%id, error = %error, "something is left of an attachment that failed");
        }
        added
    }

    /// Detaches it and ends its namespace. Does nothing where nothing is attached; after an error
    /// it can be called again.
    pub fn detach(&self, id: &AttachmentId) -> Result<(), NetworkError> {
        let _turn = self.turns.take(id);
        self.undo(&self.folder(id))
    }

    /// What is attached under this id; none if that was not finished, or has not outlived the
    /// machine's restart.
    pub fn attachment(&self, id: &AttachmentId) -> Result<Option<Attachment>, NetworkError> {
        let _turn = self.turns.take(id);
        let folder = self.folder(id);
        let record = folder
            .read()?
            .filter(|_| namespace::is_alive(&folder.netns()));
        Ok(record.and_then(|record| record.attachment))
    }

    /// Asks the plugins whether all is as they have made it. Networks whose lists are older than
    /// CHECK, or refuse it, are only known to have their namespace. Plugins may be wrong: `portmap`
    /// 1.1.1, Debian's, wants rules of IPv6 also where no address is; for such lists there is
    /// CNI's `disableCheck`.
    pub fn check(&self, id: &AttachmentId) -> Result<(), NetworkError> {
        let _turn = self.turns.take(id);
        let folder = self.folder(id);
        let record = folder
            .read()?
            .filter(|_| namespace::is_alive(&folder.netns()));
        let Some(record) = record.filter(|record| record.attachment.is_some()) else {
            return Err(NetworkError::NotAttached { id: id.clone() });
        };
        if !record.list.check || !record.list.knows_check() {
            return Ok(());
        }
        let lock = folder.lock()?;
        for plugin in 0..record.list.plugins.len() {
            self.call(&folder, &lock, &record, plugin, Verb::Check)?;
        }
        Ok(())
    }

    /// Detaches all that an earlier process has left and that is not to be kept; called when an
    /// agent starts.
    pub fn recover(&self, keep: &BTreeSet<AttachmentId>) -> Result<Recovered, NetworkError> {
        let mut recovered = Recovered::default();
        for id in self.left(keep)? {
            match self.detach(&id) {
                Ok(()) => recovered.detached.push(id),
                Err(error) => recovered.failed.push((id, error)),
            }
        }
        Ok(recovered)
    }

    /// What an earlier process has left and is not to be kept: for who detaches one after another
    /// itself.
    pub fn left(&self, keep: &BTreeSet<AttachmentId>) -> Result<Vec<AttachmentId>, NetworkError> {
        let names = record::folders(&self.state)?.into_iter();
        // What has another name is not ours.
        let ids = names.filter_map(|name| name.parse::<AttachmentId>().ok());
        Ok(ids.filter(|id| !keep.contains(id)).collect())
    }

    fn folder(&self, id: &AttachmentId) -> Folder {
        Folder::at(self.state.join(id.as_str()))
    }

    fn list(&self, name: &str) -> Result<NetworkList, NetworkError> {
        let mut configured = Configured::read(&self.config_dirs)?;
        let list = configured.lists.remove(name);
        list.ok_or_else(|| NetworkError::UnknownNetwork {
            name: name.chars().take(80).collect(),
            known: configured.lists.into_keys().collect(),
            folders: self.config_dirs.clone(),
            broken: configured.broken,
        })
    }

    /// What is attached already as is asked. What was not finished, or has ended with the
    /// machine, is taken away.
    fn existing(
        &self,
        folder: &Folder,
        attach: &Attach,
    ) -> Result<Option<Attachment>, NetworkError> {
        if !folder.exists() {
            return Ok(None);
        }
        let record = folder
            .read()?
            .filter(|_| namespace::is_alive(&folder.netns()));
        let finished = record.and_then(|record| Some((record.attachment?, record.attach)));
        match finished {
            Some((attachment, asked)) if &asked == attach => Ok(Some(attachment)),
            Some(_) => Err(NetworkError::Attached {
                id: attach.id.clone(),
            }),
            None => self.undo(folder).map(|()| None),
        }
    }

    /// Records, makes the namespace, and calls one plugin after another.
    fn add(&self, folder: &Folder, mut record: Record) -> Result<Attachment, NetworkError> {
        folder.create()?;
        folder.write(&record)?;
        let lock = folder.lock()?;
        namespace::create(&folder.netns())?;
        let mut result = None;
        for plugin in 0..record.list.plugins.len() {
            let output = self.call(folder, &lock, &record, plugin, Verb::Add)?;
            result = Some(self.read_result(&record, plugin, &output)?);
            record.result = result.as_ref().map(|(value, _)| value.clone());
            // Whoever undoes it tells the plugins what they have answered.
            folder.write(&record)?;
        }
        // invariant: a list has at least one plugin, so that there is a result.
        let (_, result) = result.expect("a list without plugins is refused when it is read");
        let attachment = Attachment {
            netns: folder.netns(),
            interfaces: result.interfaces,
            dns: record.attach.dns.clone().or(result.dns),
            port_mappings: record.attach.port_mappings.clone(),
        };
        record.attachment = Some(attachment.clone());
        folder.write(&record)?;
        Ok(attachment)
    }

    fn read_result(
        &self,
        record: &Record,
        plugin: usize,
        output: &[u8],
    ) -> Result<(Value, cni::Result), PluginError> {
        let garbage = |what: String| PluginError::Garbage {
            plugin: plugin_name(record, plugin).to_owned(),
            verb: Verb::Add,
            what,
            output: quote(output),
        };
        let value = serde_json::from_slice(output).map_err(|error| garbage(error.to_string()))?;
        let result = cni::read_result(&value).map_err(garbage)?;
        Ok((value, result))
    }

    /// Calls the plugins in reverse order and takes the folder away. All are called, also if one
    /// fails; then the record stays, and the first failure is told.
    fn undo(&self, folder: &Folder) -> Result<(), NetworkError> {
        if !folder.exists() {
            return Ok(());
        }
        if let Some(mut record) = folder.read()? {
            // From now on it is not attached, whatever comes.
            if record.attachment.take().is_some() {
                folder.write(&record)?;
            }
            let lock = folder.lock()?;
            let mut failure = None;
            for plugin in (0..record.list.plugins.len()).rev() {
                let done = self.call(folder, &lock, &record, plugin, Verb::Del);
                failure = failure.or(done.err());
            }
            if let Some(error) = failure {
                return Err(error.into());
            }
        }
        folder.remove()
    }

    fn call(
        &self,
        folder: &Folder,
        lock: &Lock,
        record: &Record,
        plugin: usize,
        verb: Verb,
    ) -> Result<Vec<u8>, PluginError> {
        let Record { attach, list, .. } = record;
        let previous = match verb {
            Verb::Del if !list.knows_check() => None,
            _ => record.result.as_ref(),
        };
        let netns = folder.netns();
        let gone = verb == Verb::Del && !namespace::is_alive(&netns);
        let _turn = firewall::turn_of(plugin_name(record, plugin), verb);
        self.plugins.call(&Call {
            verb,
            plugin: plugin_name(record, plugin),
            container: attach.id.as_str(),
            netns: if gone { Path::new("") } else { &netns },
            interface: cni::INTERFACE,
            config: &cni::plugin_config(list, &list.plugins[plugin], attach, previous),
            lock: std::os::fd::AsFd::as_fd(lock),
        })
    }
}

fn absolute(paths: Vec<PathBuf>) -> Result<Vec<PathBuf>, NetworkError> {
    let paths = paths.into_iter().map(|path| {
        let absolute = std::path::absolute(&path);
        absolute.map_err(|source| NetworkError::io("find", &path, source))
    });
    paths.collect()
}

fn plugin_name(record: &Record, plugin: usize) -> &str {
    // Lists without it are refused when they are read.
    list::text(&record.list.plugins[plugin], "type").unwrap_or_default()
}
