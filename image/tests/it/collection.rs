//! What goes, and what stays.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tepui_image::{Images, ImagesConfig, Retention};
use tepui_types::Digest;

use crate::fixture::{Layout, World, pull};
use crate::handmade::{CONFIG, Handmade, TAR, config, host};

const NOTHING: Retention = Retention {
    max_age: None,
    most_bytes: Some(0),
};

/// When the least recently used of all was used.
fn oldest(images: &Images) -> SystemTime {
    let sizes = images.sizes();
    sizes
        .images
        .iter()
        .map(|image| image.last_used)
        .min()
        .unwrap()
}

async fn collect(images: &Images, keep: &[Digest], retention: Retention) -> Vec<Digest> {
    let keep: HashSet<Digest> = keep.iter().copied().collect();
    let now = oldest(images);
    images.collect(&keep, retention, now).await.unwrap().images
}

/// `a` and `b` share a layer, `c` has its own.
fn three(world: &World) -> Layout {
    let layout = world.layout("layout");
    layout
        .busybox("a")
        .file("a", "/a", "a")
        .busybox("b")
        .file("b", "/b", "b");
    layout.image("c").file("c", "/c", "c");
    layout
}

async fn digest(images: &Images, layout: &Layout, tag: &str) -> Digest {
    pull(images, &layout.reference(tag)).await.unwrap().digest
}

#[tokio::test]
async fn least_recently_used_images_go_first_and_shared_layers_last() {
    let world = World::new();
    let layout = three(&world);
    let images = world.open(ImagesConfig::default()).await;
    let a = digest(&images, &layout, "a").await;
    let b = digest(&images, &layout, "b").await;
    let c = digest(&images, &layout, "c").await;
    // Asked for and found here is used as well.
    digest(&images, &layout, "a").await;
    let sizes = images.sizes();
    assert_eq!((sizes.images.len(), sizes.parts), (3, 4));
    let bytes = |digest: &Digest| {
        let image = sizes.images.iter().find(|image| image.digest == *digest);
        image.unwrap().bytes
    };
    assert!(
        sizes.bytes < bytes(&a) + bytes(&b) + bytes(&c),
        "the shared layer counts once"
    );
    assert_eq!(sizes.images[0].names.len(), 1);

    let everything = Retention {
        max_age: None,
        most_bytes: Some(sizes.bytes),
    };
    assert_eq!(collect(&images, &[], everything).await, []);
    let a_little_less = Retention {
        max_age: None,
        most_bytes: Some(sizes.bytes - 1),
    };
    assert_eq!(collect(&images, &[], a_little_less).await, [b]);
    assert_eq!(
        world.list("layers").len(),
        3,
        "the layer that a needs as well stays"
    );
    assert!(images.get(&b).is_none());
    assert_eq!(collect(&images, &[a], NOTHING).await, [c]);
    assert_eq!(world.list("layers").len(), 2);
    assert_eq!(world.list("names").len(), 1);
    drop(images);

    let images = world.open(ImagesConfig::default()).await;
    assert_eq!(
        images.sizes().images.len(),
        1,
        "what went is gone after a restart"
    );
    assert_eq!(collect(&images, &[], NOTHING).await, [a]);
    for folder in ["layers", "images", "names", "drafts"] {
        assert!(world.list(folder).is_empty(), "{folder}");
    }
    assert_eq!(
        digest(&images, &layout, "a").await,
        a,
        "and can be pulled again"
    );
}

#[tokio::test]
async fn images_that_were_not_used_for_long_go() {
    let world = World::new();
    let layout = three(&world);
    let images = world.open(ImagesConfig::default()).await;
    let c = digest(&images, &layout, "c").await;
    let retention = Retention {
        max_age: Some(Duration::from_secs(60)),
        most_bytes: None,
    };
    let used = oldest(&images);
    let none = HashSet::new();
    for (after, gone) in [(0, vec![]), (60, vec![]), (61, vec![c])] {
        let now = used + Duration::from_secs(after);
        let collected = images.collect(&none, retention, now).await.unwrap();
        assert_eq!(collected.images, gone, "{after} s");
    }
}

/// A layer whose links lead deeper and deeper into it, with folders made where they end.
fn deep_layer() -> Vec<u8> {
    // Together more than a process may commonly have descriptors, for a folder each.
    const LINKS: usize = 8;
    const FOLDERS: usize = 250;
    let mut layer = tar::Builder::new(Vec::new());
    let folders = "d/".repeat(FOLDERS);
    let mut above = String::new();
    for link in 0..LINKS {
        let deeper = format!("{above}{folders}");
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(0o755);
        layer.append_data(&mut header, &deeper, &b""[..]).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer
            .append_link(&mut header, format!("l{link}"), &deeper)
            .unwrap();
        above = format!("l{link}/");
    }
    layer.into_inner().unwrap()
}

#[tokio::test]
async fn an_image_goes_however_deep_its_folders_are() {
    let world = World::new();
    let mut layout = Handmade::new(world.path("layout"));
    let layer = deep_layer();
    let config = config(host(), &[&layer]);
    let descriptor = layout.manifest((CONFIG, &config), &[(TAR, &layer)]);
    let image = layout.tag("deep", &descriptor);
    let images = world.open(ImagesConfig::default()).await;
    let digest = pull(&images, &image).await.unwrap().digest;
    // As most machines have it.
    let limit = getrlimit(Resource::Nofile);
    let common = Rlimit {
        current: Some(1024),
        ..limit
    };
    setrlimit(Resource::Nofile, common).unwrap();
    let collected = collect(&images, &[], NOTHING).await;
    setrlimit(Resource::Nofile, limit).unwrap();
    assert_eq!(collected, [digest]);
    for folder in ["layers", "drafts"] {
        assert!(world.list(folder).is_empty(), "{folder}");
    }
}

#[tokio::test]
async fn what_is_held_or_being_pulled_stays() {
    let world = World::new();
    let layout = three(&world);
    let images = world.open(ImagesConfig::default()).await;
    let held = pull(&images, &layout.reference("a")).await.unwrap();
    let again = held.clone();
    let b = digest(&images, &layout, "b").await;
    assert_eq!(collect(&images, &[], NOTHING).await, [b]);
    drop(held);
    assert_eq!(
        collect(&images, &[], NOTHING).await,
        [],
        "a clone holds it too"
    );
    assert!(again.layers.iter().all(|layer| layer.exists()));
    assert!(images.sizes().images[0].held);

    // Collecting without pause while images come and go takes nothing from under a pull.
    let collecting = tokio::spawn({
        let images = images.clone();
        async move {
            loop {
                let now = SystemTime::UNIX_EPOCH;
                images.collect(&HashSet::new(), NOTHING, now).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    for round in 0..10 {
        for tag in ["b", "c", "a"] {
            let image = pull(&images, &layout.reference(tag)).await.unwrap();
            let is_there = image
                .layers
                .iter()
                .all(|layer| layer.join("..").join("tree").exists());
            assert!(is_there, "{tag} in round {round}");
        }
    }
    collecting.abort();
    let _ = collecting.await;
    drop(again);
    collect(&images, &[], NOTHING).await;
    assert!(world.list("layers").is_empty());
}
