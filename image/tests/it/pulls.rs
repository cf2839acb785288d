//! Images by tag, digest, folder and mirror.

use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use futures::future::join_all;
use tepui_image::{Image, Images, ImagesConfig, Progress, RegistryConfig, Secret};
use tepui_types::Digest;
use tepui_types::image::{ImageRef, PullPolicy};

use crate::fixture::{Registry, World, code, plain, pull};

async fn pull_with(images: &Images, image: &ImageRef, policy: PullPolicy) -> Image {
    let pulled = images.pull(image, policy, |_| {}).await.unwrap();
    pulled.image().unwrap()
}

#[tokio::test]
async fn an_image_by_tag_has_its_layers_and_says_how_it_is_run() {
    let world = World::new();
    let registry = Registry::start(world.path("registry")).await;
    let layout = world.layout("layout");
    layout
        .busybox("a")
        .file("a", "/etc/greeting", "hello")
        .config(
            "a",
            &[
                "--config.entrypoint=/bin/busybox",
                "--config.cmd=sh",
                "--config.cmd=-c",
                "--config.env=A=b c",
                "--config.user=7:8",
                "--config.workingdir=/srv",
                "--config.stopsignal=SIGINT",
                "--config.volume=/data",
                "--config.exposedports=80/tcp",
                "--config.label=x=y",
            ],
        );
    let image = registry.push(&layout, "a", "some/where:1.0");
    let images = world.open(registry.config()).await;
    let seen = Mutex::new(Vec::new());
    let pulled = images
        .pull(&image, PullPolicy::IfNotPresent, |progress| {
            seen.lock().unwrap().push(progress)
        })
        .await;
    let pulled = pulled.unwrap().image().unwrap();

    assert_eq!(pulled.layers.len(), 2, "base first");
    let greeting = pulled.layers[1].join("etc/greeting");
    assert_eq!(std::fs::read(greeting).unwrap(), b"hello");
    assert!(pulled.layers[0].join("bin/busybox").exists());
    let config = &pulled.config;
    assert_eq!(config.entrypoint, ["/bin/busybox"]);
    assert_eq!(config.cmd, ["sh", "-c"]);
    assert!(config.env.contains(&"A=b c".to_owned()), "{:?}", config.env);
    assert_eq!(config.user.as_deref(), Some("7:8"));
    assert_eq!(config.working_dir.as_deref(), Some("/srv"));
    assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(config.volumes, ["/data"]);
    assert_eq!(config.exposed_ports, ["80/tcp"]);
    assert_eq!(config.labels["x"], "y");
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.first(), Some(&Progress::Resolving));
    assert_eq!(seen.last(), Some(&Progress::Done));
    assert!(
        seen.iter()
            .any(|at| matches!(at, Progress::Unpacking { .. })),
        "{seen:?}"
    );
    assert!(world.list("drafts").is_empty());
    let folder = std::fs::metadata(world.images()).unwrap().permissions();
    assert_eq!(
        folder.mode() & 0o777,
        0o700,
        "nobody else reaches what layers hold"
    );
}

#[tokio::test]
async fn layers_may_be_compressed_with_zstd_and_docker_may_have_made_them() {
    let world = World::new();
    let registry = Registry::start(world.path("registry")).await;
    let layout = world.layout("layout");
    layout.busybox("a");
    let from = format!("oci:{}:a", layout.folder.display());
    let layer = |image: &Image| {
        image.layers[0]
            .parent()
            .unwrap()
            .file_name()
            .unwrap()
            .to_owned()
    };
    let images = world.open(registry.config()).await;
    let plain = layer(&pull(&images, &layout.reference("a")).await.unwrap());
    for (name, flags) in [
        ("zstd", &["--dest-compress-format=zstd", "--format=oci"][..]),
        ("docker", &["--format=v2s2"]),
    ] {
        let to = format!("docker://{}/x:{name}", registry.address);
        let all = [
            &["copy", "-q", "--dest-tls-verify=false"],
            flags,
            &[&from, &to],
        ]
        .concat();
        crate::fixture::run("skopeo", &all);
        let images = Images::open(world.path(name), registry.config())
            .await
            .unwrap();
        let image = registry.reference(&format!("x:{name}"));
        let pulled = pull(&images, &image).await.unwrap();
        assert_eq!(layer(&pulled), plain, "{name}: it unpacks to the same");
        assert!(pulled.layers[0].join("bin/busybox").exists(), "{name}");
    }
}

#[tokio::test]
async fn what_a_tag_means_is_asked_when_the_policy_says_so() {
    let world = World::new();
    let registry = Registry::start(world.path("registry")).await;
    let layout = world.layout("layout");
    layout.busybox("a");
    let image = registry.push(&layout, "a", "x:latest");
    let images = world.open(registry.config()).await;
    let missing = images.pull(&image, PullPolicy::Never, |_| {}).await;
    assert_eq!(code(missing), "image-not-present");
    let old = pull(&images, &image).await.unwrap();

    layout.file("a", "/new", "x");
    registry.push(&layout, "a", "x:latest");
    let before = registry.requests(&[]);
    assert_eq!(pull(&images, &image).await.unwrap().digest, old.digest);
    let here = pull_with(&images, &image, PullPolicy::Never).await;
    assert_eq!(here.digest, old.digest);
    assert_eq!(registry.requests(&[]), before, "nobody is asked");
    let new = pull_with(&images, &image, PullPolicy::Always).await;
    assert_eq!(new.layers.len(), 2);
    assert_eq!(
        new.layers[0], old.layers[0],
        "what is here is not sent again"
    );
    assert_eq!(pull(&images, &image).await.unwrap().digest, new.digest);

    // The same after a restart.
    drop(images);
    let images = world.open(registry.config()).await;
    let here = pull_with(&images, &image, PullPolicy::Never).await;
    assert_eq!(here.digest, new.digest);
    assert_eq!(here.config, new.config);
    assert!(
        images.get(&old.digest).is_some(),
        "the image of before is here too"
    );
}

#[tokio::test]
async fn an_image_by_digest_is_that_image_or_none() {
    let world = World::new();
    let registry = Registry::start(world.path("registry")).await;
    let layout = world.layout("layout");
    layout.busybox("a");
    let image = registry.push(&layout, "a", "x:1");
    let images = world.open(registry.config()).await;
    let digest = pull(&images, &image).await.unwrap().digest;

    let pinned = registry.reference(&format!("x@{digest}"));
    let pulled = pull_with(&images, &pinned, PullPolicy::Always).await;
    assert_eq!(pulled.digest, digest);
    let before = registry.requests(&[]);
    images
        .pull(&pinned, PullPolicy::Always, |_| {})
        .await
        .unwrap();
    assert_eq!(
        registry.requests(&[]),
        before,
        "a digest never means anything else"
    );

    let other = Digest::of(b"other");
    for name in [format!("x@{other}"), "x:2".to_owned(), "y:1".to_owned()] {
        let error = pull(&images, &registry.reference(&name)).await.unwrap_err();
        assert_eq!(error.code(), "image-unknown", "{error}");
        assert!(!error.retryable());
    }
}

#[tokio::test]
async fn a_layout_folder_gives_the_image_of_a_tag_or_its_only_one() {
    let world = World::new();
    let layout = world.layout("layout");
    layout.busybox("a");
    let images = world.open(ImagesConfig::default()).await;
    let folder = layout.folder.display();
    let only: ImageRef = format!("oci-layout:{folder}").parse().unwrap();
    let a = pull(&images, &layout.reference("a")).await.unwrap();
    assert_eq!(pull(&images, &only).await.unwrap().digest, a.digest);
    layout.busybox("b").file("b", "/b", "b");
    let error = images
        .pull(&only, PullPolicy::Always, |_| {})
        .await
        .unwrap_err();
    assert!(error.to_string().contains("a, b"), "{error}");
    let b = pull(&images, &layout.reference("b")).await.unwrap();
    assert_eq!(b.layers[0], a.layers[0]);
    assert_eq!(
        code(pull(&images, &layout.reference("c")).await),
        "image-unknown"
    );
    let nowhere: ImageRef = format!("oci-layout:{folder}/nowhere").parse().unwrap();
    assert_eq!(code(pull(&images, &nowhere).await), "image-unknown");
}

#[tokio::test]
async fn pulls_at_once_are_one_and_each_caller_hears_of_it() {
    let world = World::new();
    let registry = Registry::start(world.path("registry")).await;
    let layout = world.layout("layout");
    layout
        .busybox("a")
        .file("a", "/a", "a")
        .busybox("b")
        .file("b", "/b", "b");
    let names = [
        registry.push(&layout, "a", "a:1"),
        registry.push(&layout, "b", "b:1"),
    ];
    let images = world.open(registry.config()).await;
    let pulls = (0..8).map(|number| {
        let (images, name) = (images.clone(), names[number % 2].clone());
        async move {
            let seen = Mutex::new(Vec::new());
            let see = |progress| seen.lock().unwrap().push(progress);
            let pulled = images.pull(&name, PullPolicy::Always, see).await;
            let image = pulled.unwrap().image().unwrap();
            (image, seen.into_inner().unwrap())
        }
    });
    let pulled = join_all(pulls).await;
    for (image, seen) in &pulled {
        assert_eq!(image.layers.len(), 2);
        assert_eq!(seen.first(), Some(&Progress::Resolving));
        assert_eq!(seen.last(), Some(&Progress::Done));
    }
    // Two manifests, two configurations, and three layers of which one is in both images.
    assert_eq!(registry.requests(&["/manifests/"]), 2);
    assert_eq!(registry.requests(&["/blobs/"]), 5);
    assert_eq!(world.list("layers").len(), 3);
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_the_registry_itself_last() {
    let world = World::new();
    let mirror = Registry::start(world.path("mirror")).await;
    let registry = Registry::start(world.path("registry")).await;
    let layout = world.layout("layout");
    layout
        .busybox("a")
        .file("a", "/a", "a")
        .busybox("b")
        .file("b", "/b", "b");
    mirror.push(&layout, "a", "proxy/x:a");
    let only_there = registry.push(&layout, "b", "x:b");
    let in_mirror = registry.reference("x:a");

    let mut config = plain([&*mirror.address, &registry.address, "127.0.0.1:1"]);
    let mirrors = vec![
        "127.0.0.1:1/x".to_owned(),
        format!("{}/proxy", mirror.address),
    ];
    let entry = RegistryConfig {
        mirrors,
        ..RegistryConfig::default()
    };
    config.registries.insert(registry.address.clone(), entry);
    let images = world.open(config).await;
    pull(&images, &in_mirror).await.unwrap();
    assert_eq!(registry.requests(&["/x/"]), 0);
    pull(&images, &only_there).await.unwrap();
    assert!(registry.requests(&["/x/"]) > 0);
    let neither = registry.reference("x:c");
    assert_eq!(code(pull(&images, &neither).await), "image-unknown");
}

#[tokio::test]
async fn a_registry_with_a_password_wants_it() {
    let world = World::new();
    // `me` and `secret`.
    let users = "me:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";
    std::fs::write(world.path("users"), users).unwrap();
    let more = format!(
        "auth: {{htpasswd: {{realm: x, path: '{}'}}}}",
        world.path("users").display()
    );
    let registry = Registry::start_with(world.path("registry"), &more).await;
    let layout = world.layout("layout");
    layout.busybox("a");
    let from = format!("oci:{}:a", layout.folder.display());
    let to = format!("docker://{}/x:1", registry.address);
    let credentials = "--dest-creds=me:secret";
    let flags = [
        "copy",
        "-q",
        "--dest-tls-verify=false",
        credentials,
        &from,
        &to,
    ];
    crate::fixture::run("skopeo", &flags);

    let image = registry.reference("x:1");
    let with = |password: Option<&str>| {
        let mut config = registry.config();
        let entry = RegistryConfig {
            username: Some("me".into()),
            password: password.map(Secret::new),
            ..RegistryConfig::default()
        };
        config.registries.insert(registry.address.clone(), entry);
        config
    };
    for config in [registry.config(), with(None), with(Some("wrong"))] {
        let shown = format!("{config:?}");
        assert!(!shown.contains("wrong"), "no log shows a password");
        let error = pull(&world.open(config).await, &image).await.unwrap_err();
        assert_eq!(error.code(), "image-unauthorized", "{error}");
        assert!(!error.retryable());
    }
    let images = world.open(with(Some("secret"))).await;
    assert_eq!(pull(&images, &image).await.unwrap().layers.len(), 1);
}
