//! Images made with umoci, pushed with skopeo to docker-registry on a free port of loopback. All of
//! it lies in one temporary folder and ends with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tepui_image::{Image, ImageError, Images, ImagesConfig, Progress, Pulled};
use tepui_types::image::{ImageRef, PullPolicy};
use tokio::time::Instant;

/// How long anything may take. Far above what it takes: no test passes or fails by speed.
const DEADLINE: Duration = Duration::from_secs(90);

/// Runs a command, and shows what it said where it fails.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; `cargo xtask test` installs it"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until `check` holds.
pub async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !check() {
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        // sleep: the pause between two looks.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A folder for everything of one test.
pub struct World {
    dir: TempDir,
}

impl World {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The folder that the images under test lie in.
    pub fn images(&self) -> PathBuf {
        self.path("images")
    }

    pub fn layout(&self, name: &str) -> Layout {
        Layout::new(self.path(name))
    }

    pub async fn open(&self, config: ImagesConfig) -> Images {
        Images::open(self.images(), config).await.unwrap()
    }

    /// What lies in a folder of the images.
    pub fn list(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.images().join(folder)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// An OCI layout being filled.
pub struct Layout {
    pub folder: PathBuf,
}

impl Layout {
    fn new(folder: PathBuf) -> Self {
        run("umoci", &["init", "--layout", folder.to_str().unwrap()]);
        Self { folder }
    }

    fn tagged(&self, tag: &str) -> String {
        format!("{}:{tag}", self.folder.display())
    }

    /// An image without layers.
    pub fn image(&self, tag: &str) -> &Self {
        run("umoci", &["new", "--image", &self.tagged(tag)]);
        self
    }

    /// An image with a layer that has busybox.
    pub fn busybox(&self, tag: &str) -> &Self {
        let busybox = ["/bin/busybox", "/usr/bin/busybox"];
        let busybox = busybox.into_iter().find(|path| Path::new(path).exists());
        let busybox = busybox.expect("busybox-static is installed by `cargo xtask test`");
        self.image(tag)
            .insert(tag, &[], Path::new(busybox), "/bin/busybox")
    }

    /// One more layer.
    pub fn insert(&self, tag: &str, flags: &[&str], from: &Path, to: &str) -> &Self {
        let image = self.tagged(tag);
        let from = from.to_str().unwrap();
        let arguments = [&["insert", "--image", &image], flags, &[from, to]].concat();
        run("umoci", &arguments);
        self
    }

    /// One more layer with one file.
    pub fn file(&self, tag: &str, path: &str, content: &str) -> &Self {
        let file = self.folder.with_extension("content");
        std::fs::write(&file, content).unwrap();
        self.insert(tag, &[], &file, path)
    }

    /// One more layer, which hides a path.
    pub fn whiteout(&self, tag: &str, path: &str) -> &Self {
        run(
            "umoci",
            &["insert", "--image", &self.tagged(tag), "--whiteout", path],
        );
        self
    }

    /// Says how it is run.
    pub fn config(&self, tag: &str, flags: &[&str]) -> &Self {
        let image = self.tagged(tag);
        run("umoci", &[&["config", "--image", &image], flags].concat());
        self
    }

    /// Copies an image to wherever skopeo can.
    pub fn copy(&self, tag: &str, to: &str) {
        let from = format!("oci:{}", self.tagged(tag));
        run(
            "skopeo",
            &["copy", "-q", "--dest-tls-verify=false", &from, to],
        );
    }

    pub fn reference(&self, tag: &str) -> ImageRef {
        format!("oci-layout:{}", self.tagged(tag)).parse().unwrap()
    }
}

/// A running docker-registry.
pub struct Registry {
    child: Child,
    dir: PathBuf,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl Registry {
    pub async fn start(dir: PathBuf) -> Self {
        Self::start_with(dir, "").await
    }

    pub async fn start_with(dir: PathBuf, more: &str) -> Self {
        std::fs::create_dir(&dir).unwrap();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n{more}\n",
            dir.join("storage").display()
        );
        std::fs::write(dir.join("config.yml"), config).unwrap();
        let log = |name| Stdio::from(std::fs::File::create(dir.join(name)).unwrap());
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.join("config.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log("requests"))
            .stderr(log("log"))
            .spawn()
            .expect("docker-registry is installed by `cargo xtask test`");
        let mut registry = Self {
            child,
            dir,
            address: String::new(),
        };
        eventually("the registry listens", || {
            let log = std::fs::read_to_string(registry.dir.join("log")).unwrap();
            let port = log.split("listening on ").nth(1);
            let port = port.and_then(|rest| rest.split('"').next());
            registry.address = port.unwrap_or_default().to_owned();
            !registry.address.is_empty()
        })
        .await;
        registry
    }

    pub fn push(&self, layout: &Layout, tag: &str, name: &str) -> ImageRef {
        layout.copy(tag, &format!("docker://{}/{name}", self.address));
        self.reference(name)
    }

    pub fn reference(&self, name: &str) -> ImageRef {
        format!("{}/{name}", self.address).parse().unwrap()
    }

    /// How often something was got: requests whose line has all of these words.
    pub fn requests(&self, words: &[&str]) -> usize {
        let log = std::fs::read_to_string(self.dir.join("requests")).unwrap();
        let lines = log.lines().filter(|line| line.contains("\"GET "));
        lines
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .count()
    }

    /// Where the registry keeps the bytes of a blob.
    pub fn blob(&self, hex: &str) -> PathBuf {
        let blobs = self.dir.join("storage/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// It speaks plain HTTP, and tests do not wait for long.
    pub fn config(&self) -> ImagesConfig {
        plain([&*self.address])
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// These are spoken to in plain HTTP.
pub fn plain<'a>(places: impl IntoIterator<Item = &'a str>) -> ImagesConfig {
    ImagesConfig {
        insecure: places.into_iter().map(str::to_owned).collect(),
        pause: Duration::from_millis(10),
        ..ImagesConfig::default()
    }
}

/// Pulls by the default policy.
pub async fn pull_any(images: &Images, image: &ImageRef) -> Result<Pulled, ImageError> {
    images
        .pull(image, PullPolicy::IfNotPresent, |_: Progress| {})
        .await
}

/// Pulls what has layers.
pub async fn pull(images: &Images, image: &ImageRef) -> Result<Image, ImageError> {
    let pulled = pull_any(images, image).await?;
    Ok(pulled.image().expect("an image with layers"))
}

/// The code of an error that there must be.
pub fn code<T: std::fmt::Debug>(result: Result<T, ImageError>) -> &'static str {
    result.unwrap_err().code()
}
