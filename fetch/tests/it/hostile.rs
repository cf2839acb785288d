//! Archives that no good program makes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tar::{EntryType, Header};
use tepui_fetch::Source;
use zip::write::SimpleFileOptions;

use crate::site::{Site, list, required};

/// A tar being written, name by name and byte by byte.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn member(
        mut self,
        kind: EntryType,
        name: &str,
        link: &str,
        content: &[u8],
        mode: u32,
    ) -> Self {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.member(EntryType::Regular, name, "", content.as_bytes(), 0o644)
    }

    fn folder(self, name: &str) -> Self {
        self.member(EntryType::Directory, name, "", b"", 0o755)
    }

    fn symlink(self, name: &str, to: &str) -> Self {
        self.member(EntryType::Symlink, name, to, b"", 0o777)
    }

    fn hard_link(self, name: &str, to: &str) -> Self {
        self.member(EntryType::Link, name, to, b"", 0o644)
    }

    fn bytes(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }

    async fn code(self) -> &'static str {
        let site = Site::new().await;
        match site.unpack(&self.bytes()).await {
            Ok(_) => "",
            Err(error) => error.code(),
        }
    }
}

fn zip(members: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content, mode) in members {
        let options = SimpleFileOptions::default().unix_permissions(*mode);
        writer.start_file(*name, options).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[tokio::test]
async fn names_that_climb_out_are_refused() {
    for name in ["../outside", "a/../../outside", "/etc/x", ".."] {
        let code = Tar::default()
            .file("first", "x")
            .file(name, "x")
            .code()
            .await;
        assert_eq!(code, "fetch-outside", "{name}");
        let site = Site::new().await;
        let error = site
            .unpack(&zip(&[("first", b"x", 0o644), (name, b"x", 0o644)]))
            .await;
        assert_eq!(error.unwrap_err().code(), "fetch-outside", "{name}");
    }
}

#[tokio::test]
async fn links_that_lead_out_are_refused() {
    for (name, to) in [
        ("l", ".."),
        ("l", "/etc/passwd"),
        ("l", "a/../../x"),
        ("a/b/l", "../../.."),
        ("l", ""),
    ] {
        let code = Tar::default().folder("a").symlink(name, to).code().await;
        assert_eq!(code, "fetch-outside", "{name} -> {to}");
    }
    // A link's other name would lead elsewhere from its own folder.
    let code = Tar::default()
        .symlink("a/b/l", "../..")
        .hard_link("l", "a/b/l")
        .code()
        .await;
    assert_eq!(code, "fetch-outside");
    let good = Tar::default()
        .symlink("a/b/l", "../../c")
        .hard_link("a/d/m", "a/b/l");
    assert_eq!(good.code().await, "");
    let site = Site::new().await;
    let error = site.unpack(&linked_zip("../outside")).await.unwrap_err();
    assert_eq!(error.code(), "fetch-outside");
    site.unpack(&linked_zip("first")).await.unwrap();
    assert_eq!(site.read("l"), "x");
}

fn linked_zip(target: &str) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default();
    writer.start_file("first", options).unwrap();
    writer.write_all(b"x").unwrap();
    writer.add_symlink("l", target, options).unwrap();
    writer.finish().unwrap().into_inner()
}

#[tokio::test]
async fn nothing_is_written_through_a_link() {
    for (link, through) in [("a", "a/x"), ("a", "a/b/x")] {
        let tar = Tar::default()
            .folder("real")
            .symlink(link, "real")
            .file(through, "x");
        assert_eq!(tar.code().await, "fetch-outside", "{through}");
    }
    let site = Site::new().await;
    let tar = Tar::default()
        .file("a", "1")
        .symlink("l", "a")
        .file("l", "2");
    site.unpack(&tar.bytes()).await.unwrap();
    assert_eq!((site.read("a"), site.read("l")), ("1".into(), "2".into()));
}

#[tokio::test]
async fn hard_links_lead_to_files_of_the_sandbox() {
    for to in ["../outside", "/etc/passwd"] {
        let code = Tar::default().hard_link("l", to).code().await;
        assert_eq!(code, "fetch-outside");
    }
    assert_eq!(
        Tar::default().hard_link("l", "none").code().await,
        "fetch-archive-invalid"
    );
    assert_eq!(
        Tar::default().folder("f").hard_link("l", "f").code().await,
        "fetch-archive-invalid"
    );
    let site = Site::new().await;
    // A file that is written anew leaves its other name as it was.
    let tar = Tar::default()
        .file("a", "1")
        .hard_link("l", "a")
        .file("l", "2");
    site.unpack(&tar.bytes()).await.unwrap();
    assert_eq!((site.read("a"), site.read("l")), ("1".into(), "2".into()));
}

#[tokio::test]
async fn devices_and_pipes_are_refused_and_special_bits_dropped() {
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo] {
        let code = Tar::default()
            .member(kind, "x", "", b"", 0o644)
            .code()
            .await;
        assert_eq!(code, "fetch-archive-invalid", "{kind:?}");
    }
    let site = Site::new().await;
    let tar = Tar::default()
        .member(EntryType::Directory, "d", "", b"", 0o7777)
        .member(EntryType::Regular, "d/x", "", b"x", 0o6777)
        .member(EntryType::Regular, "none", "", b"x", 0);
    site.unpack(&tar.bytes()).await.unwrap();
    for (name, mode) in [("d", 0o755), ("d/x", 0o755), ("none", 0o600)] {
        let metadata = fs::metadata(site.sandbox().join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{name}");
    }
    let site = Site::new().await;
    site.unpack(&zip(&[("x", b"x", 0o4777)])).await.unwrap();
    let metadata = fs::metadata(site.sandbox().join("x")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o755);
}

#[tokio::test]
async fn of_two_files_of_one_name_the_last_counts_and_folders_are_no_files() {
    let site = Site::new().await;
    let tar = Tar::default()
        .file("a", "1")
        .file("./a", "2")
        .folder("d")
        .folder("d");
    site.unpack(&tar.bytes()).await.unwrap();
    assert_eq!(site.read("a"), "2");
    for tar in [
        Tar::default().file("a", "1").file("a/b", "2"),
        Tar::default().file("a/b", "1").file("a", "2"),
        Tar::default().folder("a").symlink("a", "b"),
        Tar::default().file("a", "1").folder("a"),
    ] {
        assert_eq!(tar.code().await, "fetch-conflict");
    }
}

#[tokio::test]
async fn bombs_end_where_the_room_does() {
    let site = Site::new().await;
    let zeros = vec![0; 8 * 1024 * 1024];
    let mut tar = Tar::default().file("first", "x");
    for at in 0..10 {
        tar = tar.member(EntryType::Regular, &format!("{at}"), "", &zeros, 0o644);
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&tar.bytes()).unwrap();
    let error = site.unpack(&gzip.finish().unwrap()).await.unwrap_err();
    assert_eq!(error.code(), "fetch-too-large");

    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.start_file("bomb", options).unwrap();
    (0..10).for_each(|_| writer.write_all(&zeros).unwrap());
    let mut bomb = writer.finish().unwrap().into_inner();
    let error = site.unpack(&bomb).await.unwrap_err();
    assert_eq!(error.code(), "fetch-too-large");
    // The same, and it says that it is small.
    let size = (80_u32 * 1024 * 1024).to_le_bytes();
    let at: Vec<usize> = (0..bomb.len() - 4)
        .filter(|at| bomb[*at..*at + 4] == size)
        .collect();
    assert!(!at.is_empty());
    at.iter()
        .for_each(|at| bomb[*at..*at + 4].copy_from_slice(&9_u32.to_le_bytes()));
    let error = site.unpack(&bomb).await.unwrap_err();
    assert!(matches!(
        error.code(),
        "fetch-too-large" | "fetch-archive-invalid"
    ));
}

#[tokio::test]
async fn names_may_hold_anything_that_names_may() {
    let site = Site::new().await;
    let names = [
        "a\nb",
        " ",
        "-rf",
        "\\",
        "a\u{7f}\u{1b}[2J",
        "*",
        "...",
        "~",
    ];
    let mut tar = Tar::default();
    for name in names {
        tar = tar.file(name, "x");
    }
    site.unpack(&tar.bytes()).await.unwrap();
    assert_eq!(list(&site.sandbox()).len(), names.len());
    let error = Site::new()
        .await
        .unpack(&Tar::default().file("../a\nb", "x").bytes())
        .await;
    assert!(
        !error.unwrap_err().to_string().contains('\n'),
        "messages are one line"
    );
}

#[tokio::test]
async fn damaged_archives_are_refused_wherever_they_are_cut_or_changed() {
    let tar = Tar::default()
        .file("a", &"x".repeat(700))
        .folder("b")
        .symlink("l", "a")
        .bytes();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&tar).unwrap();
    let gzip = gzip.finish().unwrap();
    let zip = zip(&[("a", &[b'x'; 700], 0o644), ("b/c", b"y", 0o644)]);
    let site = Site::new().await;
    for cut in 0..gzip.len() - 8 {
        let error = site.unpack(&gzip[..cut]).await.unwrap_err();
        assert_eq!(error.code(), "fetch-archive-invalid", "gzip cut at {cut}");
    }
    for cut in 0..zip.len() - 1 {
        let error = site.unpack(&zip[..cut]).await.unwrap_err();
        assert_eq!(error.code(), "fetch-archive-invalid", "zip cut at {cut}");
    }
}

#[tokio::test]
async fn changed_archives_break_nothing_whatever_is_changed() {
    let site = Site::new().await;
    let folder = site.path("allowed");
    let tar = Tar::default().file("a", &"x".repeat(300)).bytes();
    fs::write(folder.join("a.tar"), &tar).unwrap();
    let mut archives = vec![zip(&[("a", &[b'x'; 300], 0o644), ("b/c", b"y", 0o644)])];
    for (program, ending) in [("gzip", "gz"), ("xz", "xz"), ("zstd", "zst")] {
        crate::site::run(program, &folder, &["-kq", "a.tar"]);
        archives.push(fs::read(folder.join(format!("a.tar.{ending}"))).unwrap());
    }
    for archive in archives {
        let site = Site::new().await;
        site.unpack(&archive).await.unwrap();
        for at in 0..archive.len() {
            fs::remove_dir_all(site.sandbox()).unwrap();
            fs::create_dir(site.sandbox()).unwrap();
            let mut changed = archive.clone();
            changed[at] ^= 0xff;
            // Some bytes do not matter. What panicked would be `fetch-interrupted`.
            if let Err(error) = site.unpack(&changed).await {
                let code = error.code();
                let known = ["fetch-archive-invalid", "fetch-outside", "fetch-too-large"];
                assert!(
                    known.contains(&code),
                    "{error} at {at} of {}",
                    archive.len()
                );
            }
        }
    }
}

#[tokio::test]
async fn an_xz_that_wants_the_machines_memory_is_refused() {
    let site = Site::new().await;
    let folder = site.path("allowed");
    fs::write(folder.join("a"), "abc").unwrap();
    crate::site::run("tar", &folder, &["-cf", "a.tar", "a"]);
    crate::site::run(
        "xz",
        &folder,
        &["--lzma2=preset=1,dict=1GiB", "-M0", "a.tar"],
    );
    let item = required(Source::Local(folder.join("a.tar.xz")));
    let error = site.fetch(item).await.unwrap_err();
    assert_eq!(error.code(), "fetch-archive-invalid");
}

/// Members whose names and targets are made to get in each other's way.
fn members() -> impl Strategy<Value = Vec<(u8, String, String)>> {
    let part = || prop::sample::select(vec!["a", "b", "c", "..", ".", ""]);
    let path = move || prop::collection::vec(part(), 1..5).prop_map(|parts| parts.join("/"));
    prop::collection::vec((0..4_u8, path(), path()), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Members are unpacked one archive each, so that one that is refused does not undo the others.
    #[test]
    fn no_sequence_of_members_gets_out(members in members()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let site = Site::new().await;
            let beside = |site: &Site| {
                let mut names = list(&site.path(""));
                names.retain(|name| !name.starts_with("sandbox/") && name != "archive");
                names
            };
            let before = beside(&site);
            for (kind, name, to) in members {
                let tar = match kind {
                    0 => Tar::default().file(&name, "x"),
                    1 => Tar::default().folder(&name),
                    2 => Tar::default().symlink(&name, &to),
                    _ => Tar::default().hard_link(&name, &to),
                };
                fs::write(site.path("archive"), tar.bytes()).unwrap();
                let _ = site.fetch(required(Source::Local(site.path("archive")))).await;
            }
            assert_eq!(beside(&site), before);
            assert_eq!(fs::read(site.path("outside")).unwrap(), b"outside");
            let root = fs::canonicalize(site.sandbox()).unwrap();
            for name in list(&site.sandbox()) {
                // What leads nowhere, or around in circles, leads nowhere else either.
                if let Ok(real) = fs::canonicalize(site.sandbox().join(&name)) {
                    assert!(real.starts_with(&root), "{name} leads to {real:?}");
                }
            }
        });
    }
}
