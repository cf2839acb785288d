//! A layer's bytes become a tree for overlayfs.
//!
//! Whiteouts become what overlayfs knows them by: character devices of number 0/0, and
//! `trusted.overlay.opaque` on folders. Each layer is a tree of its own, so a whiteout hides what is
//! in layers below and nothing of its own layer (image-spec, layer.md). Device nodes are left out,
//! and said in a note. Blocks; called on a thread that may.

mod tree;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::Digest as _;
use tepui_tarball::{Kind, Member, Tarball, plain};
use tepui_types::Digest;

use tree::Tree;

/// Read at once, from the archive and into files.
const BUFFER: usize = 128 * 1024;
/// Members of one layer: more than the largest images have files, and few enough for any disk's
/// inodes.
const MAX_MEMBERS: u64 = 2_000_000;
/// Notes that are kept of one layer: the first tell what kind of image it is.
const MAX_NOTES: usize = 16;
/// Prefix of names that hide another.
const WHITEOUT: &[u8] = b".wh.";
/// Hides all that layers below have in the folder where it stands.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names of aufs, which nobody else knows what to do with.
const AUFS: &[u8] = b".wh..wh.";

/// What came of a layer.
#[derive(Debug)]
pub struct Unpacked {
    /// The digest of the archive's plain bytes.
    pub diff_id: Digest,
    /// How long the archive is when it is not compressed.
    pub bytes: u64,
    /// What was left out.
    pub notes: Vec<String>,
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive is damaged, or says what no layer may say.
    #[error("{0}")]
    Invalid(String),
    /// More than is taken.
    #[error("it is larger than {0} bytes when it is unpacked")]
    TooLarge(u64),
    /// The disk did not take it.
    #[error("failed to write {path}")]
    Write {
        /// Which member.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody wants it any longer.
    #[error("broken off")]
    Cancelled,
}

impl UnpackError {
    fn invalid(path: &Path, why: &str) -> Self {
        Self::Invalid(format!("{:?} {why}", path.display().to_string()))
    }
}

/// Unpacks an archive, compressed or not, into the empty folder `root`. `progress` hears how many of
/// the archive's bytes are done.
///
/// # Errors
/// Whatever is not right with the archive or the disk; `root` then holds a part of it.
pub fn unpack(
    archive: &Path,
    root: &Path,
    limit: u64,
    cancelled: &AtomicBool,
    progress: impl Fn(u64),
) -> Result<Unpacked, UnpackError> {
    let failed = |source| UnpackError::Write {
        path: archive.to_owned(),
        source,
    };
    let file = File::open(archive).map_err(failed)?;
    let watched = Watched {
        inner: file,
        read: 0,
        cancelled,
        progress,
    };
    let input = plain(BufReader::with_capacity(BUFFER, watched));
    let plain = Plain {
        inner: input.map_err(failed)?,
        hash: sha2::Sha256::new(),
        read: 0,
        limit,
    };
    let mut layer = Layer {
        tarball: Tarball::new(plain),
        tree: Tree::open(root).map_err(failed)?,
        notes: Vec::new(),
        buffer: vec![0; BUFFER],
    };
    let ended = layer.run();
    let mut plain = layer.tarball.into_inner();
    // What stands behind the archive's end is part of what was hashed.
    let ended = ended.and_then(|()| {
        let rest = io::copy(&mut plain, &mut io::sink());
        rest.map(|_| ()).map_err(unreadable)
    });
    match ended {
        Err(_) if cancelled.load(Ordering::Relaxed) => Err(UnpackError::Cancelled),
        Err(UnpackError::Invalid(_)) if plain.read > limit => Err(UnpackError::TooLarge(limit)),
        Err(error) => Err(error),
        Ok(()) => Ok(Unpacked {
            diff_id: Digest(plain.hash.finalize().into()),
            bytes: plain.read,
            notes: layer.notes,
        }),
    }
}

struct Layer<'a> {
    tarball: Tarball<Plain<Box<dyn Read + 'a>>>,
    tree: Tree,
    notes: Vec<String>,
    buffer: Vec<u8>,
}

impl Layer<'_> {
    fn run(&mut self) -> Result<(), UnpackError> {
        let mut members = 0;
        while let Some(member) = self.tarball.advance().map_err(unreadable)? {
            members += 1;
            if members > MAX_MEMBERS {
                let why = format!("it has more than {MAX_MEMBERS} files and folders");
                return Err(UnpackError::Invalid(why));
            }
            let path = clean(&member.name)?;
            self.place(&member, &path)?;
        }
        self.tree.finish()
    }

    fn place(&mut self, member: &Member, path: &Path) -> Result<(), UnpackError> {
        let Some(name) = path.file_name() else {
            // The root itself: it is there, and has but its owner and mode to get.
            return match member.kind {
                Kind::Folder => self.tree.folder(path, member),
                _ => Err(UnpackError::Invalid("its root is no folder".into())),
            };
        };
        let name = name.as_bytes();
        if name == OPAQUE {
            return self.tree.opaque(path.parent().unwrap_or(Path::new("")));
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if hidden.is_empty() || hidden == b"." || hidden == b".." {
                return Err(UnpackError::invalid(
                    path,
                    "hides no name that there can be",
                ));
            }
            return self
                .tree
                .whiteout(&path.with_file_name(OsStr::from_bytes(hidden)));
        }
        match member.kind {
            Kind::File => self.file(member, path),
            Kind::Folder => self.tree.folder(path, member),
            Kind::Symlink => self.tree.symlink(path, member),
            Kind::HardLink => self.tree.hard_link(path, &clean(&member.link)?),
            Kind::Fifo => self.tree.fifo(path, member),
            Kind::Device => {
                self.note(format!("{} is a device and was left out", path.display()));
                Ok(())
            }
        }?;
        let left_out = member
            .xattrs
            .iter()
            .filter(|(name, _)| !tree::is_kept(name));
        for (xattr, _) in left_out {
            let xattr = String::from_utf8_lossy(xattr);
            self.note(format!("{} of {} was left out", xattr, path.display()));
        }
        Ok(())
    }

    fn file(&mut self, member: &Member, path: &Path) -> Result<(), UnpackError> {
        let plain = self.tarball.get_ref();
        if member.size > plain.limit.saturating_sub(plain.read) {
            return Err(UnpackError::TooLarge(plain.limit));
        }
        let mut file = self.tree.file(path)?;
        loop {
            let read = match self.tarball.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(error)),
            };
            let written = file.write_all(&self.buffer[..read]);
            written.map_err(|source| UnpackError::Write {
                path: path.to_owned(),
                source,
            })?;
        }
        self.tree.dress(&file, path, member)
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(note);
        }
    }
}

/// A path in the layer, as its author writes it: an absolute one begins at the layer's root, which is
/// where others that unpack layers begin it.
fn clean(name: &[u8]) -> Result<PathBuf, UnpackError> {
    let below = name.iter().position(|byte| *byte != b'/');
    let below = &name[below.unwrap_or(name.len())..];
    tepui_tree::clean(below).map_err(|why| {
        let name = String::from_utf8_lossy(name);
        UnpackError::Invalid(format!("{name:?}: {why}"))
    })
}

/// The file that is read is ours and whole: what fails is what it holds.
fn unreadable(error: io::Error) -> UnpackError {
    UnpackError::Invalid(format!("the archive cannot be read: {error}"))
}

/// Counts what is read of the archive, and stops when nobody wants it.
struct Watched<'a, R, F> {
    inner: R,
    read: u64,
    cancelled: &'a AtomicBool,
    progress: F,
}

impl<R: Read, F: Fn(u64)> Read for Watched<'_, R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("cancelled"));
        }
        let read = self.inner.read(buffer)?;
        self.read += read as u64;
        (self.progress)(self.read);
        Ok(read)
    }
}

/// Hashes and bounds what the archive is when it is not compressed.
struct Plain<R> {
    inner: R,
    hash: sha2::Sha256,
    read: u64,
    limit: u64,
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.read += read as u64;
        if self.read > self.limit {
            return Err(io::Error::other("too large"));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
