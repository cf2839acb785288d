//! Files of the machine.

use std::fs;
use std::os::unix::fs::symlink;

use tepui_fetch::{Item, Source};

use crate::site::{Site, list, url};

#[tokio::test]
async fn files_come_from_allowed_folders_alone() {
    let site = Site::new().await;
    let at = |name: &str| format!("file://{}", site.path(name).display());
    fs::write(site.path("allowed/a"), "abc").unwrap();
    symlink(site.path("allowed/a"), site.path("to-inside")).unwrap();
    symlink(site.path("outside"), site.path("allowed/to-outside")).unwrap();
    for name in ["allowed/a", "to-inside", "allowed/../allowed/a"] {
        let item = Item {
            destination: Some("x".into()),
            ..url(at(name))
        };
        site.fetch(item).await.unwrap();
        assert_eq!(site.read("x"), "abc");
    }
    for name in [
        "outside",
        "allowed/to-outside",
        "allowed/../outside",
        "nowhere",
    ] {
        let error = site.fetch(url(at(name))).await.unwrap_err();
        assert_eq!(error.code(), "fetch-outside", "{error}");
        assert!(error.to_string().contains("file_folders"), "{error}");
    }
    let error = site.fetch(url(at("allowed/none"))).await.unwrap_err();
    assert_eq!(error.code(), "fetch-not-found");
    assert_eq!(list(&site.sandbox()), ["x"]);
    assert_eq!(
        fs::read(site.path("allowed/a")).unwrap(),
        b"abc",
        "it is a copy"
    );
}

#[tokio::test]
async fn what_is_no_file_is_refused() {
    let site = Site::new().await;
    fs::create_dir(site.path("allowed/folder")).unwrap();
    let pipe = site.path("allowed/pipe");
    crate::site::run("mkfifo", &site.path("allowed"), &["pipe"]);
    for path in [site.path("allowed/folder"), pipe] {
        let item = url(format!("file://{}", path.display()));
        let error = site.fetch(item).await.unwrap_err();
        assert_eq!(error.code(), "fetch-invalid", "{error}");
    }
}

#[tokio::test]
async fn what_the_agent_has_is_checked_and_stays_as_it_is() {
    let site = Site::new().await;
    let path = site.path("allowed/a");
    fs::write(&path, "abc").unwrap();
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let mut item = Item {
        sha256: Some(abc.into()),
        executable: true,
        ..Item::new(Source::Local(path.clone()))
    };
    site.fetch(item.clone()).await.unwrap();
    assert_eq!(site.read("a"), "abc");
    item.sha256 = Some(abc.replace('b', "c"));
    let error = site.fetch(item).await.unwrap_err();
    assert_eq!(error.code(), "fetch-digest-mismatch");
    assert_eq!(fs::read(&path).unwrap(), b"abc");
    assert!(site.drafts().is_empty());
}

#[tokio::test]
async fn no_link_in_a_sandbox_leads_a_file_out() {
    let site = Site::new().await;
    symlink("..", site.sandbox().join("up")).unwrap();
    symlink("../outside", site.sandbox().join("link")).unwrap();
    fs::write(site.path("allowed/a"), "abc").unwrap();
    let to = |destination: &str| Item {
        destination: Some(destination.into()),
        ..url(format!("file://{}", site.path("allowed/a").display()))
    };
    let error = site.fetch(to("up/outside")).await.unwrap_err();
    assert_eq!(error.code(), "fetch-outside", "{error}");
    site.fetch(to("link")).await.unwrap();
    assert_eq!(site.read("link"), "abc", "the link was replaced");
    assert_eq!(fs::read(site.path("outside")).unwrap(), b"outside");
}
