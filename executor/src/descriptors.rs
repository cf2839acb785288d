//! Open files that go with a frame, from an agent to its executor (unix(7), `SCM_RIGHTS`).
//!
//! They arrive with the frame's first byte: whoever reads a frame that comes with some has them
//! already.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

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

/// What was read.
#[derive(Debug)]
pub struct Received {
    /// How many bytes.
    pub count: usize,
    /// What came with them.
    pub files: Files,
}

/// The open files that came with some bytes.
#[derive(Debug)]
pub enum Files {
    /// None were sent.
    None,
    /// These, which are those of one frame.
    Came(Vec<OwnedFd>),
    /// Those of one frame were sent, and this process has no room for all of them: it has as many
    /// descriptors as it may. Those that came are closed.
    Lost,
}

/// Reads what is there, without waiting, into `bytes`, and takes over the open files that came with
/// it. The kernel never reads past the bytes that some were sent with, so that they are one frame's.
///
/// # Errors
/// Those of recvmsg(2); `WouldBlock` when nothing is there.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<Received> {
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut space = Space([0; SPACE]);
    // SAFETY: all zeros is a message without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = space.0.as_mut_ptr().cast();
    message.msg_controllen = SPACE as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message names memory of these lengths, which lives and is nobody else's.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has just filled this message.
    let files = unsafe { take_over(&message) };
    let files = match (message.msg_flags & libc::MSG_CTRUNC, files.is_empty()) {
        (0, true) => Files::None,
        (0, false) => Files::Came(files),
        // Those that came nevertheless are closed here.
        _ => Files::Lost,
    };
    Ok(Received { count, files })
}

/// Room for what comes beside the bytes: one header, and the descriptors.
const SPACE: usize = 64;
// SAFETY: it only counts.
const _: () = assert!(
    unsafe { libc::CMSG_SPACE((MOST * size_of::<RawFd>()) as libc::c_uint) } as usize <= SPACE
);

/// Where a header of it may stand.
#[repr(align(8))]
struct Space([u8; SPACE]);

/// The open files of a message. Those of one that was cut off are among them: the kernel has made
/// them in this process, and nobody else would close them.
///
/// # Safety
/// recvmsg(2) has filled the message, and its files were not taken over before.
unsafe fn take_over(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut files = Vec::new();
    // SAFETY: the message's control bytes are as the kernel has written them, so that each header lies
    // in them with its data, and each descriptor there is open and nobody else's.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(message);
        while let Some(header) = next.as_ref() {
            if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let data = libc::CMSG_DATA(next);
                let before = data.offset_from(next.cast()) as usize;
                let count = (header.cmsg_len - before) / size_of::<RawFd>();
                for number in 0..count {
                    let file = data.cast::<RawFd>().add(number).read_unaligned();
                    files.push(OwnedFd::from_raw_fd(file));
                }
            }
            next = libc::CMSG_NXTHDR(message, next);
        }
    }
    files
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
        let received = receive(theirs.as_fd(), &mut byte).unwrap();
        let Files::Came(files) = received.files else {
            panic!("one came: {received:?}");
        };
        assert_eq!((received.count, files.len()), (1, 1));
        for file in files {
            File::from(file).write_all(b"through").unwrap();
        }
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        let mut rest = [0; 16];
        let received = receive(theirs.as_fd(), &mut rest).unwrap();
        assert_eq!(&rest[..received.count], b"rame");
        assert!(matches!(received.files, Files::None), "{received:?}");
        let nothing = receive(theirs.as_fd(), &mut rest).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn more_files_than_a_frame_may_have_are_lost_as_a_whole() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let files = [writer.as_fd(); 8 * MOST];
        send(ours.as_fd(), b"frame", &files).unwrap();
        drop(writer);
        let received = receive(theirs.as_fd(), &mut [0; 16]).unwrap();
        assert!(matches!(received.files, Files::Lost), "{received:?}");
        // Nobody holds the writing end any more.
        assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 0);
    }
}
