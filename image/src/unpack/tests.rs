//! Layers, also such as no builder writes, unpacked into a folder. As root: owners, devices and
//! trusted attributes are root's to set.

use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use tar::{EntryType, Header};

use super::*;

/// A layer being written, name by name and byte by byte.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn member(mut self, kind: EntryType, name: &[u8], link: &[u8], content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_mode(0o750);
        header.set_uid(1000);
        header.set_gid(1001);
        header.set_mtime(1_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.member(EntryType::Regular, name.as_bytes(), b"", content.as_bytes())
    }

    fn folder(self, name: &str) -> Self {
        self.member(EntryType::Directory, name.as_bytes(), b"", b"")
    }

    fn symlink(self, name: &str, to: &str) -> Self {
        self.member(EntryType::Symlink, name.as_bytes(), to.as_bytes(), b"")
    }

    fn hard_link(self, name: &str, to: &str) -> Self {
        self.member(EntryType::Link, name.as_bytes(), to.as_bytes(), b"")
    }

    fn pax(self, key: &str, value: &[u8]) -> Self {
        let rest = key.len() + value.len() + 3;
        let length = (1..).find(|length: &usize| *length == rest + length.to_string().len());
        let mut record = format!("{} {key}=", length.unwrap()).into_bytes();
        record.extend_from_slice(value);
        record.push(b'\n');
        self.member(EntryType::XHeader, b"pax", b"", &record)
    }

    fn bytes(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }

    fn unpack(self) -> Result<Layered, UnpackError> {
        Layered::from(&self.bytes(), u64::MAX)
    }
}

/// An unpacked layer, beside something that nobody may touch.
struct Layered {
    dir: tempfile::TempDir,
    unpacked: Unpacked,
}

impl Layered {
    fn from(archive: &[u8], limit: u64) -> Result<Self, UnpackError> {
        let dir = tempfile::tempdir().unwrap();
        let (file, root) = (dir.path().join("archive"), dir.path().join("a/root"));
        std::fs::write(&file, archive).unwrap();
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(dir.path().join("a/secret"), "untouched").unwrap();
        let unpacked = unpack(&file, &root, limit, &AtomicBool::new(false), |_| {});
        // Whatever came of it, nothing left the root.
        let secret = std::fs::read(dir.path().join("a/secret")).unwrap();
        assert_eq!(secret, b"untouched");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(std::fs::read_dir(dir.path().join("a")).unwrap().count(), 2);
        unpacked.map(|unpacked| Self { dir, unpacked })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("a/root").join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn is_whiteout(&self, name: &str) -> bool {
        let file = std::fs::symlink_metadata(self.path(name)).unwrap();
        file.file_type().is_char_device() && file.rdev() == 0
    }

    fn xattr(&self, name: &str, xattr: &str) -> Option<Vec<u8>> {
        let mut value = vec![0; 256];
        let length = rustix::fs::lgetxattr(self.path(name), xattr, &mut value[..]).ok()?;
        value.truncate(length);
        Some(value)
    }

    fn is_opaque(&self, name: &str) -> bool {
        self.xattr(name, "trusted.overlay.opaque").as_deref() == Some(b"y")
    }
}

fn refused(layer: Writer) -> String {
    match layer.unpack() {
        Err(UnpackError::Invalid(why)) => why,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was unpacked"),
    }
}

#[test]
fn owners_modes_times_and_links_are_kept() {
    let layer = Writer::default()
        .folder("d")
        .file("d/f", "content")
        .hard_link("d/h", "d/f")
        .symlink("d/s", "/nowhere")
        .member(EntryType::Fifo, b"d/p", b"", b"")
        .unpack()
        .unwrap();
    assert_eq!(layer.read("d/h"), "content");
    for name in ["d", "d/f", "d/s", "d/p"] {
        let file = std::fs::symlink_metadata(layer.path(name)).unwrap();
        assert_eq!(
            (file.uid(), file.gid(), file.mtime()),
            (1000, 1001, 1_000_000),
            "{name}"
        );
        let is_link = file.file_type().is_symlink();
        assert!(
            is_link || file.permissions().mode() & 0o7777 == 0o750,
            "{name}"
        );
    }
    let ino = |name| std::fs::metadata(layer.path(name)).unwrap().ino();
    assert_eq!(ino("d/f"), ino("d/h"));
    let target = std::fs::read_link(layer.path("d/s")).unwrap();
    assert_eq!(target, Path::new("/nowhere"));
}

#[test]
fn names_may_be_any_bytes() {
    let name = b"a\n\xff\x01 'b".as_slice();
    let layer = Writer::default()
        .member(EntryType::Regular, name, b"", b"x")
        .unpack()
        .unwrap();
    let path = layer.path("").join(OsStr::from_bytes(name));
    assert_eq!(std::fs::read(path).unwrap(), b"x");
}

#[test]
fn capabilities_are_kept_and_what_would_steer_overlayfs_is_not() {
    let capability = b"\x01\0\0\x02\0\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0".as_slice();
    let layer = Writer::default()
        .pax("SCHILY.xattr.security.capability", capability)
        .file("ping", "x")
        .pax("SCHILY.xattr.trusted.overlay.redirect", b"/etc")
        .folder("d")
        .pax("SCHILY.xattr.user.a", b"b")
        .file("u", "x")
        .unpack()
        .unwrap();
    assert_eq!(
        layer.xattr("ping", "security.capability").as_deref(),
        Some(capability)
    );
    assert_eq!(layer.xattr("u", "user.a").as_deref(), Some(&b"b"[..]));
    assert_eq!(layer.xattr("d", "trusted.overlay.redirect"), None);
    assert_eq!(layer.unpacked.notes.len(), 1, "{:?}", layer.unpacked.notes);
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_of_their_own_layer() {
    let layer = Writer::default()
        .file("d/.wh.gone", "")
        .file("o/.wh..wh..opq", "")
        .file("o/kept", "x")
        // Hidden first and made anew.
        .file(".wh.again", "")
        .file("again/f", "x")
        .file(".wh.file", "")
        .file("file", "x")
        // Made first and hidden then.
        .file("mine/f", "x")
        .file(".wh.mine", "")
        .file("own", "x")
        .file(".wh.own", "")
        .file(".wh..wh.plnk", "")
        .unpack()
        .unwrap();
    assert!(layer.is_whiteout("d/gone"));
    assert!(!layer.is_opaque("d"));
    assert!(layer.is_opaque("o"));
    assert_eq!(layer.read("o/kept"), "x");
    for folder in ["again", "mine"] {
        assert!(layer.is_opaque(folder), "{folder} shows nothing from below");
        assert_eq!(layer.read(&format!("{folder}/f")), "x");
    }
    assert_eq!(layer.read("file"), "x");
    assert_eq!(layer.read("own"), "x");
    let names = std::fs::read_dir(layer.path("")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name());
    assert!(
        !names
            .map(|name| name.into_vec())
            .any(|name| name.starts_with(WHITEOUT))
    );
}

#[test]
fn devices_are_left_out_and_named() {
    let layer = Writer::default()
        .member(EntryType::Char, b"dev/null", b"", b"")
        .member(EntryType::Block, b"dev/sda", b"", b"")
        .file("f", "x")
        .unpack()
        .unwrap();
    assert_eq!(layer.read("f"), "x");
    assert!(!layer.path("dev/null").exists());
    assert_eq!(layer.unpacked.notes.len(), 2);
    assert!(
        layer.unpacked.notes[0].contains("dev/null"),
        "{:?}",
        layer.unpacked.notes
    );
}

#[test]
fn a_later_member_takes_the_place_of_an_earlier_one() {
    let layer = Writer::default()
        .file("a", "1")
        .file("a", "2")
        .file("b/c", "1")
        .symlink("b", "a")
        .symlink("c", "a")
        .file("c", "3")
        .file("d", "1")
        .folder("d")
        .file("d/e", "4")
        .unpack()
        .unwrap();
    assert_eq!(layer.read("a"), "2", "nothing is written through a link");
    assert_eq!(layer.read("b"), "2");
    assert_eq!(layer.read("c"), "3");
    assert_eq!(layer.read("d/e"), "4");
}

#[test]
fn archives_that_climb_out_are_refused() {
    for name in [
        "../secret",
        "a/../../secret",
        "/../secret",
        "//../secret",
        "/a/../../secret",
        "..",
        "a/..",
    ] {
        let why = refused(Writer::default().file(name, "stolen"));
        assert!(why.contains("climbs"), "{why}");
    }
    for target in ["../secret", "/etc/passwd", "/../secret", "a/../../secret"] {
        refused(Writer::default().hard_link("h", target));
    }
    for hidden in [".wh.", ".wh..", ".wh...", "a/.wh..."] {
        refused(Writer::default().file(hidden, ""));
    }
    refused(Writer::default().hard_link("h", "missing"));
    refused(Writer::default().folder("d").hard_link("h", "d"));
    refused(Writer::default().symlink("s", ""));
    refused(Writer::default().file("f", "x").file("f/g", "x"));
    refused(Writer::default().symlink("l", "l").file("l/g", "x"));
}

#[test]
fn absolute_names_begin_at_the_layers_root() {
    let layer = Writer::default()
        .folder("/")
        .folder("//d/")
        .file("/d/a", "a")
        .hard_link("/b", "/d/a")
        .file("///etc/passwd", "own")
        .file("/.wh.gone", "")
        .folder("/tmp")
        .symlink("/l", "/tmp")
        .file("/l/x", "inside")
        .unpack()
        .unwrap();
    assert_eq!(
        (layer.read("d/a"), layer.read("b")),
        ("a".into(), "a".into())
    );
    assert_eq!(layer.read("etc/passwd"), "own");
    assert!(layer.is_whiteout("gone"));
    assert_eq!(layer.read("tmp/x"), "inside");
    // The root itself is dressed as any folder.
    let mode = std::fs::metadata(layer.path("")).unwrap().permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o7777,
        0o750
    );
    refused(Writer::default().symlink("/", "no folder"));
}

#[test]
fn links_lead_where_they_would_in_a_container() {
    for target in ["..", "../..", "/", "/proc/self/root", "/proc/self/cwd"] {
        let layer = Writer::default()
            .symlink("l", target)
            .file("l/secret", "stolen");
        // Either refused, or inside; `unpack` has looked that the one outside is untouched.
        match layer.unpack() {
            Ok(layer) => assert_eq!(layer.read("secret"), "stolen", "{target}"),
            Err(UnpackError::Invalid(_)) => {}
            Err(other) => panic!("{target}: {other:?}"),
        }
    }
    let layer = Writer::default()
        .folder("usr/lib")
        .symlink("lib", "/usr/lib")
        .file("lib/a", "x")
        .hard_link("b", "lib/a")
        .unpack()
        .unwrap();
    assert_eq!(layer.read("usr/lib/a"), "x");
    assert_eq!(layer.read("b"), "x");
    // Neither a link's target nor what it leads to is reached by making one of its name.
    let layer = Writer::default()
        .symlink("s", "../secret")
        .hard_link("h", "s")
        .file("h", "stolen")
        .unpack()
        .unwrap();
    assert_eq!(layer.read("h"), "stolen");
}

#[test]
fn every_compression_yields_the_same_digest() {
    let plain = Writer::default().file("f", "content").bytes();
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    // Parallel compressors write several members, seekable ones frames that are to be skipped.
    let (first, second) = plain.split_at(600);
    let skipped = b"\x50\x2a\x4d\x18\x04\0\0\0abcd".to_vec();
    for archive in [
        plain.clone(),
        gzip(&plain),
        zstd(&plain),
        [gzip(first), gzip(second)].concat(),
        [skipped.clone(), zstd(first), zstd(second), skipped].concat(),
    ] {
        let layer = Layered::from(&archive, u64::MAX).unwrap();
        assert_eq!(layer.read("f"), "content");
        assert_eq!(layer.unpacked.diff_id, Digest::of(&plain));
        assert_eq!(layer.unpacked.bytes, plain.len() as u64);
    }
    let cut = gzip(&plain);
    let error = Layered::from(&cut[..cut.len() - 20], u64::MAX)
        .err()
        .unwrap();
    assert!(matches!(error, UnpackError::Invalid(_)), "{error:?}");
}

#[test]
fn what_unpacks_to_too_much_is_stopped() {
    let bomb = zstd::encode_all(
        &Writer::default().file("f", &"0".repeat(1 << 20)).bytes()[..],
        1,
    );
    let bomb = bomb.unwrap();
    assert!(bomb.len() < 1024);
    let error = Layered::from(&bomb, 100_000).err().unwrap();
    assert!(matches!(error, UnpackError::TooLarge(100_000)), "{error:?}");
    let mut trailing = Writer::default().bytes();
    trailing.resize(200_000, 0);
    let error = Layered::from(&trailing, 100_000).err().unwrap();
    assert!(matches!(error, UnpackError::TooLarge(100_000)), "{error:?}");
}

#[test]
fn unpacking_stops_when_nobody_wants_it() {
    let dir = tempfile::tempdir().unwrap();
    let (file, root) = (dir.path().join("archive"), dir.path().join("root"));
    std::fs::write(&file, Writer::default().file("f", "x").bytes()).unwrap();
    std::fs::create_dir(&root).unwrap();
    let result = unpack(&file, &root, u64::MAX, &AtomicBool::new(true), |_| {});
    assert!(result.is_err());
    assert!(!root.join("f").exists());
}
