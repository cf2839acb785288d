//! Archives as tar, zip and Python make them.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use tepui_fetch::{Extract, Item, Owner, Source};

use crate::server::Python;
use crate::site::{Site, contents, list, required, run, url};

/// A folder with what a program consists of, and a name that is hard to read.
fn make(folder: &Path) {
    let program = folder.join("program");
    fs::create_dir_all(program.join("bin")).unwrap();
    fs::create_dir_all(program.join("empty")).unwrap();
    fs::write(program.join("bin/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(program.join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(program.join("data"), vec![7; 300_000]).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"a\nb\\ \"\xff");
    fs::write(program.join(odd), "odd").unwrap();
    fs::write(program.join("ü".repeat(120)), "long").unwrap();
    symlink("bin/run", program.join("link")).unwrap();
}

#[tokio::test]
async fn tar_archives_in_every_compression_come_out_as_they_went_in() {
    for (options, name) in [
        ("-cf", "a.tar"),
        ("-czf", "a.tar.gz"),
        ("-cJf", "a.tar.xz"),
        ("--format=pax -cf", "pax.tar"),
        ("--zstd -cf", "a.tar.zst"),
    ] {
        let site = Site::new().await;
        let folder = site.path("allowed");
        make(&folder);
        let mut arguments: Vec<&str> = options.split(' ').collect();
        arguments.extend([name, "program"]);
        run("tar", &folder, &arguments);
        let server = Python::serve(&folder);
        let item = Item {
            extract: Extract::Auto,
            ..url(format!("{}/{name}", server.url))
        };
        site.fetch(item).await.unwrap();
        let (sandbox, original) = (site.sandbox(), folder.join("program"));
        assert_eq!(list(&sandbox.join("program")), list(&original), "{name}");
        assert_eq!(contents(&sandbox.join("program")), contents(&original));
        let run = fs::metadata(sandbox.join("program/bin/run")).unwrap();
        assert_eq!(run.permissions().mode() & 0o7777, 0o755);
        let before = fs::metadata(original.join("bin/run")).unwrap();
        assert_eq!(run.mtime(), before.mtime());
        let link = fs::read_link(sandbox.join("program/link")).unwrap();
        assert_eq!(link, Path::new("bin/run"));
    }
}

#[tokio::test]
async fn zip_archives_come_out_as_they_went_in() {
    let site = Site::new().await;
    let folder = site.path("allowed");
    make(&folder);
    run("zip", &folder, &["-qry", "a.zip", "program"]);
    let item = Item {
        destination: Some("in/here".into()),
        ..required(Source::Local(folder.join("a.zip")))
    };
    let mut request = site.request(vec![item]);
    request.owner = Some(Owner { uid: 7, gid: 8 });
    site.fetcher.fetch(&request, |_| {}).await.unwrap();
    let program = site.sandbox().join("in/here/program");
    assert_eq!(list(&program), list(&folder.join("program")));
    assert_eq!(contents(&program), contents(&folder.join("program")));
    let run = fs::metadata(program.join("bin/run")).unwrap();
    assert_eq!(run.permissions().mode() & 0o7777, 0o755);
    for name in ["", "link", "bin", "data"] {
        let metadata = fs::symlink_metadata(program.join(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (7, 8), "{name}");
    }
}

#[tokio::test]
async fn zips_that_were_streamed_are_read() {
    let site = Site::new().await;
    let folder = site.path("allowed");
    let script = "import zipfile,sys\n\
        z=zipfile.ZipFile(sys.stdout.buffer,'w',zipfile.ZIP_DEFLATED)\n\
        z.writestr('a/b','x'*100000)\n\
        with z.open('big','w',force_zip64=True) as f: f.write(b'y'*1000)\n\
        z.close()";
    let made = std::process::Command::new("python3")
        .args(["-c", script])
        .output();
    let made = made.unwrap();
    assert!(made.status.success());
    fs::write(folder.join("streamed"), &made.stdout).unwrap();
    site.fetch(required(Source::Local(folder.join("streamed"))))
        .await
        .unwrap();
    assert_eq!(site.read("a/b"), "x".repeat(100_000));
    assert_eq!(site.read("big"), "y".repeat(1000));
}

#[tokio::test]
async fn what_is_an_archive_is_told_by_what_it_holds() {
    let site = Site::new().await;
    let folder = site.path("allowed");
    fs::write(folder.join("inner"), "abc").unwrap();
    run("zip", &folder, &["-q", "a.jar", "inner"]);
    fs::copy(folder.join("a.jar"), folder.join("wrong.tar.gz")).unwrap();
    fs::write(folder.join("page.zip"), "<html>").unwrap();
    run("gzip", &folder, &["-k", "inner"]);
    let auto = |name: &str| Item {
        extract: Extract::Auto,
        ..Item::new(Source::Local(folder.join(name)))
    };
    for name in ["a.jar", "page.zip", "inner.gz"] {
        site.fetch(auto(name)).await.unwrap();
    }
    assert_eq!(list(&site.sandbox()), ["a.jar", "inner.gz", "page.zip"]);
    site.fetch(auto("wrong.tar.gz")).await.unwrap();
    assert_eq!(site.read("inner"), "abc");
    for name in ["page.zip", "inner.gz"] {
        let error = site
            .fetch(required(Source::Local(folder.join(name))))
            .await
            .unwrap_err();
        assert_eq!(error.code(), "fetch-archive-invalid");
    }
}

#[tokio::test]
async fn later_items_replace_files_of_earlier_ones() {
    let site = Site::new().await;
    let folder = site.path("allowed");
    let mut items = Vec::new();
    for content in ["1", "2"] {
        fs::write(folder.join("a"), content).unwrap();
        let name = format!("{content}.tar");
        run("tar", &folder, &["-cf", &name, "a"]);
        items.push(required(Source::Local(folder.join(name))));
    }
    site.fetcher
        .fetch(&site.request(items), |_| {})
        .await
        .unwrap();
    assert_eq!(site.read("a"), "2");
}
