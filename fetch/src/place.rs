//! What is here is put into its sandbox: as a file, or unpacked. Blocks.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tepui_transfer::Draft;

use crate::archive::{Format, is_called_archive, sniff, unpack};
use crate::cache::Lease;
use crate::error::FetchError;
use crate::item::{Extract, Wanted};
use crate::sandbox::{Sandbox, Trouble};

/// Copied at once by the kernel, between looks at whether it is still wanted.
const COPY: u64 = 8 * 1024 * 1024;

/// What is here, checked.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    /// Open.
    pub file: Arc<File>,
    /// Whose it is.
    pub from: From,
}

/// Whose something is.
#[derive(Debug, Clone)]
pub(crate) enum From {
    /// Nobody else's: it may be moved.
    Draft(Arc<Draft>),
    /// The cache's, which keeps it meanwhile.
    Kept(#[expect(dead_code, reason = "it is there to be dropped")] Arc<Lease>),
    /// Somebody else's.
    Elsewhere,
}

/// Puts it where it is wanted.
pub(crate) fn place(
    sandbox: &mut Sandbox,
    wanted: &Wanted,
    got: &Got,
    cancelled: &AtomicBool,
) -> Result<(), FetchError> {
    let placed = match format(wanted, got, cancelled).map_err(|error| error.of(&wanted.name))? {
        Some(format) => unpack(&got.file, format, sandbox, wanted.folder(), cancelled),
        None => put(sandbox, wanted.file()?, wanted.executable, got, cancelled),
    };
    placed.map_err(|error| error.of(&wanted.name))
}

/// What it is unpacked as, if it is.
fn format(wanted: &Wanted, got: &Got, cancelled: &AtomicBool) -> Result<Option<Format>, Trouble> {
    let is_called = || wanted.called.as_deref().is_some_and(is_called_archive);
    match wanted.extract {
        Extract::None => Ok(None),
        Extract::Auto if !is_called() => Ok(None),
        Extract::Auto => sniff(&got.file, cancelled),
        Extract::Required => {
            let none = || {
                let why = "it is neither tar (plain, or in gzip, zstd or xz) nor zip";
                Trouble::Invalid(why.into())
            };
            sniff(&got.file, cancelled)?.ok_or_else(none).map(Some)
        }
    }
}

fn put(
    sandbox: &mut Sandbox,
    path: &Path,
    executable: bool,
    got: &Got,
    cancelled: &AtomicBool,
) -> Result<(), Trouble> {
    let mode = if executable { 0o755 } else { 0o644 };
    let length = got.file.metadata().map(|metadata| metadata.len());
    let length = length.map_err(|error| sandbox.failed(path, error))?;
    if length > sandbox.room() {
        return Err(Trouble::TooLarge(sandbox.limit()));
    }
    if let From::Draft(draft) = &got.from
        && sandbox.take(draft.path(), path)?
    {
        sandbox.charge(length)?;
        return sandbox.dress(&got.file, path, mode, None);
    }
    let copy = sandbox.file(path)?;
    let mut at = 0;
    loop {
        if cancelled.load(Ordering::Relaxed) {
            return Err(Trouble::Cancelled);
        }
        let copied = copy_some(&got.file, &mut at, &copy);
        match copied.map_err(|error| sandbox.failed(path, error))? {
            0 => break,
            // What is elsewhere may have grown since its length was asked for.
            copied => sandbox.charge(copied)?,
        }
    }
    sandbox.dress(&copy, path, mode, None)
}

/// By the kernel, which shares the blocks where the file system can.
fn copy_some(from: &File, at: &mut u64, to: &File) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;

    loop {
        match rustix::fs::copy_file_range(from, Some(at), to, None, COPY as usize) {
            Ok(copied) => return Ok(copied as u64),
            Err(rustix::io::Errno::INTR) => {}
            Err(
                rustix::io::Errno::XDEV
                | rustix::io::Errno::INVAL
                | rustix::io::Errno::NOSYS
                | rustix::io::Errno::OPNOTSUPP,
            ) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let mut buffer = vec![0; 128 * 1024];
    let read = from.read_at(&mut buffer, *at)?;
    io::Write::write_all(&mut &*to, &buffer[..read])?;
    *at += read as u64;
    Ok(read as u64)
}
