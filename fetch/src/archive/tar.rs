//! Tar archives, from their first member to their last.

use std::io::{self, BufReader, Read};
use std::path::Path;

use tepui_tarball::{Kind, Member, Tarball, plain};

use super::source::Positioned;
use super::{BUFFER, Target, depth, unreadable};
use crate::sandbox::{Trouble, said};

/// What an archive may hold besides the bytes of its files: a kibibyte for each of a million
/// headers. Beyond that it is made to keep its reader busy.
const MAX_HEADERS: u64 = 1024 * 1024 * 1024;

/// Unpacks all members.
pub fn unpack(source: Positioned<'_>, target: &mut Target<'_>) -> Result<(), Trouble> {
    let input = BufReader::with_capacity(BUFFER, source);
    let plain = plain(input).map_err(unreadable)?;
    let most = target.sandbox.room().saturating_add(MAX_HEADERS);
    let mut tarball = Tarball::new(Bounded {
        inner: plain,
        left: most,
    });
    while let Some(member) = tarball.advance().map_err(unreadable)? {
        place(&mut tarball, &member, target)?;
    }
    // The sums of what is compressed stand at its end.
    let rest = io::copy(&mut tarball.into_inner(), &mut io::sink());
    rest.map(drop).map_err(unreadable)
}

fn place(
    tarball: &mut Tarball<Bounded<'_>>,
    member: &Member,
    target: &mut Target<'_>,
) -> Result<(), Trouble> {
    let (inner, path) = target.path(&member.name)?;
    let time = Some(member.mtime);
    match member.kind {
        Kind::Folder if inner.as_os_str().is_empty() => Ok(()),
        Kind::Folder => target.sandbox.folder(&path, member.mode, time),
        Kind::File => target.file(&path, member.size, tarball, member.mode, time),
        Kind::Symlink => target.symlink(&path, &member.link, &inner, time),
        Kind::HardLink => {
            let (_, to) = target.path(&member.link)?;
            target.sandbox.hard_link(&path, &to, depth(&inner))
        }
        Kind::Fifo | Kind::Device => Err(no_file(&inner)),
    }
}

/// Devices would be ways out of the sandbox, and pipes nobody ever fetches.
pub fn no_file(inner: &Path) -> Trouble {
    let why = "it is no file, folder or link: pack the archive without devices and pipes";
    Trouble::Invalid(said(inner, why))
}

/// An archive without its compression, up to some length.
struct Bounded<'a> {
    inner: Box<dyn Read + 'a>,
    left: u64,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other("it holds far more than its files"))?;
        Ok(read)
    }
}
