//! A registry of images on loopback, and the image in it: Debian's docker-registry, umoci and skopeo
//! around busybox-static.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::cluster::addresses;
use crate::eventually::eventually;
use crate::process::Process;

/// What its image runs as.
const TOOLS: [&str; 10] = [
    "sh", "echo", "cat", "sleep", "ls", "id", "httpd", "wget", "ip", "touch",
];

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    // The process before its folder.
    _process: Process,
    /// Its host and port.
    pub address: String,
    dir: TempDir,
}

impl Registry {
    /// Starts one, with the image `shell`, whose command says hello.
    ///
    /// # Errors
    /// When a tool is missing or fails.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("tepui-test-").tempdir()?;
        let address = addresses(1)?.remove(0);
        let config = dir.path().join("registry.yml");
        let storage = dir.path().join("storage");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
                storage.display()
            ),
        )?;
        let args = ["serve".into(), config.into_os_string()];
        let log = dir.path().join("registry.log");
        let process = Process::spawn("registry", Path::new("docker-registry"), &args, &log)?;
        let this = Self {
            _process: process,
            address,
            dir,
        };
        eventually("the registry answers", async || {
            let answer = reqwest::get(format!("http://{}/v2/", this.address)).await?;
            ensure!(answer.status().is_success(), "{}", answer.status());
            Ok(())
        })
        .await;
        this.push()?;
        Ok(this)
    }

    /// What tasks name the image by.
    pub fn image(&self) -> String {
        format!("{}/shell:1", self.address)
    }

    /// The same image as a file.
    ///
    /// # Errors
    /// When skopeo fails.
    pub fn archive(&self) -> Result<PathBuf> {
        let path = self.dir.path().join("image.tar");
        let layout = self.dir.path().join("layout");
        let from = format!("oci:{}:shell", layout.display());
        let to = format!("oci-archive:{}:shell", path.display());
        run("skopeo", &["copy", &from, &to])?;
        Ok(path)
    }

    fn push(&self) -> Result<()> {
        let root = self.dir.path();
        let bin = root.join("bin");
        std::fs::create_dir_all(&bin)?;
        std::fs::copy("/bin/busybox", bin.join("busybox")).context("busybox-static")?;
        for tool in TOOLS {
            std::os::unix::fs::symlink("busybox", bin.join(tool))?;
        }
        let layout = root.join("layout");
        let layout = layout.to_str().context("a path of text")?;
        let bin = bin.to_str().context("a path of text")?;
        let image = format!("{layout}:shell");
        run("umoci", &["init", "--layout", layout])?;
        run("umoci", &["new", "--image", &image])?;
        run("umoci", &["insert", "--image", &image, bin, "/bin"])?;
        let command = ["sh", "-c", "echo hello from an image"];
        let command = command.iter().flat_map(|word| ["--config.cmd", word]);
        let config: Vec<&str> = ["config", "--image", &image]
            .into_iter()
            .chain(command)
            .collect();
        run("umoci", &config)?;
        let (from, to) = (format!("oci:{image}"), format!("docker://{}", self.image()));
        run("skopeo", &["copy", "--dest-tls-verify=false", &from, &to])
    }
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output();
    let output = output.with_context(|| format!("{program}: `cargo xtask test` installs it"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {args:?}: {errors}");
    Ok(())
}
