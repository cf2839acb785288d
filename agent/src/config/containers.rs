//! What an operator says of containers: the table `[containers]`, and its flags.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use serde::Deserialize;
use tepui_executor::runtime::Runtime;
use tepui_fetch::FetchConfig;
use tepui_image::ImagesConfig;

use crate::containers::{ContainersConfig, UserPool};
use crate::error::AgentError;

/// The most time that a network's plugin may have: whoever waits longer for an address has none.
const MAX_PLUGIN_SECONDS: u64 = 600;

/// As it stands in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerSettings {
    /// Files and folders of the machine that containers may mount, with what is below them.
    pub host_paths: Option<Vec<PathBuf>>,
    /// `builtin`, or a program with runc's command line.
    pub runtime: Option<String>,
    /// Folders with CNI network lists.
    pub network_configs: Option<Vec<PathBuf>>,
    /// Folders with CNI plugins.
    pub network_plugins: Option<Vec<PathBuf>>,
    /// How long one call of a plugin may take, in seconds.
    pub network_timeout_seconds: Option<u64>,
    /// Where images come from.
    pub images: Option<ImagesConfig>,
    /// The folder with secrets, `ROLE/NAME` each.
    pub secrets: Option<PathBuf>,
    /// Users of the machine that containers may have of their own, `FIRST:COUNT` or
    /// `FIRST:COUNT:EACH`.
    pub userns_range: Option<UserPool>,
}

impl ContainerSettings {
    /// These settings, and those of `rest` where these say nothing; insecure registries are those of
    /// both.
    pub fn or(self, rest: Self) -> Self {
        let images = match (self.images, rest.images) {
            (Some(ours), Some(mut theirs)) => {
                theirs.insecure.extend(ours.insecure);
                Some(theirs)
            }
            (ours, theirs) => ours.or(theirs),
        };
        Self {
            host_paths: self.host_paths.or(rest.host_paths),
            runtime: self.runtime.or(rest.runtime),
            network_configs: self.network_configs.or(rest.network_configs),
            network_plugins: self.network_plugins.or(rest.network_plugins),
            network_timeout_seconds: self
                .network_timeout_seconds
                .or(rest.network_timeout_seconds),
            images,
            secrets: self.secrets.or(rest.secrets),
            userns_range: self.userns_range.or(rest.userns_range),
        }
    }

    /// Checks them.
    pub fn check(self, fetch: FetchConfig) -> Result<(Runtime, ContainersConfig), AgentError> {
        let host_paths = self.host_paths.unwrap_or_default();
        let host_paths = host_paths.iter().map(|path| real(path));
        let config = ContainersConfig {
            host_paths: host_paths.collect::<Result<_, _>>()?,
            images: self.images.unwrap_or_default(),
            network_configs: self.network_configs.unwrap_or_default(),
            network_plugins: self.network_plugins.unwrap_or_default(),
            plugin_timeout: self
                .network_timeout_seconds
                .map(plugin_timeout)
                .transpose()?,
            secrets: self.secrets,
            fetch,
            users: self.userns_range,
        };
        let runtime = match self.runtime.as_deref().map(str::parse) {
            Some(Ok(runtime)) => runtime,
            Some(Err(never)) => match never {},
            None => Runtime::default(),
        };
        if let Runtime::Program(path) = &runtime
            && (!path.is_absolute() || access(path, AccessFlags::X_OK).is_err())
        {
            return Err(AgentError::Config(format!(
                "--oci-runtime {} is not there or is no program: write `builtin`, or the absolute path \
                 of one such as /usr/sbin/runc",
                path.display()
            )));
        }
        Ok((runtime, config))
    }
}

fn plugin_timeout(seconds: u64) -> Result<Duration, AgentError> {
    let refused = || {
        AgentError::Config(format!(
            "`network_timeout_seconds` is {seconds}: write 1 to {MAX_PLUGIN_SECONDS}, or nothing for 30"
        ))
    };
    let may = (1..=MAX_PLUGIN_SECONDS).contains(&seconds);
    may.then(|| Duration::from_secs(seconds))
        .ok_or_else(refused)
}

/// Links are followed once, here: what a task names is compared with where it really is.
fn real(path: &Path) -> Result<PathBuf, AgentError> {
    path.canonicalize().map_err(|error| {
        AgentError::Config(format!(
            "--host-path {}: {error}; name a file or folder that is there",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_refused() {
        let refused = |settings: ContainerSettings| {
            settings
                .check(FetchConfig::default())
                .unwrap_err()
                .to_string()
        };
        let path = ContainerSettings {
            host_paths: Some(vec!["/no/such/folder".into()]),
            ..Default::default()
        };
        assert!(refused(path).contains("--host-path /no/such/folder"));
        for runtime in ["runc", "/etc/passwd"] {
            let settings = ContainerSettings {
                runtime: Some(runtime.into()),
                ..Default::default()
            };
            assert!(refused(settings).contains("--oci-runtime"));
        }
        for seconds in [0, 601] {
            let settings = ContainerSettings {
                network_timeout_seconds: Some(seconds),
                ..Default::default()
            };
            assert!(refused(settings).contains("write 1 to 600"));
        }
        let (runtime, config) = ContainerSettings::default()
            .check(FetchConfig::default())
            .unwrap();
        assert_eq!((runtime, config), Default::default());
    }

    #[test]
    fn flags_add_insecure_registries_and_override_the_rest() {
        let settings = |insecure: &str, runtime: &str| ContainerSettings {
            runtime: Some(runtime.into()),
            images: Some(ImagesConfig {
                insecure: [insecure.to_owned()].into(),
                ..ImagesConfig::default()
            }),
            ..Default::default()
        };
        let merged = settings("a:1", "flag").or(settings("b:2", "file"));
        assert_eq!(merged.runtime.as_deref(), Some("flag"));
        let insecure = merged.images.unwrap().insecure;
        assert_eq!(insecure, ["a:1".to_owned(), "b:2".to_owned()].into());
    }
}
