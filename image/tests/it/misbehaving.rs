//! Registries that stall, lie and break off.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tepui_image::{ImagesConfig, RegistryConfig};

use crate::fixture::{Registry, World, plain, pull};
use crate::odd_server::{Answer, OddServer, Request, good, image, is_layer, layout};

fn body(answer: Answer) -> Vec<u8> {
    match answer {
        Answer::Body(bytes) => bytes,
        _ => panic!("there is no such blob"),
    }
}

/// Does not wait long for a server that is silent.
fn impatient(server: &OddServer) -> ImagesConfig {
    ImagesConfig {
        stall: Duration::from_millis(100),
        ..plain([&*server.address])
    }
}

#[tokio::test]
async fn a_download_that_broke_off_goes_on_where_it_was() {
    let world = World::new();
    let folder = layout(&world);
    let server = OddServer::start(move |request: &Request, _| {
        let answer = good(&folder, request);
        match (is_layer(&folder, request), request.from()) {
            (false, _) => answer,
            (true, None) => Answer::Cut(body(answer), 70_000),
            (true, Some(from)) => Answer::Rest(body(answer), from),
        }
    })
    .await;
    let images = world.open(plain([&*server.address])).await;
    let pulled = pull(&images, &image(&server)).await.unwrap();
    assert!(pulled.layers[0].join("bin/busybox").exists());
    let asked = server.requests("/blobs/").into_iter();
    let rests: Vec<usize> = asked.filter_map(|request| request.from()).collect();
    assert!(
        rests.len() == 1 && rests[0] > 0 && rests[0] <= 70_000,
        "{rests:?}"
    );
}

#[tokio::test]
async fn a_download_begins_anew_where_the_registry_knows_no_rest() {
    let world = World::new();
    let folder = layout(&world);
    let server = OddServer::start(move |request: &Request, before| {
        let answer = good(&folder, request);
        match is_layer(&folder, request) && before < 2 {
            true => Answer::Cut(body(answer), 70_000),
            false => answer,
        }
    })
    .await;
    let images = world.open(plain([&*server.address])).await;
    let pulled = pull(&images, &image(&server)).await.unwrap();
    assert!(pulled.layers[0].join("bin/busybox").exists());
}

#[tokio::test]
async fn a_registry_that_fails_for_a_while_is_asked_again() {
    let world = World::new();
    let folder = layout(&world);
    let server = OddServer::start(move |request: &Request, before| match before {
        0 => Answer::Status(503, String::new()),
        1 => Answer::Status(429, String::new()),
        _ => good(&folder, request),
    })
    .await;
    let images = world.open(plain([&*server.address])).await;
    pull(&images, &image(&server)).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_stalls_is_given_up() {
    for partly in [false, true] {
        let world = World::new();
        let folder = layout(&world);
        let server = OddServer::start(move |request: &Request, _| {
            let answer = good(&folder, request);
            match is_layer(&folder, request) {
                true if partly => Answer::Stall(body(answer), 1000),
                true => Answer::Silence,
                false => answer,
            }
        })
        .await;
        let images = world.open(impatient(&server)).await;
        let error = pull(&images, &image(&server)).await.unwrap_err();
        assert_eq!(error.code(), "image-unavailable", "{error}");
        assert!(error.retryable());
        assert!(error.to_string().contains("sent nothing"), "{error}");
        assert!(world.list("drafts").is_empty());
        assert!(world.list("layers").is_empty());
    }
}

#[tokio::test]
async fn a_registry_that_sends_without_end_is_cut_short() {
    let world = World::new();
    let folder = layout(&world);
    let at = AtomicUsize::new(0);
    let server = OddServer::start(move |request: &Request, _| {
        let is_blob = request.path.contains("/blobs/");
        let endless = match at.load(Ordering::Relaxed) {
            0 => request.path.contains("/manifests/"),
            1 => is_blob && !is_layer(&folder, request),
            _ => is_layer(&folder, request),
        };
        if endless {
            at.fetch_add(1, Ordering::Relaxed);
            return Answer::Endless;
        }
        good(&folder, request)
    })
    .await;
    let images = world.open(plain([&*server.address])).await;
    for what in ["manifest", "configuration", "layer"] {
        let error = pull(&images, &image(&server)).await.unwrap_err();
        assert_eq!(error.code(), "image-invalid", "{what}: {error}");
        assert!(error.to_string().contains("sends more"), "{what}: {error}");
        assert!(world.list("drafts").is_empty(), "{what}");
    }
}

#[tokio::test]
async fn bytes_that_are_not_of_their_digest_are_refused_wherever_they_come_from() {
    let world = World::new();
    let registry = Registry::start(world.path("registry")).await;
    let layout = world.layout("layout");
    layout.busybox("a");
    let image = registry.push(&layout, "a", "x:1");
    let blobs = std::fs::read_dir(layout.folder.join("blobs/sha256")).unwrap();
    let layer = blobs
        .map(|entry| entry.unwrap().path())
        .max_by_key(|path| std::fs::metadata(path).unwrap().len())
        .unwrap();
    let stored = registry.blob(layer.file_name().unwrap().to_str().unwrap());
    let mut bytes = std::fs::read(&stored).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&stored, &bytes).unwrap();
    let images = world.open(registry.config()).await;
    let error = pull(&images, &image).await.unwrap_err();
    assert_eq!(error.code(), "image-invalid");
    assert!(error.to_string().contains("in place of"), "{error}");
    assert!(world.list("layers").is_empty());
    assert!(world.list("drafts").is_empty());

    // A mirror that lies is passed over, for manifests and layers.
    let folder = layout.folder.clone();
    let good_server = OddServer::start(move |request, _| good(&folder, request)).await;
    let folder = layout.folder.clone();
    let liar = OddServer::start(move |request, _| {
        let mut bytes = body(good(&folder, request));
        if request.path.contains("sha256:") {
            bytes.iter_mut().for_each(|byte| *byte ^= 1);
        }
        Answer::Body(bytes)
    })
    .await;
    let mut config = plain([&*good_server.address, &liar.address]);
    let entry = RegistryConfig {
        mirrors: vec![liar.address.clone()],
        ..RegistryConfig::default()
    };
    config.registries.insert(good_server.address.clone(), entry);
    let images = world.open(config).await;
    let name = format!("{}/x:1", good_server.address);
    assert_eq!(
        pull(&images, &name.parse().unwrap())
            .await
            .unwrap()
            .layers
            .len(),
        1
    );
    assert!(!liar.requests("/blobs/").is_empty());
}

#[tokio::test]
async fn nobody_is_spoken_to_in_plain_http_who_is_not_listed() {
    let world = World::new();
    let folder = layout(&world);
    let server = OddServer::start(move |request: &Request, _| good(&folder, request)).await;
    let config = ImagesConfig {
        insecure: Default::default(),
        allow: vec!["127.0.0.1".parse().unwrap()],
        ..impatient(&server)
    };
    let images = world.open(config).await;
    let error = pull(&images, &image(&server)).await.unwrap_err();
    assert_eq!(error.code(), "image-unavailable", "{error}");
    assert!(server.requests("").is_empty());
}

#[tokio::test]
async fn a_mirror_that_hangs_costs_its_patience_once_a_pull() {
    let world = World::new();
    let registry = Registry::start(world.path("registry")).await;
    let layout = world.layout("layout");
    layout.busybox("a").file("a", "/a", "a");
    let image = registry.push(&layout, "a", "x:a");
    let silent = OddServer::start(|_: &Request, _| Answer::Silence).await;
    let mut config = ImagesConfig {
        stall: Duration::from_millis(500),
        ..plain([&*registry.address, &silent.address])
    };
    let entry = RegistryConfig {
        mirrors: vec![silent.address.clone()],
        ..RegistryConfig::default()
    };
    config.registries.insert(registry.address.clone(), entry);
    let pulled = pull(&world.open(config).await, &image).await.unwrap();
    assert_eq!(pulled.layers.len(), 2);
    assert_eq!(silent.requests("").len(), 1);
}
