//! Disks that are full, processes that are killed, callers that go away.

use std::process::{Command, Stdio};

use tepui_image::{Images, ImagesConfig};
use tepui_types::image::{ImageRef, PullPolicy};

use crate::fixture::{World, code, eventually, plain, pull};
use crate::odd_server::{Answer, OddServer, Request, good, is_layer};
use crate::overlay::Mounted;

/// A registry that stops in the middle of each layer.
async fn stuck(world: &World) -> OddServer {
    let folder = world.layout("layout").busybox("a").folder.clone();
    OddServer::start(move |request: &Request, _| match good(&folder, request) {
        Answer::Body(bytes) if is_layer(&folder, request) => Answer::Stall(bytes, 50_000),
        answer => answer,
    })
    .await
}

fn image(server: &OddServer) -> ImageRef {
    format!("{}/x:1", server.address).parse().unwrap()
}

#[tokio::test]
async fn a_full_disk_is_said_and_leaves_nothing() {
    let world = World::new();
    let layout = world.layout("layout");
    layout.busybox("a");
    let _disk = Mounted::small_disk(world.images());
    let images = world.open(ImagesConfig::default()).await;
    let error = pull(&images, &layout.reference("a")).await.unwrap_err();
    assert_eq!(error.code(), "image-disk-full", "{error}");
    assert!(error.retryable());
    assert!(world.list("drafts").is_empty());
    assert!(world.list("layers").is_empty());
}

#[tokio::test]
async fn what_a_killed_process_left_is_removed_and_pulled_anew() {
    let world = World::new();
    let server = stuck(&world).await;
    // Beside the test's own program, where Cargo builds examples.
    let program = std::env::current_exe().unwrap();
    let program = program
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/pull");
    let mut child = Command::new(&program)
        .arg(world.images())
        .args([image(&server).as_str(), &server.address])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let drafts = world.images().join("drafts");
    let is_under_way = || {
        let entries = std::fs::read_dir(&drafts).into_iter().flatten().flatten();
        entries
            .into_iter()
            .any(|entry| entry.metadata().is_ok_and(|file| file.len() > 0))
    };
    eventually("a layer is being fetched", is_under_way).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_under_way(), "a killed process leaves its draft");
    // As a killed unpacking would.
    std::fs::create_dir_all(drafts.join("7/tree/bin")).unwrap();

    let images = world.open(ImagesConfig::default()).await;
    assert!(world.list("drafts").is_empty());
    assert_eq!(images.sizes().parts, 0);
    let layout = format!("oci-layout:{}:a", world.path("layout").display());
    pull(&images, &layout.parse().unwrap()).await.unwrap();
}

#[tokio::test]
async fn damage_to_the_folder_costs_no_more_than_a_pull() {
    let world = World::new();
    let layout = world.layout("layout");
    layout.busybox("a").file("a", "/a", "a");
    let images = world.open(ImagesConfig::default()).await;
    let pulled = pull(&images, &layout.reference("a")).await.unwrap();
    let layer = pulled.layers[1].parent().unwrap().to_owned();
    drop(images);
    for damage in [
        &|| std::fs::remove_dir_all(&layer).unwrap() as (),
        &|| std::fs::write(layer.join("layer.json"), "half").unwrap(),
        &|| {
            let record = format!("images/{}.json", pulled.digest.hex());
            std::fs::write(world.images().join(record), "").unwrap();
        },
    ] as [&dyn Fn(); 3]
    {
        damage();
        let images = world.open(ImagesConfig::default()).await;
        let never = images
            .pull(&layout.reference("a"), PullPolicy::Never, |_| {})
            .await;
        assert_eq!(code(never), "image-not-present");
        let again = pull(&images, &layout.reference("a")).await.unwrap();
        assert_eq!(again.digest, pulled.digest);
        assert_eq!(std::fs::read(again.layers[1].join("a")).unwrap(), b"a");
    }
}

#[tokio::test]
async fn a_pull_ends_when_the_last_who_waits_for_it_goes() {
    let world = World::new();
    let server = stuck(&world).await;
    let images = world.open(plain([&*server.address])).await;
    let start =
        |images: Images, image: ImageRef| tokio::spawn(async move { pull(&images, &image).await });
    let first = start(images.clone(), image(&server));
    let second = start(images.clone(), image(&server));
    let has_draft = || !world.list("drafts").is_empty();
    eventually("a layer is being fetched", has_draft).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    // A third finds the work that goes on for the second.
    let third = start(images.clone(), image(&server));
    tokio::task::yield_now().await;
    assert!(has_draft());
    second.abort();
    third.abort();
    eventually("nothing is fetched any more", || !has_draft()).await;
    let layers = server.requests("/blobs/").len();
    assert_eq!(layers, 2, "a configuration and a layer, once");
}
