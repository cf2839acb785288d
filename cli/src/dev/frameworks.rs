//! The frameworks that a local cluster starts with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tepui_types::FrameworkPhase;
use tepui_types::api::framework::DeployRequest;
use tokio::time::Instant;

use crate::artifact;
use crate::client::Client;

/// How often a framework is looked at while it starts.
const LOOK: Duration = Duration::from_millis(5);

/// Deploys every `*.wasm` of a folder under its name, unless just that is
/// deployed already. Gives a line to print for each that people should know of.
pub async fn deploy(folder: &Path, client: &Client, deadline: Instant) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let files = files(folder)?;
    if files.is_empty() {
        lines.push(format!(
            "note: there are no frameworks in {}, and without `batch` nothing runs `tepui run`",
            folder.display()
        ));
    }
    // A master that just started again may lead only in a moment.
    while let Err(error) = client.ready().await {
        if Instant::now() > deadline {
            return Err(error).context("the master serves, but is not ready");
        }
        tokio::time::sleep(LOOK).await;
    }
    for (name, file) in files {
        let deployed = deploy_one(&name, &file, client, deadline).await;
        let line = deployed.with_context(|| format!("failed to deploy {}", file.display()))?;
        lines.extend(line);
    }
    Ok(lines)
}

fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
        Err(error) => {
            return Err(error).with_context(|| format!("failed to list {}", folder.display()));
        }
    };
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "wasm")
            && let Some(name) = path.file_stem()
        {
            files.push((name.to_string_lossy().replace('_', "-"), path));
        }
    }
    files.sort();
    Ok(files)
}

async fn deploy_one(
    name: &str,
    file: &Path,
    client: &Client,
    deadline: Instant,
) -> Result<Option<String>> {
    let digest = artifact::upload(file, client).await?;
    let mut replaced = None;
    match client.framework(name).await {
        Ok(found) if found.artifact == digest && found.phase != FrameworkPhase::Removing => {
            return settle(name, client, deadline).await;
        }
        Ok(_) => {
            // There is no upgrade in place; a cluster for development may forget.
            remove(name, client, deadline).await?;
            replaced = Some(format!(
                "note: framework {name} has changed and was deployed anew, without its old jobs"
            ));
        }
        Err(error) if error.status() == Some(404) => {}
        Err(error) => return Err(error.into()),
    }
    let request = DeployRequest {
        name: name.to_owned(),
        artifact: digest,
        role: None,
        roles: Vec::new(),
        config: String::new(),
    };
    client.deploy(&request).await?;
    Ok(settle(name, client, deadline).await?.or(replaced))
}

/// Waits until a framework takes turns. One that cannot is worth a line, not
/// the end of the cluster.
async fn settle(name: &str, client: &Client, deadline: Instant) -> Result<Option<String>> {
    loop {
        let framework = client.framework(name).await?;
        match framework.phase {
            FrameworkPhase::Running => return Ok(None),
            FrameworkPhase::Backoff | FrameworkPhase::Failed => {
                let reason = framework.reason.map(|reason| format!(": {reason}"));
                return Ok(Some(format!(
                    "warning: framework {name} does not start{}",
                    reason.unwrap_or_default()
                )));
            }
            FrameworkPhase::Starting | FrameworkPhase::Removing => {}
        }
        if Instant::now() > deadline {
            bail!("framework {name} is still {}", framework.phase.as_str());
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn remove(name: &str, client: &Client, deadline: Instant) -> Result<()> {
    client.remove_framework(name).await?;
    loop {
        match client.framework(name).await {
            Err(error) if error.status() == Some(404) => return Ok(()),
            Err(error) => return Err(error.into()),
            Ok(_) if Instant::now() > deadline => bail!("its old tasks do not end"),
            Ok(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_webassembly_is_deployed_under_names_that_may_be() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["batch.wasm", "my_own.wasm", "README.md"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let names: Vec<_> = files(folder.path())
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["batch", "my-own"]);
        assert!(files(&folder.path().join("none")).unwrap().is_empty());
    }
}
