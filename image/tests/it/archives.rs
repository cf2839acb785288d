//! Saved images: docker-archive and oci-archive, plain and compressed.

use std::io::Write as _;

use tepui_image::ImagesConfig;
use tepui_types::Digest;
use tepui_types::image::{ImageRef, PullPolicy};

use crate::fixture::{World, code, pull};

fn artifact(bytes: &[u8]) -> ImageRef {
    format!("artifact:{}", Digest::of(bytes)).parse().unwrap()
}

#[tokio::test]
async fn archives_of_both_kinds_yield_the_image_that_was_saved() {
    let world = World::new();
    let layout = world.layout("layout");
    layout
        .busybox("a")
        .file("a", "/a", "a")
        .config("a", &["--config.cmd=/bin/busybox"]);
    let images = world.open(ImagesConfig::default()).await;
    let saved = pull(&images, &layout.reference("a")).await.unwrap();

    for kind in ["docker-archive", "oci-archive"] {
        let file = world.path(kind);
        layout.copy("a", &format!("{kind}:{}:a", file.display()));
        let plain = std::fs::read(&file).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        for bytes in [plain, gzip.finish().unwrap()] {
            let name = artifact(&bytes);
            assert_eq!(code(pull(&images, &name).await), "image-not-present");
            std::fs::write(&file, bytes).unwrap();
            let image = images.archive(&name, &file, |_| {}).await.unwrap();
            let image = image.image().unwrap();
            assert_eq!(
                image.layers, saved.layers,
                "{kind}: its layers are here already"
            );
            assert_eq!(image.config, saved.config);
            // From here on the archive is not needed.
            std::fs::remove_file(&file).unwrap();
            images.archive(&name, &file, |_| {}).await.unwrap();
            images.pull(&name, PullPolicy::Never, |_| {}).await.unwrap();
        }
    }
    assert!(world.list("drafts").is_empty());

    // Into an empty folder as well, where the layers have to come from the archive.
    let file = world.path("again");
    layout.copy("a", &format!("docker-archive:{}:a", file.display()));
    let images = tepui_image::Images::open(world.path("others"), ImagesConfig::default());
    let images = images.await.unwrap();
    let name = artifact(&std::fs::read(&file).unwrap());
    let image = images.archive(&name, &file, |_| {}).await.unwrap();
    let image = image.image().unwrap();
    assert_eq!(std::fs::read(image.layers[1].join("a")).unwrap(), b"a");
}

#[tokio::test]
async fn archives_that_hold_no_image_are_refused_and_touch_nothing() {
    let world = World::new();
    let images = world.open(ImagesConfig::default()).await;
    let mut climbing = tar::Builder::new(Vec::new());
    for name in ["../secret", "/tmp/secret", "x/../../../secret"] {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(6);
        header.set_mode(0o644);
        header.set_cksum();
        climbing.append(&header, &b"stolen"[..]).unwrap();
    }
    let mut looping = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o644);
    looping
        .append_link(&mut header, "manifest.json", "manifest.json")
        .unwrap();
    let mut empty = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(2);
    header.set_mode(0o644);
    empty
        .append_data(&mut header, "manifest.json", &b"[]"[..])
        .unwrap();
    std::fs::write(world.path("secret"), "untouched").unwrap();
    for bytes in [
        climbing.into_inner().unwrap(),
        looping.into_inner().unwrap(),
        empty.into_inner().unwrap(),
        b"no archive".to_vec(),
        Vec::new(),
    ] {
        let file = world.path("archive");
        std::fs::write(&file, &bytes).unwrap();
        let result = images.archive(&artifact(&bytes), &file, |_| {}).await;
        assert_eq!(code(result), "image-invalid");
        assert!(world.list("drafts").is_empty());
    }
    assert_eq!(std::fs::read(world.path("secret")).unwrap(), b"untouched");
}

#[tokio::test]
async fn an_archive_larger_than_the_agent_takes_is_refused() {
    let world = World::new();
    let layout = world.layout("layout");
    layout.busybox("a");
    let file = world.path("archive");
    layout.copy("a", &format!("docker-archive:{}:a", file.display()));
    let config = ImagesConfig {
        max_image_bytes: 100_000,
        ..ImagesConfig::default()
    };
    let images = world.open(config).await;
    let name = artifact(&std::fs::read(&file).unwrap());
    assert_eq!(
        code(images.archive(&name, &file, |_| {}).await),
        "image-too-large"
    );
    assert_eq!(
        code(pull(&images, &layout.reference("a")).await),
        "image-too-large"
    );
    assert!(world.list("drafts").is_empty());
    assert!(world.list("layers").is_empty());
}
