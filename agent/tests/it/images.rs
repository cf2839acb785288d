//! An image as Debian's tools make it: umoci, around busybox-static.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A layout folder with one image, tagged `shell`, whose command says hello.
pub struct ImageLayout {
    place: TempDir,
}

impl ImageLayout {
    pub fn make() -> Self {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("files");
        std::fs::create_dir_all(root.join("bin")).unwrap();
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static");
        for tool in [
            "sh", "echo", "cat", "sleep", "ip", "nc", "wget", "touch", "httpd",
        ] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(tool)).unwrap();
        }
        let this = Self { place };
        let layout = this.path();
        umoci(&["init", "--layout", text(&layout)]);
        let image = format!("{}:shell", layout.display());
        umoci(&["new", "--image", &image]);
        umoci(&["insert", "--image", &image, text(&root), "/"]);
        let command = [
            "--config.cmd",
            "sh",
            "--config.cmd",
            "-c",
            "--config.cmd",
            "echo hello",
        ];
        umoci(&[&["config", "--image", &image][..], &command].concat());
        this
    }

    /// The folder.
    pub fn path(&self) -> PathBuf {
        self.place.path().join("layout")
    }

    /// What tasks name it by.
    pub fn name(&self) -> String {
        format!("oci-layout:{}:shell", self.path().display())
    }

    /// The same image with another configuration, which umoci's flags say, and what tasks name it by.
    pub fn configured(&self, tag: &str, flags: &[&str]) -> String {
        let image = format!("{}:shell", self.path().display());
        umoci(&[&["config", "--image", &image, "--tag", tag], flags].concat());
        format!("oci-layout:{}:{tag}", self.path().display())
    }

    /// The same as an archive.
    pub fn archive(&self) -> Vec<u8> {
        let archive = self.place.path().join("image.tar");
        run(Command::new("skopeo")
            .arg("copy")
            .arg(format!("oci:{}:shell", self.path().display()))
            .arg(format!("oci-archive:{}:shell", archive.display())));
        std::fs::read(archive).unwrap()
    }
}

fn umoci(arguments: &[&str]) {
    run(Command::new("umoci").args(arguments));
}

/// Runs it, and shows what it said where it fails.
pub fn run(command: &mut Command) {
    let output = command.output().expect("the tool is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
