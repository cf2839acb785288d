//! Images for other machines, and what is no image.

use tepui_image::ImagesConfig;
use tepui_types::image::ImageRef;

use crate::fixture::{Registry, World, code, pull, run};
use crate::handmade::{CONFIG, Handmade, TAR, config, host, layer};

#[tokio::test]
async fn an_image_for_other_machines_is_refused_and_of_several_ours_is_taken() {
    let world = World::new();
    let mut layout = Handmade::new(world.path("layout"));
    let (ours, theirs) = (layer("ours", b"x"), layer("theirs", b"x"));
    let image = |architecture: &str, layer: &[u8]| {
        let config = config(architecture, &[layer]);
        layout.manifest((CONFIG, &config), &[(TAR, layer)])
    };
    let (our_image, their_image) = (image(host(), &ours), image("s390x", &theirs));
    let lying = image("s390x", &ours);
    let both = [
        (their_image.clone(), "linux", "s390x"),
        (our_image, "linux", host()),
    ];
    let both = layout.index(&both);
    let other = layout.index(&[(their_image.clone(), "linux", "s390x")]);
    let nested = layout.index(&[(both.clone(), "linux", host())]);
    let liar = layout.index(&[(lying, "linux", host())]);
    for (tag, descriptor) in [
        ("theirs", &their_image),
        ("both", &both),
        ("other", &other),
        ("nested", &nested),
        ("liar", &liar),
    ] {
        layout.tag(tag, descriptor);
    }
    let registry = Registry::start(world.path("registry")).await;
    let images = world.open(registry.config()).await;
    for (tag, found) in [
        ("theirs", "linux/s390x"),
        ("other", "linux/s390x"),
        ("liar", "s390x"),
    ] {
        let error = pull(&images, &layout.reference(tag)).await.unwrap_err();
        assert_eq!(error.code(), "image-architecture", "{error}");
        assert!(error.to_string().contains(found), "{error}");
        assert!(!error.retryable());
    }
    for tag in ["both", "nested"] {
        let pulled = pull(&images, &layout.reference(tag)).await.unwrap();
        assert!(pulled.layers[0].join("ours").exists(), "{tag}");
    }
    // The same from a registry, which has the index under the tag.
    let from = format!("oci:{}:both", layout.folder.display());
    let to = format!("docker://{}/x:both", registry.address);
    run(
        "skopeo",
        &["copy", "-q", "--all", "--dest-tls-verify=false", &from, &to],
    );
    let pulled = pull(&images, &registry.reference("x:both")).await.unwrap();
    assert!(pulled.layers[0].join("ours").exists());
}

#[tokio::test]
async fn images_that_are_not_what_they_say_are_refused_and_leave_nothing() {
    let world = World::new();
    let mut layout = Handmade::new(world.path("layout"));
    let good = layer("a", b"x");
    let mut climbing = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..9].copy_from_slice(b"../secret");
    header.set_size(0);
    header.set_mode(0o644);
    header.set_cksum();
    climbing.append(&header, &b""[..]).unwrap();
    let climbing = climbing.into_inner().unwrap();
    let other = config(host(), &[&layer("b", b"x")]);
    let none = config(host(), &[]);
    let cases: [(&str, String); 6] = [
        (
            "diff-id",
            layout.manifest((CONFIG, &other), &[(TAR, &good)]),
        ),
        ("count", layout.manifest((CONFIG, &none), &[(TAR, &good)])),
        (
            "config",
            layout.manifest((CONFIG, "no JSON"), &[(TAR, &good)]),
        ),
        (
            "climbing",
            layout.manifest((CONFIG, &config(host(), &[&climbing])), &[(TAR, &climbing)]),
        ),
        (
            "text",
            layout.manifest((CONFIG, &config(host(), &[b"text"])), &[(TAR, b"text")]),
        ),
        (
            "kind",
            layout.manifest(
                (CONFIG, &config(host(), &[b"text"])),
                &[("text/plain", b"text")],
            ),
        ),
    ];
    let images = world.open(ImagesConfig::default()).await;
    for (tag, descriptor) in cases {
        let image: ImageRef = layout.tag(tag, &descriptor);
        assert_eq!(code(pull(&images, &image).await), "image-invalid", "{tag}");
        assert!(world.list("layers").is_empty(), "{tag}");
        assert!(world.list("drafts").is_empty(), "{tag}");
        assert!(world.list("names").is_empty(), "{tag}");
    }
}

#[tokio::test]
async fn a_layout_whose_blob_is_damaged_or_missing_is_refused() {
    let world = World::new();
    let layout = world.layout("layout");
    layout.busybox("a");
    let images = world.open(ImagesConfig::default()).await;
    let blobs = layout.folder.join("blobs/sha256");
    let layer = std::fs::read_dir(&blobs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .max_by_key(|path| std::fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(&layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&layer, &bytes).unwrap();
    assert_eq!(
        code(pull(&images, &layout.reference("a")).await),
        "image-invalid"
    );
    std::fs::remove_file(&layer).unwrap();
    assert_eq!(
        code(pull(&images, &layout.reference("a")).await),
        "image-invalid"
    );
    assert!(world.list("layers").is_empty());
}
