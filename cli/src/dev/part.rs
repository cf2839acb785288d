//! One process of a local cluster: the master or an agent.
//!
//! It runs in a process group of its own, so that Ctrl-C reaches only `tepui
//! dev`, which then ends the parts in order. Its identity is kept in a file, so
//! that the next `tepui dev` ends what an unlucky one left behind.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tepui_cli::leftovers;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::folder::Folder;
use crate::output;

/// How often a part is looked at while it starts.
const LOOK: Duration = Duration::from_millis(2);
/// How much of a log stands in an error.
const LAST_BYTES: u64 = 8 * 1024;
const LAST_LINES: usize = 12;

/// A part, started or not.
pub struct Part {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    folder: PathBuf,
    log: PathBuf,
    identity: PathBuf,
    child: Option<Child>,
    starts: u32,
}

impl Part {
    /// A part that keeps its data and log under its name.
    pub fn new(name: &str, program: PathBuf, folder: &Folder) -> Self {
        Self {
            name: name.to_owned(),
            program,
            args: Vec::new(),
            folder: folder.path().join(name),
            log: folder.logs().join(format!("{name}.log")),
            identity: folder.identity(name),
            child: None,
            starts: 0,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How often it was started.
    pub fn starts(&self) -> u32 {
        self.starts
    }

    /// Its arguments from the next start on.
    pub fn set_args(&mut self, args: impl IntoIterator<Item = OsString>) {
        self.args = args.into_iter().collect();
    }

    /// The value of its `--listen`.
    pub fn listen(&self) -> Option<String> {
        let position = self.args.iter().position(|arg| arg == "--listen")?;
        Some(self.args.get(position + 1)?.to_string_lossy().into_owned())
    }

    /// Starts it. Of an earlier run of this part nothing is left running.
    pub async fn start(&mut self) -> Result<()> {
        leftovers::end_process(&self.identity).await?;
        // An old address would be taken for the new one.
        let _ = std::fs::remove_file(self.folder.join("address"));
        if self.starts == 0 {
            let _ = std::fs::rename(&self.log, self.log.with_extension("log.old"));
        }
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("failed to open {}", self.log.display()))?;
        let child = Command::new(&self.program)
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("failed to start {}", self.program.display()))?;
        if let Some(pid) = child.id() {
            leftovers::remember_process(&self.identity, pid)?;
        }
        self.child = Some(child);
        self.starts += 1;
        Ok(())
    }

    /// The address that it writes once it serves.
    pub async fn address(&mut self, deadline: Instant) -> Result<String> {
        let path = self.folder.join("address");
        loop {
            match std::fs::read_to_string(&path) {
                Ok(address) if !address.trim().is_empty() => return Ok(address.trim().to_owned()),
                _ => {}
            }
            let child = self.child.as_mut().context("the part was not started")?;
            if let Some(status) = child.try_wait()? {
                bail!(
                    "{} did not start ({status}):\n{}",
                    self.name,
                    self.last_words()
                );
            }
            if Instant::now() > deadline {
                bail!("{} does not serve yet:\n{}", self.name, self.last_words());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until it ends. May be given up and called again.
    pub async fn exit(&mut self) -> Result<ExitStatus> {
        match &mut self.child {
            Some(child) => Ok(child.wait().await?),
            None => std::future::pending().await,
        }
    }

    /// Asks it to end, and makes it end when it does not.
    pub async fn stop(&mut self, patience: Duration) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended by itself just now.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if tokio::time::timeout(patience, child.wait()).await.is_err() {
            output::note(&format!(
                "tepui: {} does not end by itself and is killed",
                self.name
            ));
            let _ = child.kill().await;
        }
        let _ = std::fs::remove_file(&self.identity);
    }

    /// The end of its log, for an error.
    pub fn last_words(&self) -> String {
        let text = tail(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let first = lines.len().saturating_sub(LAST_LINES);
        let mut words: Vec<_> = lines[first..]
            .iter()
            .map(|line| format!("  {line}"))
            .collect();
        words.push(format!("  (from {})", self.log.display()));
        words.join("\n")
    }
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LAST_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(program: &str, args: &[&str]) -> (tempfile::TempDir, Part) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(&dir.path().join("dev")).unwrap();
        let mut part = Part::new("part", program.into(), &folder);
        part.set_args(args.iter().map(OsString::from));
        (dir, part)
    }

    #[tokio::test]
    async fn a_part_that_dies_says_why() {
        let (_dir, mut part) = part("/bin/sh", &["-c", "echo the port is taken >&2; exit 3"]);
        part.start().await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let error = part.address(deadline).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("the port is taken"), "{error}");
    }

    #[tokio::test]
    async fn a_part_serves_once_it_says_where() {
        let (_dir, mut part) = part("/bin/sh", &[]);
        let folder = part.folder().display().to_string();
        let script = format!("mkdir -p {folder}; echo http://x > {folder}/address; exec sleep 60");
        part.set_args(["-c".into(), script.into()]);
        part.start().await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        assert_eq!(part.address(deadline).await.unwrap(), "http://x");
        part.stop(Duration::from_secs(30)).await;
    }

    #[tokio::test]
    async fn a_second_start_ends_the_first() {
        let (_dir, mut part) = part("/bin/sleep", &["60"]);
        part.start().await.unwrap();
        let mut first = part.child.take().unwrap();
        part.start().await.unwrap();
        let status = first.wait().await.unwrap();
        assert!(!status.success());
        part.stop(Duration::from_secs(30)).await;
    }
}
