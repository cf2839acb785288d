//! Downloads, and servers that fail, stall, lie and redirect.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use tepui_fetch::{Item, Owner, Progress};

use crate::server::{Answer, Python, Scripted};
use crate::site::{Site, list, url};

/// The sha256 of `abc`.
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

#[tokio::test]
async fn a_file_comes_from_a_real_server_with_its_name_mode_and_owner() {
    let site = Site::new().await;
    fs::write(site.path("allowed/a b"), "abc").unwrap();
    let server = Python::serve(&site.path("allowed"));
    let item = Item {
        sha256: Some(ABC.into()),
        ..url(format!("{}/a%20b?x=y", server.url))
    };
    let named = Item {
        destination: Some("bin/run".into()),
        executable: true,
        ..item.clone()
    };
    let mut request = site.request(vec![item, named]);
    request.owner = Some(Owner { uid: 7, gid: 8 });
    let said = Mutex::new(Vec::new());
    let say = |progress: Progress| said.lock().unwrap().push(progress);
    let filled = site.fetcher.fetch(&request, say).await.unwrap();
    assert_eq!(filled.bytes, 6);
    for (name, mode) in [("a b", 0o644), ("bin/run", 0o755), ("bin", 0o755)] {
        let metadata = fs::metadata(site.sandbox().join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{name}");
        use std::os::unix::fs::MetadataExt;
        assert_eq!((metadata.uid(), metadata.gid()), (7, 8), "{name}");
    }
    assert_eq!(site.read("bin/run"), "abc");
    let last = *said.lock().unwrap().last().unwrap();
    let whole = Progress {
        done: 6,
        total: Some(6),
        placed: 2,
        items: 2,
    };
    assert_eq!(last, whole);
    assert!(site.drafts().is_empty() && site.blobs().is_empty());
}

#[tokio::test]
async fn what_will_not_pass_is_asked_for_once() {
    for (status, code) in [
        (404, "fetch-not-found"),
        (410, "fetch-not-found"),
        (401, "fetch-refused"),
        (403, "fetch-refused"),
        (400, "fetch-refused"),
    ] {
        let site = Site::new().await;
        let server = Scripted::start(move |_, _| Answer::status(status)).await;
        let error = site.fetch(url(server.url("a"))).await.unwrap_err();
        assert_eq!((error.code(), server.asked()), (code, 1), "{status}");
        assert!(!error.retryable());
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_anew() {
    let site = Site::new().await;
    let server = Scripted::start(|_, before| match before {
        0 => Answer::status(503),
        1 => Answer::status(429),
        _ => Answer::body("abc"),
    })
    .await;
    site.fetch(url(server.url("a"))).await.unwrap();
    assert_eq!((site.read("a"), server.asked()), ("abc".into(), 3));

    let server = Scripted::start(|_, _| Answer::status(500)).await;
    let error = site.fetch(url(server.url("b"))).await.unwrap_err();
    assert_eq!((error.code(), server.asked()), ("fetch-unavailable", 6));
    assert_eq!(list(&site.sandbox()), ["a"]);
}

#[tokio::test]
async fn nobody_at_the_address_is_unavailable() {
    let site = Site::new().await;
    let error = site.fetch(url("http://127.0.0.1:1/a")).await.unwrap_err();
    assert_eq!(error.code(), "fetch-unavailable");
    assert!(error.retryable());
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke_off() {
    let site = Site::new().await;
    let body: Vec<u8> = (0..200_000_u32).map(|at| at as u8).collect();
    let sent = body.clone();
    let server = Scripted::start(move |head, before| match before {
        0 => Answer::body(sent.clone()).head("etag: \"1\"").cut(70_000),
        _ => {
            let from = head.split("range: bytes=").nth(1).unwrap();
            let from: usize = from.split('-').next().unwrap().parse().unwrap();
            assert!(head.contains("if-range: \"1\""));
            let rest = Answer::body(&sent[from..])
                .head(format!("content-range: bytes {from}-199999/200000"));
            rest.partial()
        }
    })
    .await;
    site.fetch(url(server.url("a"))).await.unwrap();
    assert_eq!(fs::read(site.sandbox().join("a")).unwrap(), body);
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn a_download_begins_anew_where_the_server_has_something_else_by_then() {
    let site = Site::new().await;
    let server = Scripted::start(|_, before| match before {
        0 => Answer::body(vec![1; 200_000])
            .head("etag: \"1\"")
            .cut(70_000),
        1 => Answer::body(vec![2; 200_000]).cut(70_000),
        _ => Answer::body(vec![3; 100]),
    })
    .await;
    site.fetch(url(server.url("a"))).await.unwrap();
    assert_eq!(fs::read(site.sandbox().join("a")).unwrap(), [3; 100]);
    let heads = server.heads();
    assert!(heads[1].contains("range: bytes="));
    assert!(
        !heads[2].contains("range: bytes="),
        "what has no tag is not known to be the same"
    );
}

#[tokio::test]
async fn servers_that_stall_are_given_up() {
    let site = Site::new().await;
    for cut in [0, 1000] {
        let server =
            Scripted::start(move |_, _| Answer::body(vec![0; 2000]).cut(cut).stall()).await;
        let error = site.fetch(url(server.url("a"))).await.unwrap_err();
        assert_eq!(error.code(), "fetch-unavailable");
        assert!(error.to_string().contains("nearly nothing"), "{error}");
        assert_eq!(server.asked(), 6);
    }
    assert!(site.drafts().is_empty());
}

#[tokio::test]
async fn what_is_more_than_there_is_room_for_is_not_downloaded() {
    let site = Site::with(|config| config.max_download_bytes = 1_000_000).await;
    let server = Scripted::start(|head, _| match head.contains("/endless") {
        true => Answer::endless(),
        false => Answer::body(vec![0; 100]).cut(0).stall(),
    })
    .await;
    let error = site.fetch(url(server.url("endless"))).await.unwrap_err();
    assert_eq!(error.code(), "fetch-too-large");
    assert!(error.to_string().contains("max_download_bytes"), "{error}");
    let mut request = site.request(vec![url(server.url("sized"))]);
    request.limit = 99;
    let error = site.fetcher.fetch(&request, |_| {}).await.unwrap_err();
    assert_eq!(error.code(), "fetch-too-large");
    assert!(error.to_string().contains("disk"), "{error}");
    assert_eq!(list(&site.sandbox()), [] as [&str; 0]);
}

#[tokio::test]
async fn what_has_another_digest_is_refused_and_not_asked_for_again() {
    let site = Site::new().await;
    let server = Scripted::start(|_, _| Answer::body("abd")).await;
    for cache in [false, true] {
        let item = Item {
            sha256: Some(ABC.into()),
            cache,
            ..url(server.url("a"))
        };
        let error = site.fetch(item).await.unwrap_err();
        assert_eq!(error.code(), "fetch-digest-mismatch");
        assert!(error.to_string().contains(ABC), "{error}");
    }
    assert_eq!(server.asked(), 2);
    assert_eq!(list(&site.sandbox()), [] as [&str; 0]);
    assert!(site.drafts().is_empty() && site.blobs().is_empty());
}

#[tokio::test]
async fn redirects_lead_to_servers_and_come_to_an_end() {
    let site = Site::new().await;
    let server = Scripted::start(|head, _| {
        let path = head.split(' ').nth(1).unwrap();
        match path.trim_start_matches('/').parse::<u32>() {
            Ok(0) => Answer::body("abc"),
            Ok(left) => Answer::status(302).head(format!("location: /{}", left - 1)),
            Err(_) => Answer::status(302).head("location: file:///etc/passwd"),
        }
    })
    .await;
    site.fetch(url(server.url("10"))).await.unwrap();
    assert_eq!(site.read("10"), "abc");
    for path in ["11", "file"] {
        let error = site.fetch(url(server.url(path))).await.unwrap_err();
        assert_eq!(error.code(), "fetch-redirect", "{error}");
    }
    assert_eq!(list(&site.sandbox()), ["10"]);
}

#[tokio::test]
async fn credentials_reach_the_server_and_no_message() {
    let site = Site::new().await;
    let server = Scripted::start(|head, _| match head.contains("authorization: basic") {
        true => Answer::status(404),
        false => Answer::status(401),
    })
    .await;
    let address = server.url.strip_prefix("http://").unwrap();
    let item = url(format!("http://ann:secret@{address}/a?token=secret"));
    let error = site.fetch(item).await.unwrap_err();
    assert_eq!(error.code(), "fetch-not-found");
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    let item = url("http://ann:secret@127.0.0.1:1/a?token=secret");
    let error = site.fetch(item).await.unwrap_err();
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
}

#[tokio::test]
async fn all_items_are_put_in_place_or_none() {
    let site = Site::new().await;
    let server = Scripted::start(|head, _| match head.contains("/good") {
        true => Answer::body("abc"),
        false => Answer::status(404),
    })
    .await;
    let deep = Item {
        destination: Some("a/b/c".into()),
        ..url(server.url("good"))
    };
    let items = vec![url(server.url("good")), deep, url(server.url("bad"))];
    let request = site.request(items);
    site.fetcher.fetch(&request, |_| {}).await.unwrap_err();
    assert_eq!(list(&site.sandbox()), [] as [&str; 0]);
}
