//! Archives become files of a sandbox.
//!
//! What an archive is, its first bytes say: tar, plain or compressed with gzip, zstd or xz, or zip.
//! All that it says of itself is a stranger's word: names, links, sizes and kinds are checked before
//! anything is made, and memory is bounded whatever it holds. Blocks; `cancelled` stops it.

mod source;
mod tar;
mod zip;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use tepui_tarball::plain;
use tepui_tree::{Time, clean};

use crate::sandbox::{Sandbox, Trouble, said};
use source::Positioned;

/// Read at once, from archives and into files.
const BUFFER: usize = 128 * 1024;

/// How names of archives end.
const ENDINGS: [&str; 8] = [
    ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.xz", ".txz", ".zip",
];

/// What kind of archive it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// In whatever compression.
    Tar,
    /// With its directory at the end.
    Zip,
}

/// Whether something is called as archives are.
pub(crate) fn is_called_archive(name: &Path) -> bool {
    let name = name.as_os_str().to_string_lossy().to_ascii_lowercase();
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// What the bytes are; none if no archive.
pub(crate) fn sniff(file: &File, cancelled: &AtomicBool) -> Result<Option<Format>, Trouble> {
    let source = Positioned::new(file, cancelled).map_err(unreadable)?;
    let mut input = BufReader::with_capacity(BUFFER, source);
    let start = input.fill_buf().map_err(unreadable)?;
    if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
        return Ok(Some(Format::Zip));
    }
    let mut block = [0; tepui_tarball::BLOCK as usize];
    // What cannot be read that far is no archive, or not one that can be unpacked.
    let read = plain(input).and_then(|mut plain| plain.read_exact(&mut block));
    Ok((read.is_ok() && tepui_tarball::begins(&block)).then_some(Format::Tar))
}

/// Unpacks into the folder `base` of the sandbox.
pub(crate) fn unpack(
    file: &File,
    format: Format,
    sandbox: &mut Sandbox,
    base: &Path,
    cancelled: &AtomicBool,
) -> Result<(), Trouble> {
    // An archive of nothing makes its folder, too.
    sandbox.folder(base, 0o755, None)?;
    let source = Positioned::new(file, cancelled).map_err(unreadable)?;
    let mut target = Target {
        sandbox,
        base,
        buffer: vec![0; BUFFER],
    };
    let unpacked = match format {
        Format::Tar => tar::unpack(source, &mut target),
        Format::Zip => zip::unpack(source, &mut target),
    };
    match unpacked {
        Err(_) if source::is_cancelled(cancelled) => Err(Trouble::Cancelled),
        Err(error) => Err(error),
        Ok(()) => target.sandbox.finish(),
    }
}

/// Where members go.
struct Target<'a> {
    sandbox: &'a mut Sandbox,
    base: &'a Path,
    buffer: Vec<u8>,
}

impl Target<'_> {
    /// A member's path in the archive, and in the sandbox.
    fn path(&self, name: &[u8]) -> Result<(PathBuf, PathBuf), Trouble> {
        let path = clean(name).map_err(|why| {
            let name = String::from_utf8_lossy(name);
            Trouble::Outside(said(Path::new(name.as_ref()), why))
        })?;
        let below = self.base.join(&path);
        Ok((path, below))
    }

    /// A file of `size` bytes, as its archive says.
    fn file(
        &mut self,
        path: &Path,
        size: u64,
        mut content: impl Read,
        mode: u32,
        time: Option<Time>,
    ) -> Result<(), Trouble> {
        if size > self.sandbox.room() {
            return Err(Trouble::TooLarge(self.sandbox.limit()));
        }
        let mut file = self.sandbox.file(path)?;
        loop {
            let read = match content.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(error)),
            };
            self.sandbox.charge(read as u64)?;
            let written = file.write_all(&self.buffer[..read]);
            written.map_err(|error| self.sandbox.failed(path, error))?;
        }
        self.sandbox.dress(&file, path, mode, time)
    }

    /// A link, which stays below the folder that the archive is unpacked into.
    fn symlink(
        &mut self,
        path: &Path,
        target: &[u8],
        inner: &Path,
        time: Option<Time>,
    ) -> Result<(), Trouble> {
        self.sandbox.symlink(path, target, depth(inner), time)
    }
}

/// Folders of the archive above a member.
fn depth(inner: &Path) -> usize {
    inner.components().count().saturating_sub(1)
}

/// The file that is read is whole: what fails is what it holds.
fn unreadable(error: io::Error) -> Trouble {
    Trouble::Invalid(format!("the archive is damaged ({error}): pack it anew"))
}
