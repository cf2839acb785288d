//! WebAssembly that is stored as images are: CNCF's Wasm OCI Artifact layout.

use std::collections::HashSet;
use std::time::SystemTime;

use futures::future::join_all;
use tepui_image::{Component, Images, ImagesConfig, Pulled, Retention};
use tepui_types::Digest;
use tepui_types::image::{ImageRef, PullPolicy};

use crate::fixture::{Registry, World, code, pull, pull_any};
use crate::handmade::{CONFIG, Handmade, TAR, config, host, layer};

const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
const WASM: &str = "application/wasm";
const EMPTY: (&str, &str) = ("application/vnd.oci.empty.v1+json", "{}");
/// The shortest component that there is.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

async fn component(images: &Images, image: &ImageRef) -> Component {
    let pulled = pull_any(images, image).await.unwrap();
    pulled.component().expect("a component")
}

/// What `wkg` says of a component beside it.
fn wasm_config() -> String {
    let digest = Digest::of(COMPONENT);
    format!(r#"{{"os":"wasip2","architecture":"wasm","layerDigests":["{digest}"]}}"#)
}

#[tokio::test]
async fn a_component_is_handed_out_as_its_file() {
    let world = World::new();
    let registry = Registry::start(world.path("registry")).await;
    let mut layout = Handmade::new(world.path("layout"));
    let descriptor = layout.manifest((WASM_CONFIG, &wasm_config()), &[(WASM, COMPONENT)]);
    let local = layout.tag("a", &descriptor);
    layout.copy("a", &format!("docker://{}/x:a", registry.address));
    let remote = registry.reference("x:a");
    for (folder, image) in [("one", &local), ("two", &remote)] {
        let open = || Images::open(world.path(folder), registry.config());
        let images = open().await.unwrap();
        let pulled = component(&images, image).await;
        assert_eq!(std::fs::read(&pulled.path).unwrap(), COMPONENT);
        assert_eq!(pulled.wasm, Digest::of(COMPONENT));
        assert_eq!(pulled.bytes, COMPONENT.len() as u64);
        drop(images);
        let images = open().await.unwrap();
        let found = images.get(&pulled.digest).unwrap().component().unwrap();
        assert_eq!(found.path, pulled.path, "after a restart as well");
        let again = images.pull(image, PullPolicy::Never, |_| {}).await.unwrap();
        assert_eq!(again.digest(), pulled.digest);
    }
    assert!(
        layout.folder.join("index.json").exists(),
        "what was read in place stays there"
    );
}

#[tokio::test]
async fn artifact_type_or_layer_alone_make_a_component() {
    let world = World::new();
    let mut layout = Handmade::new(world.path("layout"));
    let images = world.open(ImagesConfig::default()).await;
    for (tag, more) in [
        ("typed", r#""artifactType":"application/wasm","#),
        ("layer", ""),
    ] {
        let descriptor = layout.artifact(more, EMPTY, &[(WASM, COMPONENT)]);
        let image = layout.tag(tag, &descriptor);
        component(&images, &image).await;
    }
    assert_eq!(world.list("images").len(), 2);
    assert_eq!(
        world.list("components").len(),
        1,
        "the same bytes are kept once"
    );
}

#[tokio::test]
async fn an_index_gives_this_machines_image_or_else_its_component() {
    let world = World::new();
    let mut layout = Handmade::new(world.path("layout"));
    let files = layer("ours", b"x");
    let image = |architecture| {
        let config = config(architecture, &[&files]);
        layout.manifest((CONFIG, &config), &[(TAR, &files)])
    };
    let (ours, theirs) = (image(host()), image("s390x"));
    let wasm = layout.manifest((WASM_CONFIG, &wasm_config()), &[(WASM, COMPONENT)]);
    let wasm = (wasm, "wasip2", "wasm");
    let both = layout.index(&[wasm.clone(), (ours, "linux", host())]);
    let other = layout.index(&[(theirs, "linux", "s390x"), wasm]);
    let (both, other) = (layout.tag("both", &both), layout.tag("other", &other));
    let images = world.open(ImagesConfig::default()).await;
    let pulled = pull(&images, &both).await.unwrap();
    assert!(pulled.layers[0].join("ours").exists());
    component(&images, &other).await;
}

#[tokio::test]
async fn a_component_comes_from_an_archive_too() {
    let world = World::new();
    let mut layout = Handmade::new(world.path("layout"));
    let descriptor = layout.manifest((WASM_CONFIG, &wasm_config()), &[(WASM, COMPONENT)]);
    layout.tag("a", &descriptor);
    let file = world.path("archive");
    layout.copy("a", &format!("oci-archive:{}", file.display()));
    let artifact = Digest::of(&std::fs::read(&file).unwrap());
    let name: ImageRef = format!("artifact:{artifact}").parse().unwrap();
    let images = world.open(ImagesConfig::default()).await;
    let pulled = images.archive(&name, &file, |_| {}).await.unwrap();
    let component = pulled.component().unwrap();
    assert_eq!(std::fs::read(&component.path).unwrap(), COMPONENT);
}

#[tokio::test]
async fn a_held_component_stays_and_goes_with_its_last_holder() {
    let world = World::new();
    let registry = Registry::start(world.path("registry")).await;
    let mut layout = Handmade::new(world.path("layout"));
    let descriptor = layout.manifest((WASM_CONFIG, &wasm_config()), &[(WASM, COMPONENT)]);
    layout.tag("a", &descriptor);
    layout.copy("a", &format!("docker://{}/x:a", registry.address));
    let images = world.open(registry.config()).await;
    let image = registry.reference("x:a");
    let pulls = join_all((0..4).map(|_| pull_any(&images, &image))).await;
    assert_eq!(registry.requests(&["/blobs/"]), 1, "fetched once");
    let mut held: Vec<Pulled> = pulls.into_iter().map(Result::unwrap).collect();
    let collect = async || {
        let most = Retention {
            max_age: None,
            most_bytes: Some(0),
        };
        let (none, now) = (HashSet::new(), SystemTime::UNIX_EPOCH);
        images.collect(&none, most, now).await.unwrap()
    };
    assert_eq!(images.sizes().bytes, COMPONENT.len() as u64);
    let last = held.pop().unwrap().component().unwrap();
    drop(held);
    assert_eq!(collect().await.parts, 0);
    assert!(last.path.exists());
    let (digest, path) = (last.digest, last.path.clone());
    drop(last);
    assert_eq!(collect().await.images, [digest]);
    assert!(!path.exists());
    assert!(images.get(&digest).is_none());
}

#[tokio::test]
async fn components_that_are_not_what_they_say_are_refused_and_leave_nothing() {
    let world = World::new();
    let mut layout = Handmade::new(world.path("layout"));
    let config = wasm_config();
    let config = (WASM_CONFIG, &*config);
    let files = layer("a", b"x");
    let cases = [
        ("text", layout.manifest(config, &[(WASM, b"text")])),
        ("short", layout.manifest(config, &[(WASM, b"\0a")])),
        ("none", layout.manifest(config, &[])),
        ("files", layout.manifest(config, &[(TAR, &files)])),
        (
            "beside-files",
            layout.manifest(config, &[(WASM, COMPONENT), (TAR, &files)]),
        ),
        (
            "two",
            layout.manifest(config, &[(WASM, COMPONENT), (WASM, b"\0asm\x01\0\0\0")]),
        ),
    ];
    // What lies under the digest is something else.
    let other = b"\0asm\x0d\0\x01\0\0\x01\0";
    let damaged = layout.manifest(config, &[(WASM, other)]);
    let blobs = layout.folder.join("blobs/sha256");
    std::fs::write(blobs.join(Digest::of(other).hex()), COMPONENT).unwrap();
    let images = world.open(ImagesConfig::default()).await;
    for (tag, descriptor) in cases.into_iter().chain([("damaged", damaged)]) {
        let image = layout.tag(tag, &descriptor);
        assert_eq!(
            code(pull_any(&images, &image).await),
            "image-invalid",
            "{tag}"
        );
        for folder in ["components", "images", "names", "drafts"] {
            assert!(world.list(folder).is_empty(), "{tag}: {folder}");
        }
    }
}
