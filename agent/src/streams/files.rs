//! What is in a task's sandbox: listed, read, packed.
//!
//! The sandbox is the task's, and may change under the agent's hands. So every step goes through
//! openat2(2), which leads out of it by nothing, and what is no file or folder is not opened.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, openat2, statat};
use tepui_types::api::file::{FileEntry, FileKind, FileList, MAX_ENTRIES};
use tepui_types::wire::stream::{FileForm, FileRequest, MAX_CHUNK, StreamFrame};
use tepui_types::{Reason, TaskId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::{Sender, StreamError, refused};
use crate::task_disks::{Shown, TaskDisks};

/// Chunks that wait for the reader.
const QUEUE: usize = 4;
/// How deep folders are packed: deeper ones are a task's joke.
const MAX_DEPTH: usize = 256;

pub(super) async fn serve<C: AsyncRead + AsyncWrite>(
    sender: &mut Sender<'_, C>,
    disks: &Arc<TaskDisks>,
    request: FileRequest,
) -> Result<(), StreamError> {
    let (chunks, mut queue) = mpsc::channel::<Vec<u8>>(QUEUE);
    let disks = disks.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let (_shown, root) = enter(&disks, &request.task)?;
        let mut to = BufWriter::with_capacity(MAX_CHUNK, Chunks { chunks });
        read(root, &request, &mut to)
    });
    while let Some(chunk) = queue.recv().await {
        sender.send(StreamFrame::Data(chunk)).await?;
    }
    match reading.await {
        Ok(Ok(())) => sender.send(StreamFrame::End).await,
        Ok(Err(reason)) => Err(StreamError::Refused(reason)),
        Err(error) => Err(refused("file-unreadable", error.to_string())),
    }
}

/// Opens a sandbox. One whose task ends between the two steps is laid to rest, and then shown again.
fn enter(disks: &Arc<TaskDisks>, task: &TaskId) -> Result<(Shown, io::Result<OwnedFd>), Reason> {
    let mut shown = disks.show(task)?;
    let mut root = open_root(shown.path());
    if matches!(&root, Err(error) if error.kind() == io::ErrorKind::NotFound) {
        shown = disks.show(task)?;
        root = open_root(shown.path());
    }
    Ok((shown, root))
}

fn read(root: io::Result<OwnedFd>, request: &FileRequest, to: &mut Buffered) -> Result<(), Reason> {
    let path = match request.path.trim_matches('/') {
        "" => Path::new("."),
        path => Path::new(path),
    };
    let failed = |error: io::Error| {
        let code = match error.kind() {
            io::ErrorKind::NotFound => "file-missing",
            _ => "file-unreadable",
        };
        let message = format!("`{}` of the sandbox: {}", path.display(), said(&error));
        Reason::new(code, message)
    };
    let root = match root {
        // A task that left nothing there has no sandbox.
        Err(error) if error.kind() == io::ErrorKind::NotFound && path == Path::new(".") => {
            return send_nothing(request.form, to).map_err(failed);
        }
        root => root,
    };
    let done = root.and_then(|root| match request.form {
        FileForm::List => {
            let list = list(&open(&root, path, OFlags::DIRECTORY)?)?;
            serde_json::to_writer(&mut *to, &list).map_err(io::Error::from)
        }
        FileForm::Bytes { offset, limit } => {
            let mut file = File::from(open(&root, path, OFlags::NONBLOCK)?);
            is_file(&file)?;
            file.seek(SeekFrom::Start(offset))?;
            copy(&mut file.take(limit.unwrap_or(u64::MAX)), to)
        }
        FileForm::Tar => {
            let mut archive = tar::Builder::new(&mut *to);
            pack(&mut archive, &root, path)?;
            archive.into_inner().map(drop)
        }
    });
    done.and_then(|()| to.flush()).map_err(failed)
}

/// A folder with nothing in it.
fn send_nothing(form: FileForm, to: &mut Buffered) -> io::Result<()> {
    match form {
        FileForm::List => serde_json::to_writer(&mut *to, &FileList::default())?,
        FileForm::Bytes { .. } => return Err(io::ErrorKind::IsADirectory.into()),
        FileForm::Tar => tar::Builder::new(&mut *to).finish()?,
    }
    to.flush()
}

/// What went wrong, for people.
fn said(error: &io::Error) -> String {
    match error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error)
    {
        Some(rustix::io::Errno::XDEV) => "a link leads out of the sandbox".into(),
        _ => error.to_string(),
    }
}

fn open_root(sandbox: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(sandbox, flags, Mode::empty())?)
}

/// Links are followed as long as they stay inside.
fn open(root: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(root, path, flags, Mode::empty(), inside)?)
}

fn is_file(file: &File) -> io::Result<()> {
    let metadata = file.metadata()?;
    match metadata.is_file() {
        true => Ok(()),
        false if metadata.is_dir() => Err(io::Error::other("it is a folder: list it")),
        false => Err(io::Error::other("it is no file")),
    }
}

fn list(folder: &OwnedFd) -> io::Result<FileList> {
    let mut list = FileList::default();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        if list.entries.len() == MAX_ENTRIES {
            list.is_cut = true;
            break;
        }
        // One that has gone since is not there.
        if let Ok(stat) = statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            let name = entry.file_name().to_string_lossy().into_owned();
            list.entries.push(describe(name, &stat));
        }
    }
    list.entries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(list)
}

fn describe(name: String, stat: &Stat) -> FileEntry {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    FileEntry {
        name,
        kind: match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Folder,
            FileType::Symlink => FileKind::Link,
            _ => FileKind::Other,
        },
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & 0o7777,
        modified_ms: seconds.saturating_mul(1000),
    }
}

/// A file, or a folder with all that is in it. Links stay links; what is neither is left out.
fn pack(archive: &mut tar::Builder<&mut Buffered>, root: &OwnedFd, path: &Path) -> io::Result<()> {
    let name = path.file_name().map_or_else(PathBuf::new, PathBuf::from);
    let start = open(root, path, OFlags::NONBLOCK)?;
    let file = File::from(start.try_clone()?);
    if file.metadata()?.is_file() {
        return pack_file(archive, &name, file);
    }
    // By their paths: so many descriptors there are not.
    let mut folders = vec![(path.to_owned(), name)];
    while let Some((inside, name)) = folders.pop() {
        // The first may be reached by a link; below it none is followed.
        let folder = match inside == path {
            true => start.try_clone()?,
            false => match open_folder(root, &inside) {
                Ok(folder) => folder,
                Err(error) if has_changed(&error) => continue,
                Err(error) => return Err(error.into()),
            },
        };
        if name.components().count() > MAX_DEPTH {
            let message = format!("folders are more than {MAX_DEPTH} deep");
            return Err(io::Error::other(message));
        }
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let entry_name = entry.file_name();
            if matches!(entry_name.to_bytes(), b"." | b"..") {
                continue;
            }
            let place = name.join(os_str(entry_name.to_bytes()));
            let Ok(stat) = statat(&folder, entry_name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let open = || rustix::fs::openat(&folder, entry_name, flags, Mode::empty());
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => match open() {
                    Ok(file) => pack_file(archive, &place, file.into())?,
                    Err(error) if has_changed(&error) => {}
                    Err(error) => return Err(error.into()),
                },
                FileType::Directory => {
                    let mut header = header(&stat, tar::EntryType::Directory);
                    archive.append_data(&mut header, &place, io::empty())?;
                    folders.push((inside.join(os_str(entry_name.to_bytes())), place));
                }
                FileType::Symlink => {
                    let Ok(target) = rustix::fs::readlinkat(&folder, entry_name, Vec::new()) else {
                        continue;
                    };
                    let mut header = header(&stat, tar::EntryType::Symlink);
                    let target = PathBuf::from(os_str(target.as_bytes()));
                    archive.append_link(&mut header, &place, target)?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn open_folder(root: &OwnedFd, inside: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside_alone = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(root, inside, flags, Mode::empty(), inside_alone)
}

/// Whether something is not what it was a moment ago: then it is left out.
fn has_changed(error: &rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(
        *error,
        Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO
    )
}

/// As many bytes as it had at first, whatever is written to it meanwhile.
fn pack_file(
    archive: &mut tar::Builder<&mut Buffered>,
    place: &Path,
    file: File,
) -> io::Result<()> {
    if !file.metadata()?.is_file() {
        return Ok(());
    }
    let stat = rustix::fs::fstat(&file)?;
    let mut header = header(&stat, tar::EntryType::Regular);
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    header.set_size(size);
    let bytes = file.chain(io::repeat(0)).take(size);
    archive.append_data(&mut header, place, bytes)
}

fn header(stat: &Stat, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    // Whoever unpacks it owns it.
    header.set_mode(stat.st_mode & 0o777);
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header
}

fn os_str(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

fn copy(from: &mut impl Read, to: &mut Buffered) -> io::Result<()> {
    let mut chunk = vec![0; MAX_CHUNK];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&chunk[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

type Buffered = BufWriter<Chunks>;

/// What is written is sent, a chunk at a time.
struct Chunks {
    chunks: mpsc::Sender<Vec<u8>>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(MAX_CHUNK);
        let sent = self.chunks.blocking_send(bytes[..count].to_vec());
        // Nobody reads any more.
        sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
