//! Open files that go with a frame, from an agent to its executor (unix(7), `SCM_RIGHTS`).
//!
//! They arrive with the frame's first byte: whoever reads a frame that comes with some has them
//! already.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// The most that come with one frame: standard input, output and error.
pub const MOST: usize = 3;

/// Writes some of `bytes`, at least one, and with them the open files; tells how many.
///
/// # Errors
/// Those of sendmsg(2); then nothing was sent.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let files: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&files)];
    let message = [IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    let sent = sendmsg::<()>(socket.as_raw_fd(), &message, &rights, flags, None);
    Ok(sent?)
}

/// Reads what is there, without waiting, into `bytes`, and takes over the open files that came with
/// it; tells how many bytes.
///
/// # Errors
/// Those of recvmsg(2); `WouldBlock` when nothing is there.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut message = [IoSliceMut::new(bytes)];
    let mut space = cmsg_space!([RawFd; MOST]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut message, Some(&mut space), flags)?;
    let mut files = Vec::new();
    for control in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            // SAFETY: the kernel has just made them in this process, and nobody else knows them.
            files.extend(
                descriptors
                    .into_iter()
                    .map(|one| unsafe { OwnedFd::from_raw_fd(one) }),
            );
        }
    }
    Ok((received.bytes, files))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn open_files_come_with_the_first_byte() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        assert_eq!(send(ours.as_fd(), b"frame", &[writer.as_fd()]).unwrap(), 5);
        drop(writer);
        let mut byte = [0];
        let (count, files) = receive(theirs.as_fd(), &mut byte).unwrap();
        assert_eq!((count, files.len()), (1, 1));
        for file in files {
            File::from(file).write_all(b"through").unwrap();
        }
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        let mut rest = [0; 16];
        let (count, files) = receive(theirs.as_fd(), &mut rest).unwrap();
        assert_eq!((&rest[..count], files.len()), (&b"rame"[..], 0));
        let nothing = receive(theirs.as_fd(), &mut rest).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }
}
