//! A task's output: its files from where it was asked to and, if it is to be followed, on until the
//! task has ended and all was sent.
//!
//! Output that is rotated lies in several files, the oldest first in `NAME.N … NAME.1, NAME`; they are
//! read as one. What is thrown away under a reader's hands it does not get.

use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tepui_executor::packs::{self, Packed};
use tepui_types::TaskId;
use tepui_types::command::CommandOptions;
use tepui_types::ids::is_label;
use tepui_types::wire::stream::{LogRequest, MAX_CHUNK, StreamFrame};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::{Reader, Sender, StreamError, refused};
use crate::sandbox::Layout;

/// How often a followed file is looked at: often enough to look live, at the
/// cost of one `read` that finds nothing.
const POLL: Duration = Duration::from_millis(25);

pub(super) async fn serve<C: AsyncRead + AsyncWrite>(
    sender: &mut Sender<'_, C>,
    reader: Reader<C>,
    layout: &Layout,
    ended: Option<CancellationToken>,
    request: LogRequest,
) -> Result<(), StreamError> {
    let member = request.member.as_deref();
    if let Some(name) = member.filter(|name| !is_label(name)) {
        return Err(refused("no-member", format!("`{name}` names no command")));
    }
    let path = layout.output(&request.task, member, request.output);
    let ended = ended.filter(|_| request.follow);
    let had_files = copy(sender, reader, &path, request.offset, ended).await?;
    if !had_files && let Some(packed) = packed(layout, &request.task).await? {
        let rest = from(packed.output(request.output), request.offset);
        for bytes in rest.chunks(MAX_CHUNK) {
            sender.send(StreamFrame::Data(bytes.to_vec())).await?;
        }
    }
    sender.send(StreamFrame::End).await
}

/// What is packed of a task's outputs.
pub(super) async fn packed(layout: &Layout, task: &TaskId) -> Result<Option<Packed>, StreamError> {
    let (folder, task) = (layout.packs(), task.clone());
    let found = tokio::task::spawn_blocking(move || packs::find(&folder, &task));
    let found = found.await.map_err(io::Error::other).flatten();
    found.map_err(|error| refused("output-unreadable", error.to_string()))
}

/// What comes from `offset` on; from the end when that is negative.
fn from(bytes: &[u8], offset: i64) -> &[u8] {
    let start = match usize::try_from(offset) {
        Ok(start) => start.min(bytes.len()),
        Err(_) => {
            let back = usize::try_from(offset.unsigned_abs()).unwrap_or(usize::MAX);
            bytes.len().saturating_sub(back)
        }
    };
    &bytes[start..]
}

/// Sends what is there from `offset`; until its end, or until `ended` and then to its end. False when
/// there were no files.
pub(super) async fn copy<C: AsyncRead + AsyncWrite>(
    sender: &mut Sender<'_, C>,
    mut reader: Reader<C>,
    path: &Path,
    offset: i64,
    ended: Option<CancellationToken>,
) -> Result<bool, StreamError> {
    let unreadable = |error: io::Error| {
        let message = format!("{}: {error}", path.display());
        refused("output-unreadable", message)
    };
    let mut output = Output::new(path);
    let mut start = Some(offset);
    let mut chunk = vec![0; MAX_CHUNK];
    // Of a task that writes faster than it is read, what is not followed would have no end: it ends
    // where the output did when it was asked for.
    let mut left = u64::MAX;
    loop {
        // Looked at first: what was written before the end is read after it.
        let is_last = ended.as_ref().is_none_or(CancellationToken::is_cancelled);
        if let Some(offset) = start
            && let Some(rest) = output.open(offset).await.map_err(unreadable)?
        {
            start = None;
            if ended.is_none() {
                left = rest;
            }
        }
        let mut sent = 0;
        while left > 0 {
            let count = output.read(&mut chunk).await.map_err(unreadable)?;
            let count = count.min(usize::try_from(left).unwrap_or(usize::MAX));
            if count == 0 {
                break;
            }
            left -= count as u64;
            sender
                .send(StreamFrame::Data(chunk[..count].to_vec()))
                .await?;
            sent += count;
        }
        match &ended {
            _ if is_last => return Ok(start.is_none()),
            // Between bursts there is often more at once.
            _ if sent > 0 => tokio::task::yield_now().await,
            None => return Ok(start.is_none()),
            Some(ended) => tokio::select! {
                () = ended.cancelled() => {}
                () = tokio::time::sleep(POLL) => {}
                () = reader.hung_up() => return Err(StreamError::Gone),
            },
        }
    }
}

/// The files of one stream, read one after another.
pub(super) struct Output {
    path: PathBuf,
    file: Option<File>,
}

impl Output {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: None,
        }
    }

    /// Begins at `offset`, from the end when negative, and tells how much is there from it on; none
    /// while nothing was written.
    pub(super) async fn open(&mut self, offset: i64) -> io::Result<Option<u64>> {
        let mut parts = Vec::new();
        for number in (0..CommandOptions::MAX_LOG_FILES).rev() {
            if let Some(file) = open(&self.part(number)).await? {
                let len = file.metadata().await?.len();
                parts.push((file, len));
            }
        }
        let all: u64 = parts.iter().map(|(_, len)| len).sum();
        let mut skip = match u64::try_from(offset) {
            Ok(start) => start,
            Err(_) => all.saturating_sub(offset.unsigned_abs()),
        };
        let rest = all.saturating_sub(skip);
        let last = parts.len().saturating_sub(1);
        for (place, (mut file, len)) in parts.into_iter().enumerate() {
            if skip < len || place == last {
                file.seek(SeekFrom::Start(skip)).await?;
                self.file = Some(file);
                return Ok(Some(rest));
            }
            skip -= len;
        }
        Ok(None)
    }

    /// The next bytes; none at the end of what is there now.
    pub(super) async fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(file) = &mut self.file else {
                return Ok(0);
            };
            // Looked for first: what was written to this one before it was left is read below.
            let next = next_after(&self.path, file).await?;
            let count = file.read(chunk).await?;
            match next {
                Some(next) if count == 0 => self.file = Some(next),
                _ => return Ok(count),
            }
        }
    }

    fn part(&self, number: u32) -> PathBuf {
        part(&self.path, number)
    }
}

/// What was begun when this file was left; none if it is still the newest.
async fn next_after(path: &Path, file: &File) -> io::Result<Option<File>> {
    let ours = file.metadata().await?.ino();
    let newest = match tokio::fs::metadata(path).await {
        Ok(newest) => newest.ino(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if newest == ours {
        return Ok(None);
    }
    // The one before ours in the order of numbers; the oldest that is left if ours is gone.
    let mut after = None;
    for number in 0..CommandOptions::MAX_LOG_FILES {
        match open(&part(path, number)).await? {
            Some(file) if file.metadata().await?.ino() == ours => break,
            Some(file) => after = Some(file),
            None if number > 0 => break,
            None => {}
        }
    }
    Ok(after)
}

fn part(path: &Path, number: u32) -> PathBuf {
    match number {
        0 => path.to_owned(),
        number => {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            name.into()
        }
    }
}

async fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path).await {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tepui_types::wire::stream::VERSION;

    use super::*;
    use crate::frames::FrameReader;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        std::fs::write(&path, vec![b'x'; 4 * MAX_CHUNK]).unwrap();
        // The reader's end lives and holds a little.
        let (ours, _theirs) = tokio::io::duplex(16);
        let (read, write) = tokio::io::split(ours);
        let metrics = Metrics::new();
        let mut sender = Sender {
            write,
            metrics: &metrics,
            patience: Duration::from_millis(20),
        };
        let copied = copy(&mut sender, Reader(read), &path, 0, None).await;
        assert!(matches!(copied, Err(StreamError::Stalled(_))), "{copied:?}");
    }

    async fn all(output: &mut Output) -> String {
        let mut text = String::new();
        let mut chunk = [0; 3];
        loop {
            match output.read(&mut chunk).await.unwrap() {
                0 => return text,
                count => text.push_str(std::str::from_utf8(&chunk[..count]).unwrap()),
            }
        }
    }

    #[tokio::test]
    async fn files_of_rotated_output_are_read_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        for (offset, expected) in [
            (0, "abcdefghi"),
            (4, "efghi"),
            (-2, "hi"),
            (9, ""),
            (20, ""),
        ] {
            for (name, text) in [("stdout.2", "abc"), ("stdout.1", "def"), ("stdout", "ghi")] {
                std::fs::write(folder.path().join(name), text).unwrap();
            }
            let mut output = Output::new(&path);
            let rest = output.open(offset).await.unwrap();
            assert_eq!(rest, Some(expected.len() as u64), "from {offset}");
            assert_eq!(all(&mut output).await, expected, "from {offset}");
        }
    }

    #[tokio::test]
    async fn what_is_not_followed_ends_where_it_did_when_it_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        std::fs::write(&path, vec![b'x'; 3 * MAX_CHUNK]).unwrap();
        // The reader's end takes one frame at most before it is read.
        let (ours, mut theirs) = tokio::io::duplex(MAX_CHUNK);
        let (read, write) = tokio::io::split(ours);
        let metrics = Metrics::new();
        let mut sender = Sender {
            write,
            metrics: &metrics,
            patience: crate::streams::STALL,
        };
        let offset = -1 - MAX_CHUNK as i64;
        let mut file = std::fs::File::options().append(true).open(&path).unwrap();
        let copying = async move {
            copy(&mut sender, Reader(read), &path, offset, None)
                .await
                .is_ok()
        };
        let reading = async {
            let mut frames = FrameReader::<_, StreamFrame>::new(&mut theirs, VERSION);
            let mut all = 0;
            while let Ok(Some(batch)) = frames.next_batch().await {
                for frame in batch {
                    let StreamFrame::Data(bytes) = frame else {
                        panic!("data alone: {frame:?}");
                    };
                    all += bytes.len();
                    // Written faster than it is read.
                    file.write_all(&[b'y'; 2 * MAX_CHUNK]).unwrap();
                }
            }
            all
        };
        assert_eq!(tokio::join!(copying, reading), (true, MAX_CHUNK + 1));
    }

    #[tokio::test]
    async fn a_reader_goes_on_in_the_file_that_comes_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("stdout"), "one ").unwrap();
        let mut output = Output::new(&path("stdout"));
        assert_eq!(output.open(0).await.unwrap(), Some(4));
        assert_eq!(all(&mut output).await, "one ");
        for text in ["two ", "three "] {
            let _ = std::fs::rename(path("stdout.1"), path("stdout.2"));
            std::fs::rename(path("stdout"), path("stdout.1")).unwrap();
            std::fs::write(path("stdout"), text).unwrap();
        }
        assert_eq!(all(&mut output).await, "two three ");
        // All that it had read is thrown away.
        std::fs::remove_file(path("stdout.2")).unwrap();
        std::fs::remove_file(path("stdout.1")).unwrap();
        std::fs::rename(path("stdout"), path("stdout.2")).unwrap();
        std::fs::write(path("stdout.1"), "four ").unwrap();
        std::fs::write(path("stdout"), "five").unwrap();
        assert_eq!(all(&mut output).await, "four five");
    }
}
