//! Puts the dashboard where the master embeds it: `$OUT_DIR/web`, and compressed in
//! `$OUT_DIR/web-gzip`, so that no master ever compresses it.
//!
//! Cargo runs this before it compiles the master. The dashboard is made by `cargo xtask web`, in
//! `web-ui/dist`; where it has not been made, one page says so and how to make it, and the master
//! builds all the same.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

const INSTEAD: &str = "<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<title>Tepui</title>
<h1>The dashboard was not built</h1>
<p>This master was compiled without it. <code>cargo xtask web</code> builds the dashboard; compile
the master again afterwards, or let <code>cargo xtask up</code> do both.</p>
<p>The HTTP API is not affected: see <a href=\"/v1/openapi.json\">its description</a>.</p>
</html>
";

fn main() -> io::Result<()> {
    let web_ui = PathBuf::from("../web-ui");
    let dist = web_ui.join("dist");
    let out = std::env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?;
    let out = PathBuf::from(out);
    let (web, gzip) = (out.join("web"), out.join("web-gzip"));
    for folder in [&web, &gzip] {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
    }
    if dist.join("index.html").is_file() {
        println!("cargo::rerun-if-changed={}", dist.display());
        copy(&dist, &web)?;
    } else {
        // Cargo takes a watched path that is not there for changed, and would run this every time:
        // the folder above it tells as well when the dashboard appears.
        println!("cargo::rerun-if-changed={}", web_ui.display());
        fs::write(web.join("index.html"), INSTEAD)?;
    }
    compress(&web, &gzip)
}

/// Copies a folder, without hidden files: those are the build's own notes.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    each_file(from, to, &|file, target| fs::copy(file, target).map(drop))
}

/// Compresses a folder's files under their own names; those that do not get smaller are left out.
fn compress(from: &Path, to: &Path) -> io::Result<()> {
    each_file(from, to, &|file, target| {
        let bytes = fs::read(file)?;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&bytes)?;
        let smaller = encoder.finish()?;
        match smaller.len() < bytes.len() {
            true => fs::write(target, smaller),
            false => Ok(()),
        }
    })
}

fn each_file(
    from: &Path,
    to: &Path,
    deed: &dyn Fn(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        let target = to.join(&name);
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            each_file(&entry.path(), &target, deed)?;
        } else {
            deed(&entry.path(), &target)?;
        }
    }
    Ok(())
}
