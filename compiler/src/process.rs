//! What a compiler's process does beside compiling, and the codes that it ends with.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use tepui_types::Digest;

/// Exit code: the answer says why there is no code.
pub const REFUSED: u8 = 3;
/// Exit code: the artifact is not the one that was asked for.
pub const DAMAGED: u8 = 4;

/// The artifact that is to be compiled; none where it is another than that, and the process ends with
/// [`DAMAGED`].
pub fn artifact(digest: Digest) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    own(io::stdin())?.read_to_end(&mut bytes)?;
    Ok((Digest::of(&bytes) == digest).then_some(bytes))
}

/// Says what came of it.
pub fn answer(bytes: &[u8]) -> io::Result<()> {
    own(io::stdout())?.write_all(bytes)
}

/// A standard stream without its buffer, which would look for ends of lines.
fn own(stream: impl AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}
