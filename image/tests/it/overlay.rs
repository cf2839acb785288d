//! Layers in an overlay: what a container would see.

use std::path::{Path, PathBuf};

use tepui_image::{Image, ImagesConfig};

use crate::fixture::{World, pull, run};

/// A mounted overlay, unmounted when it is dropped.
pub struct Mounted(PathBuf);

impl Mounted {
    fn overlay(image: &Image, at: PathBuf) -> Self {
        std::fs::create_dir(&at).unwrap();
        let layers = image.layers.iter().rev();
        let layers: Vec<&str> = layers.map(|layer| layer.to_str().unwrap()).collect();
        let options = format!("lowerdir={}", layers.join(":"));
        let arguments = [
            "-t",
            "overlay",
            "overlay",
            "-o",
            &options,
            at.to_str().unwrap(),
        ];
        run("mount", &arguments);
        Self(at)
    }

    /// A disk that is soon full.
    pub fn small_disk(at: PathBuf) -> Self {
        std::fs::create_dir(&at).unwrap();
        run(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                "size=1m",
                "tmpfs",
                at.to_str().unwrap(),
            ],
        );
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn upper_layers_hide_what_they_say_and_programs_run() {
    let world = World::new();
    let layout = world.layout("layout");
    layout
        .busybox("a")
        .file("a", "/d/kept", "below")
        .file("a", "/d/gone", "below")
        .file("a", "/o/gone", "below");
    let folder = world.path("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("new"), "above").unwrap();
    layout
        .whiteout("a", "/d/gone")
        .insert("a", &["--opaque"], &folder, "/o");

    let images = world.open(ImagesConfig::default()).await;
    let image = pull(&images, &layout.reference("a")).await.unwrap();
    assert_eq!(image.layers.len(), 6);
    let root = world.path("root");
    let _mounted = Mounted::overlay(&image, root.clone());
    assert_eq!(names(&root.join("d")), ["kept"]);
    assert_eq!(names(&root.join("o")), ["new"]);
    let said = run(
        "chroot",
        &[root.to_str().unwrap(), "/bin/busybox", "cat", "/o/new"],
    );
    assert_eq!(said, "above");
}
