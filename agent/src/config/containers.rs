//! What an operator says of containers: the table `[containers]`, and its flags.

use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use serde::Deserialize;
use tepui_executor::runtime::Runtime;
use tepui_fetch::FetchConfig;
use tepui_image::ImagesConfig;

use crate::containers::ContainersConfig;
use crate::error::AgentError;

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
    /// Where images come from.
    pub images: Option<ImagesConfig>,
    /// The folder with secrets, `ROLE/NAME` each.
    pub secrets: Option<PathBuf>,
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
            images,
            secrets: self.secrets.or(rest.secrets),
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
            secrets: self.secrets,
            fetch,
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
