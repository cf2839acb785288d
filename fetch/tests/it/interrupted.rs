//! Callers that go away, processes that are killed.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sha2::Digest;
use tepui_fetch::{Fetcher, Request, Source};

use crate::server::{Answer, Python, Scripted};
use crate::site::{ROOM, Site, cached, config, eventually, list, required, run, url};

/// Where a process of this test finds its site.
const FOLDER: &str = "TEPUI_FETCH_TEST_FOLDER";
const SERVER: &str = "TEPUI_FETCH_TEST_SERVER";

#[tokio::test]
async fn a_fetch_that_is_dropped_leaves_nothing() {
    let site = Site::with(|config| config.stall = Duration::from_secs(60)).await;
    let server = Scripted::start(|head, _| match head.contains("/good") {
        true => Answer::body("abc"),
        false => Answer::body(vec![0; 500_000]).cut(300_000).stall(),
    })
    .await;
    for item in [url(server.url("slow")), cached(server.url("slow"))] {
        let request = site.request(vec![url(server.url("good")), item]);
        let (sender, mut heard) = tokio::sync::watch::channel((0, 0));
        let say = |progress: tepui_fetch::Progress| {
            sender.send_replace((progress.placed, progress.done));
        };
        let fetch = site.fetcher.fetch(&request, say);
        let half = heard.wait_for(|(placed, done)| *placed == 1 && *done >= 200_000);
        tokio::select! {
            _ = fetch => panic!("it cannot end"),
            half = half => drop(half.unwrap()),
        }
        eventually("the sandbox is empty", || list(&site.sandbox()).is_empty()).await;
        eventually("no draft is left", || site.drafts().is_empty()).await;
    }
}

#[tokio::test]
async fn unpacking_that_is_dropped_leaves_nothing() {
    let site = Site::new().await;
    let folder = site.path("allowed");
    for at in 0..3000 {
        fs::write(folder.join(format!("{at}")), "x").unwrap();
    }
    run("tar", &site.path(""), &["-cf", "a.tar", "allowed"]);
    let request = site.request(vec![required(Source::Local(site.path("a.tar")))]);
    let begun = async {
        while list(&site.sandbox()).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let fetch = site.fetcher.fetch(&request, |_| {});
    tokio::select! {
        filled = fetch => { filled.unwrap(); return; }
        () = begun => {}
    }
    eventually("the sandbox is empty", || list(&site.sandbox()).is_empty()).await;
}

/// A process that ends with its test, however that ends.
struct Fetching(Child);

impl Drop for Fetching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// No test by itself: what `a_killed_process_leaves_whole_files` runs and kills.
#[tokio::test]
async fn process_that_fetches_until_it_is_killed() {
    let (Some(folder), Ok(server)) = (std::env::var_os(FOLDER), std::env::var(SERVER)) else {
        return;
    };
    let folder = std::path::PathBuf::from(folder);
    let mut config = config();
    config.max_cache_bytes = 3_000_000;
    let fetcher = Fetcher::open(&folder.join("cache"), config).await.unwrap();
    let mut at = 0;
    loop {
        at += 1;
        let sandbox = folder.join("sandbox");
        let items = vec![cached(format!("{server}/{}", at % 7))];
        let request = Request {
            sandbox,
            items,
            owner: None,
            limit: ROOM,
        };
        fetcher.fetch(&request, |_| {}).await.unwrap();
        println!("fetched");
    }
}

#[tokio::test]
async fn a_killed_process_leaves_whole_files() {
    let folder = tempfile::tempdir().unwrap();
    let served = folder.path().join("served");
    for path in [&served, &folder.path().join("sandbox")] {
        fs::create_dir(path).unwrap();
    }
    for at in 0..7 {
        fs::write(served.join(at.to_string()), vec![at as u8; 700_000]).unwrap();
    }
    let server = Python::serve(&served);
    for round in 0..8 {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "interrupted::process_that_fetches_until_it_is_killed",
                "--nocapture",
            ])
            .env(FOLDER, folder.path())
            .env(SERVER, &server.url)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = Fetching(child.unwrap());
        // After some fetches, in the middle of the next.
        let output = std::io::BufReader::new(child.0.stdout.take().unwrap());
        let lines = std::io::BufRead::lines(output).map_while(Result::ok);
        let fetched = lines
            .filter(|line| line.contains("fetched"))
            .take(1 + round);
        assert_eq!(fetched.count(), 1 + round, "it went on until it was killed");
        drop(child);
        let fetcher = Fetcher::open(&folder.path().join("cache"), config())
            .await
            .unwrap();
        assert_eq!(list(&folder.path().join("cache/drafts")), [] as [&str; 0]);
        let blobs = list(&folder.path().join("cache/blobs"));
        assert!(!blobs.is_empty());
        for name in &blobs {
            let bytes = fs::read(folder.path().join("cache/blobs").join(name)).unwrap();
            let digest = format!("{:x}", sha2::Sha256::digest(&bytes));
            assert_eq!(&digest, name);
        }
        assert_eq!(fetcher.kept_bytes(), blobs.len() as u64 * 700_000);
    }
}
