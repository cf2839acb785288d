//! Zip archives, as their directories list what is in them.

use std::io::{BufReader, Read};
use std::path::Path;

use rustix::fs::FileType;
use zip::ZipReadOptions;
use zip::read::{Config, ZipFile};
use zip::result::ZipError;
use zip::unstable::read::ZipIterable;

use super::source::Positioned;
use super::tar::no_file;
use super::{BUFFER, Target, unreadable};
use crate::sandbox::{Trouble, said};

/// Where a link leads is a path: no longer than the kernel takes.
const MAX_LINK: u64 = 4096;

type Input<'a> = BufReader<Positioned<'a>>;

/// Unpacks all members. The directory is read entry by entry: it may have any number.
pub fn unpack(source: Positioned<'_>, target: &mut Target<'_>) -> Result<(), Trouble> {
    let bytes = BufReader::with_capacity(BUFFER, source.clone());
    let directory = BufReader::new(source);
    let mut archive = ZipIterable::try_new(directory, Config::default()).map_err(invalid)?;
    let files = archive.files_with_reader(bytes, ZipReadOptions::new());
    let mut files = files.map_err(invalid)?;
    while let Some(file) = files.next() {
        place(file.map_err(invalid)?, target)?;
    }
    Ok(())
}

fn place(mut file: ZipFile<'_, Input<'_>>, target: &mut Target<'_>) -> Result<(), Trouble> {
    let name = file.name_raw().to_owned();
    let (inner, path) = target.path(&name)?;
    let mode = file.unix_mode();
    // Only archives from Unix say kinds, and not all of them do.
    let kind = match mode.map(|mode| mode & 0o170_000) {
        None | Some(0) => None,
        Some(_) => mode.map(FileType::from_raw_mode),
    };
    let is_folder = name.ends_with(b"/");
    match kind {
        _ if inner.as_os_str().is_empty() => Ok(()),
        Some(FileType::Symlink) => {
            let link = link(&mut file, &inner)?;
            target.symlink(&path, &link, &inner, None)
        }
        Some(FileType::Directory) => target.sandbox.folder(&path, mode.unwrap_or(0o755), None),
        None | Some(FileType::RegularFile) if is_folder => {
            target.sandbox.folder(&path, 0o755, None)
        }
        None | Some(FileType::RegularFile) => {
            target.file(&path, file.size(), file, mode.unwrap_or(0o644), None)
        }
        Some(_) => Err(no_file(&inner)),
    }
}

fn link(file: &mut ZipFile<'_, Input<'_>>, inner: &Path) -> Result<Vec<u8>, Trouble> {
    let mut link = Vec::new();
    let read = file.by_ref().take(MAX_LINK + 1).read_to_end(&mut link);
    read.map_err(unreadable)?;
    match link.len() as u64 <= MAX_LINK {
        true => Ok(link),
        false => Err(Trouble::Invalid(said(inner, "it is a link to no path"))),
    }
}

fn invalid(error: ZipError) -> Trouble {
    let why = match error {
        ZipError::UnsupportedArchive(why) => {
            format!("the zip is of a kind that is not read ({why}): pack it anew with `zip`")
        }
        error => format!("the zip is damaged ({error}): pack it anew"),
    };
    Trouble::Invalid(why)
}
