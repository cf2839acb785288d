//! What is kept, revalidated, joined, and removed.

use std::fs;
use std::sync::Arc;

use sha2::Digest;
use tepui_fetch::{FetchConfig, Fetcher, Item, Request};
use tokio::sync::Semaphore;

use crate::server::{Answer, Python, Scripted};
use crate::site::{Site, cached, list, url};

const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

#[tokio::test]
async fn what_is_kept_by_digest_is_not_asked_for_again() {
    let site = Site::new().await;
    let server = Scripted::start(|_, _| Answer::body("abc")).await;
    let item = Item {
        sha256: Some(ABC.into()),
        ..cached(server.url("a"))
    };
    site.fetch(item.clone()).await.unwrap();
    // What a task does with its file is its own affair.
    fs::write(site.sandbox().join("a"), "changed").unwrap();
    site.fetch(item.clone()).await.unwrap();
    let site = site.reopen(|_| {}).await;
    let elsewhere = Item {
        sha256: Some(ABC.into()),
        ..url("http://127.0.0.1:1/b")
    };
    site.fetch(elsewhere).await.unwrap();
    assert_eq!(server.asked(), 1);
    assert_eq!(
        (site.read("a"), site.read("b")),
        ("abc".into(), "abc".into())
    );
    assert_eq!(
        (site.blobs(), site.fetcher.kept_bytes()),
        (vec![ABC.into()], 3)
    );
}

#[tokio::test]
async fn what_is_kept_by_url_is_asked_for_whether_it_has_changed() {
    let site = Site::new().await;
    let server = Scripted::start(|head, before| match before {
        0 => Answer::body("1").head("etag: \"one\""),
        1 | 2 if head.contains("if-none-match: \"one\"") => Answer::status(304),
        _ => Answer::body("2").head("etag: \"two\""),
    })
    .await;
    site.fetch(cached(server.url("a"))).await.unwrap();
    site.fetch(cached(server.url("a"))).await.unwrap();
    let site = site.reopen(|_| {}).await;
    site.fetch(cached(server.url("a"))).await.unwrap();
    assert_eq!(site.read("a"), "1");
    site.fetch(cached(server.url("a"))).await.unwrap();
    assert_eq!((site.read("a"), server.asked()), ("2".into(), 4));
    site.fetch(cached(server.url("other"))).await.unwrap();
    let heads = server.heads();
    assert!(
        !heads[4].contains("if-none-match"),
        "another URL is another thing"
    );
}

#[tokio::test]
async fn a_real_server_says_by_time_whether_it_has_changed() {
    let site = Site::new().await;
    fs::write(site.path("allowed/a"), "abc").unwrap();
    let server = Python::serve(&site.path("allowed"));
    site.fetch(cached(format!("{}/a", server.url)))
        .await
        .unwrap();
    // As long as before, and changed in the same second: by its word it is the same.
    let time = fs::metadata(site.path("allowed/a"))
        .unwrap()
        .modified()
        .unwrap();
    fs::write(site.path("allowed/a"), "xyz").unwrap();
    let file = fs::File::options()
        .write(true)
        .open(site.path("allowed/a"))
        .unwrap();
    file.set_modified(time).unwrap();
    site.fetch(cached(format!("{}/a", server.url)))
        .await
        .unwrap();
    assert_eq!(site.read("a"), "abc");
    file.set_modified(time + std::time::Duration::from_secs(60))
        .unwrap();
    site.fetch(cached(format!("{}/a", server.url)))
        .await
        .unwrap();
    assert_eq!(site.read("a"), "xyz");
}

#[tokio::test]
async fn what_many_want_at_once_is_downloaded_once() {
    let site = Site::new().await;
    let server = Scripted::start(|_, _| Answer::body(vec![7; 3_000_000])).await;
    let mut requests = Vec::new();
    for at in 0..20 {
        let sandbox = site.path(&format!("sandbox-{at}"));
        fs::create_dir(&sandbox).unwrap();
        requests.push(Request {
            sandbox,
            ..site.request(vec![cached(server.url("a"))])
        });
    }
    // Each on a task of its own, as an agent has them.
    let site = Arc::new(site);
    let fetches = requests.into_iter().map(|request| {
        let site = site.clone();
        tokio::spawn(async move { site.fetcher.fetch(&request, |_| {}).await })
    });
    for filled in futures::future::join_all(fetches).await {
        assert_eq!(filled.unwrap().unwrap().bytes, 3_000_000);
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn what_was_used_longest_ago_goes_first() {
    let site = Site::with(|config| config.max_cache_bytes = 250).await;
    let server = Scripted::start(|head, _| {
        let path = head.split(' ').nth(1).unwrap();
        let byte = path.as_bytes()[1];
        Answer::body(vec![byte; 100]).head(format!("etag: \"{path}\""))
    })
    .await;
    for name in ["a", "b", "a", "c"] {
        site.fetch(cached(server.url(name))).await.unwrap();
    }
    assert_eq!((site.blobs().len(), site.fetcher.kept_bytes()), (2, 200));
    assert_eq!(list(&site.path("cache/urls")).len(), 2);
    let digest = |byte: u8| format!("{:x}", sha2::Sha256::digest([byte; 100]));
    assert!(
        !site.blobs().contains(&digest(b'b')),
        "the other two were used after it"
    );
    // Times in a folder are coarse: that `a` was used last has to be a while ago.
    let kept = fs::File::open(site.path("cache/blobs").join(digest(b'c'))).unwrap();
    kept.set_modified(std::time::UNIX_EPOCH).unwrap();
    let site = site.reopen(|config| config.max_cache_bytes = 150).await;
    assert_eq!(site.blobs(), [digest(b'a')]);
    // What is larger than all of it is used, and then gone.
    let site = site.reopen(|config| config.max_cache_bytes = 50).await;
    site.fetch(cached(server.url("d"))).await.unwrap();
    assert_eq!(fs::read(site.sandbox().join("d")).unwrap(), [b'd'; 100]);
    assert_eq!(site.blobs(), [] as [&str; 0]);
}

#[tokio::test]
async fn one_process_has_a_folder_and_drafts_are_cleared() {
    let site = Site::new().await;
    let error = Fetcher::open(&site.path("cache"), FetchConfig::default()).await;
    assert_eq!(error.unwrap_err().code(), "fetch-folder");
    fs::write(site.path("cache/drafts/7"), "half").unwrap();
    fs::write(site.path("cache/urls/x"), "stranger").unwrap();
    let site = site.reopen(|_| {}).await;
    assert!(site.drafts().is_empty());
}

#[tokio::test]
async fn what_an_operator_removes_is_fetched_again() {
    let site = Site::new().await;
    let server = Scripted::start(|_, _| Answer::body("abc").head("etag: \"1\"")).await;
    site.fetch(cached(server.url("a"))).await.unwrap();
    fs::remove_file(site.path("cache/blobs").join(ABC)).unwrap();
    site.fetch(cached(server.url("a"))).await.unwrap();
    assert_eq!(
        (site.read("a"), site.fetcher.kept_bytes()),
        ("abc".into(), 3)
    );
    assert_eq!((server.asked(), site.blobs()), (2, vec![ABC.into()]));
}

#[tokio::test]
async fn few_downloads_run_at_a_time() {
    let site = Site::with(|config| {
        config.parallel_downloads = 2;
        config.stall = std::time::Duration::from_secs(30);
    })
    .await;
    // A server that counts how many it has, and lets none go before two are there.
    let running = Arc::new(std::sync::Mutex::new((0_usize, 0_usize)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let two = Arc::new(Semaphore::new(0));
    let (counted, gate) = (running.clone(), two.clone());
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (running, two) = (counted.clone(), gate.clone());
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                {
                    let mut running = running.lock().unwrap();
                    running.0 += 1;
                    running.1 = running.1.max(running.0);
                    if running.0 == 2 {
                        two.add_permits(8);
                    }
                }
                let _ = two.acquire().await;
                running.lock().unwrap().0 -= 1;
                let answer = b"HTTP/1.1 200 x\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx";
                let _ = stream.write_all(answer).await;
            });
        }
    });
    let items = (0..8).map(|at| url(format!("http://{address}/{at}")));
    let request = site.request(items.collect());
    site.fetcher.fetch(&request, |_| {}).await.unwrap();
    assert_eq!(list(&site.sandbox()).len(), 8);
    assert_eq!(running.lock().unwrap().1, 2);
    server.abort();
}
