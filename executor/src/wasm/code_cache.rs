//! Machine code on disk, by the digest of its program and by what compiled it.
//!
//! `FOLDER/ENGINE/DIGEST-CHECKSUM`: the engine's name stands for its version and configuration, and
//! the checksum is of the file's own bytes. Machine code is run as it is, so it is mapped only where
//! nobody but this user can have written it and its checksum is right; everything else counts as
//! absent. Only the compiler's process writes here: whole files, by renaming. What was used longest
//! ago goes first when there is more than the limit.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use tepui_types::{Bytes, Digest};
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled};

use crate::program::Compiled;

/// Machine code that is kept: some hundreds of large programs, and little beside the artifacts that
/// an agent keeps.
pub const LIMIT: Bytes = Bytes::gib(2);
/// Digits of an engine's name: enough that no two are alike.
const ENGINE_DIGITS: usize = 16;
/// What of a file is hashed at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Files that are being written begin so; those of a compiler that was ended stay until they are
/// cleared away as others are.
const UNFINISHED: &str = "unfinished-";

/// A folder of machine code.
#[derive(Debug)]
pub struct CodeCache {
    folder: PathBuf,
    engine: String,
}

impl CodeCache {
    /// The code of `engine` below `folder`, which need not be there.
    pub fn new(folder: PathBuf, engine: &Engine) -> Self {
        Self {
            folder,
            engine: name(engine),
        }
    }

    /// Where the code of all engines lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The code of a program, mapped; none if it is not there, or not to be trusted.
    pub fn load(&self, engine: &Engine, digest: Digest) -> Option<Compiled> {
        let (path, checksum) = self.find(digest)?;
        let loaded = check(&path, &checksum)
            .map_err(|error| error.to_string())
            .and_then(|file| map(engine, &file).map_err(|error| format!("{error:#}")));
        match loaded {
            Ok(compiled) => Some(compiled),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "machine code is not used");
                // It would be found again, and there is nothing to lose.
                let _ = fs::remove_file(path);
                None
            }
        }
    }

    /// Keeps `code` for the program of that digest.
    pub fn insert(&self, digest: Digest, code: &[u8], limit: Bytes) -> io::Result<()> {
        let folder = self.folder.join(&self.engine);
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&folder)?;
        let unfinished = folder.join(format!("{UNFINISHED}{}", std::process::id()));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let checksum = Digest::of(code).hex();
        let written = options.open(&unfinished).and_then(|mut file| {
            file.write_all(code)?;
            fs::rename(
                &unfinished,
                folder.join(format!("{}-{checksum}", digest.hex())),
            )
        });
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written?;
        self.shrink(limit)
    }

    fn find(&self, digest: Digest) -> Option<(PathBuf, String)> {
        let prefix = format!("{}-", digest.hex());
        let entries = fs::read_dir(self.folder.join(&self.engine)).ok()?;
        entries.flatten().find_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let checksum = name.strip_prefix(&prefix)?;
            Some((entry.path(), checksum.to_owned()))
        })
    }

    /// Removes what was used longest ago, of any engine, until the rest is within the limit.
    fn shrink(&self, limit: Bytes) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for engine in fs::read_dir(&self.folder)?.flatten() {
            for entry in fs::read_dir(engine.path())?.flatten() {
                // One that another process has removed is no longer of interest.
                if let Ok(metadata) = entry.metadata() {
                    let used = metadata.modified()?;
                    files.push((used, metadata.len(), entry.path()));
                }
            }
        }
        files.sort_by_key(|(used, _, _)| std::cmp::Reverse(*used));
        let mut kept = 0_u64;
        for (_, len, path) in files {
            kept = kept.saturating_add(len);
            if kept > limit.0 {
                fs::remove_file(&path)?;
                // The folder of an engine that is no more; others are not empty.
                let _ = path.parent().map(fs::remove_dir);
            }
        }
        Ok(())
    }
}

/// The name of an engine: of all that machine code depends on.
fn name(engine: &Engine) -> String {
    let mut hasher = Sha(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    let digest: [u8; 32] = hasher.0.finalize().into();
    let mut digits = Digest(digest).hex();
    digits.truncate(ENGINE_DIGITS);
    digits
}

/// A hasher that gives the same wherever and whenever it is used.
struct Sha(Sha256);

impl Hasher for Sha {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest: [u8; 32] = self.0.clone().finalize().into();
        digest
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }
}

/// Opens what may be mapped, and marks it as used.
fn check(path: &Path, checksum: &str) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    let metadata = file.metadata()?;
    let ours = rustix::process::geteuid().as_raw();
    if !metadata.is_file() || metadata.uid() != ours || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other("others can have written it"));
    }
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            count => hasher.update(&chunk[..count]),
        }
    }
    let found: [u8; 32] = hasher.finalize().into();
    if Digest(found).hex() != checksum {
        return Err(io::Error::other("its checksum is wrong"));
    }
    let now = rustix::fs::Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_NOW,
    };
    let used = rustix::fs::Timestamps {
        last_access: now,
        last_modification: now,
    };
    // Without it, it only goes sooner than it should.
    let _ = rustix::fs::futimens(&file, &used);
    Ok(file)
}

fn map(engine: &Engine, file: &File) -> wasmtime::Result<Compiled> {
    // The file that was checked, whatever its name means by now.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    match Engine::detect_precompiled_file(&path)? {
        Some(Precompiled::Module) => {
            // SAFETY: its bytes are those that a compiler of this user wrote: nobody else can have
            // written to it, and its checksum is right. wasmtime checks that it is of this engine.
            unsafe { Module::deserialize_file(engine, path) }.map(Compiled::Module)
        }
        Some(Precompiled::Component) => {
            // SAFETY: as above.
            unsafe { Component::deserialize_file(engine, path) }.map(Compiled::Component)
        }
        None => Err(wasmtime::Error::msg("it is no machine code")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::{engine, machine_code};

    const PROGRAM: &[u8] = b"\0asm\x01\0\0\0";

    struct Fixture {
        root: tempfile::TempDir,
        engine: Engine,
        cache: CodeCache,
        code: Vec<u8>,
    }

    fn digest(number: u8) -> Digest {
        Digest::of(&[number])
    }

    impl Fixture {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let engine = engine::for_compiling().unwrap();
            let cache = CodeCache::new(root.path().join("code"), &engine);
            let code = machine_code::precompile(&engine, PROGRAM).unwrap();
            Self {
                root,
                engine,
                cache,
                code,
            }
        }

        fn insert(&self, number: u8, limit: Bytes) {
            self.cache
                .insert(digest(number), &self.code, limit)
                .unwrap();
        }

        fn path(&self, number: u8) -> PathBuf {
            self.cache.find(digest(number)).unwrap().0
        }

        fn has(&self, number: u8) -> bool {
            self.cache.load(&self.engine, digest(number)).is_some()
        }
    }

    #[test]
    fn what_was_kept_is_mapped_by_the_engine_of_executors() {
        let fixture = Fixture::new();
        assert!(!fixture.has(1));
        fixture.insert(1, LIMIT);
        assert!(fixture.has(1));
        let pooled = engine::new().unwrap();
        let cache = CodeCache::new(fixture.root.path().join("code"), &pooled);
        assert!(cache.load(&pooled, digest(1)).is_some());
        // Another configuration has another name.
        let other = Engine::default();
        let cache = CodeCache::new(fixture.root.path().join("code"), &other);
        assert!(cache.load(&other, digest(1)).is_none());
        assert!(fixture.has(1));
    }

    #[test]
    fn what_is_damaged_or_writable_by_others_counts_as_absent() {
        let fixture = Fixture::new();
        fixture.insert(1, LIMIT);
        let mut bytes = fs::read(fixture.path(1)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(fixture.path(1), &bytes).unwrap();
        assert!(!fixture.has(1));
        fixture.insert(1, LIMIT);
        assert!(fixture.has(1), "it is made anew");
        let shared = fs::Permissions::from_mode(0o620);
        fs::set_permissions(fixture.path(1), shared).unwrap();
        assert!(!fixture.has(1));
        // Bytes with a right checksum that are no code.
        fixture.cache.insert(digest(2), b"text", LIMIT).unwrap();
        assert!(!fixture.has(2));
        // A link to what another folder holds.
        fixture.insert(3, LIMIT);
        let (path, moved) = (fixture.path(3), fixture.root.path().join("moved"));
        fs::rename(&path, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, &path).unwrap();
        assert!(!fixture.has(3));
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let fixture = Fixture::new();
        let room_for_two = Bytes(2 * fixture.code.len() as u64);
        let used_long_ago = |number, seconds| {
            let file = File::open(fixture.path(number)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds))
                .unwrap();
        };
        fixture.insert(1, room_for_two);
        used_long_ago(1, 1);
        fixture.insert(2, room_for_two);
        used_long_ago(2, 2);
        assert!(fixture.has(1), "which is a use");
        fixture.insert(3, room_for_two);
        assert!(fixture.has(1) && !fixture.has(2) && fixture.has(3));
    }
}
