//! The files of one of a task's outputs, sent one after another.
//!
//! A place in an output is how many bytes were written to it before. Output that is rotated lies in
//! several files, of which [`parts`] tells where each begins; they are read as one, and one is open at a
//! time. What is removed before it is read the other side does not get, and it is told of that by the
//! place of what comes next.

use std::fs;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tepui_executor::output::parts;
use tepui_types::wire::stream::{self, MAX_CHUNK, StreamFrame};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::{Sender, StreamError, refused};

/// Bytes taken of a file at once where there are two outputs: neither waits for all of the other, nor
/// what is typed for both.
const BESIDE: usize = 16 * 1024;
/// How often in a row files are looked for that are being renamed, and the pause in between: together
/// far longer than renaming takes. Who was interrupted in it is not waited for.
const LOOKS: u32 = 50;
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// An output that is read.
pub(super) struct Output {
    path: PathBuf,
    which: stream::Output,
    frame: fn(Vec<u8>) -> StreamFrame,
    buffer: Box<[u8]>,
    /// The place of what is read next.
    at: u64,
    /// The file in which that is; none until it was looked for.
    part: Option<Part>,
    /// The place where to stop, if there is one.
    until: Option<u64>,
    /// The place that the other side knows to be that of the next byte.
    told: Option<u64>,
}

/// A file that is read.
struct Part {
    file: File,
    /// Whether nothing more is written to it.
    is_complete: bool,
}

impl Output {
    /// One that has its connection to itself.
    pub(super) fn alone(path: &Path, which: stream::Output) -> Self {
        Self::new(path, which, StreamFrame::Data, MAX_CHUNK)
    }

    /// One of two.
    pub(super) fn beside(path: &Path, which: stream::Output) -> Self {
        let frame = match which {
            stream::Output::Stdout => StreamFrame::Data,
            stream::Output::Stderr => StreamFrame::ErrorData,
        };
        Self::new(path, which, frame, BESIDE)
    }

    fn new(
        path: &Path,
        which: stream::Output,
        frame: fn(Vec<u8>) -> StreamFrame,
        most: usize,
    ) -> Self {
        Self {
            path: path.to_owned(),
            which,
            frame,
            buffer: vec![0; most].into(),
            at: 0,
            part: None,
            until: None,
            told: None,
        }
    }

    /// Begins at that place, or at the first that is there if it is not any more; so much before the end
    /// when negative. Tells where the end is now.
    pub(super) async fn open(&mut self, offset: i64) -> Result<u64, StreamError> {
        let from = match u64::try_from(offset) {
            Ok(place) => Start::At(place),
            Err(_) => Start::BeforeEnd(offset.unsigned_abs()),
        };
        let end = self.look(from).await;
        end.map_err(|error| self.unreadable(&error))
    }

    /// Sends nothing from that place on.
    pub(super) fn stop_at(&mut self, place: u64) {
        self.until = Some(place);
    }

    /// Says where the next byte is, unless it was said where one is.
    pub(super) async fn tell_place<C: AsyncRead + AsyncWrite>(
        &mut self,
        sender: &mut Sender<'_, C>,
    ) -> Result<(), StreamError> {
        match self.told {
            Some(_) => Ok(()),
            None => self.tell(sender, self.at).await,
        }
    }

    /// The place of what is sent next.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Whether there is no file of it.
    pub(super) fn has_none(&self) -> bool {
        self.part.is_none()
    }

    /// Sends what comes from there on of an output that is no file; from the end when that is negative.
    pub(super) async fn send_packed<C: AsyncRead + AsyncWrite>(
        &mut self,
        sender: &mut Sender<'_, C>,
        all: &[u8],
        from: i64,
    ) -> Result<(), StreamError> {
        let before_end = |bytes| all.len().saturating_sub(bytes);
        let skip = match usize::try_from(from) {
            Ok(skip) => skip.min(all.len()),
            Err(_) => before_end(usize::try_from(from.unsigned_abs()).unwrap_or(usize::MAX)),
        };
        self.at = self.at.max(skip as u64);
        for bytes in all[skip..].chunks(MAX_CHUNK) {
            self.tell(sender, self.at).await?;
            sender.send((self.frame)(bytes.to_vec())).await?;
            self.at += bytes.len() as u64;
            self.told = Some(self.at);
        }
        Ok(())
    }

    /// Sends the next bytes; false if there are none now.
    pub(super) async fn send<C: AsyncRead + AsyncWrite>(
        &mut self,
        sender: &mut Sender<'_, C>,
    ) -> Result<bool, StreamError> {
        let count = self.read().await;
        let count = count.map_err(|error| self.unreadable(&error))?;
        let begins = self.at - count as u64;
        let left = self.until.map(|until| until.saturating_sub(begins));
        let left = left.map_or(usize::MAX, |left| {
            usize::try_from(left).unwrap_or(usize::MAX)
        });
        let count = count.min(left);
        if count == 0 {
            // What is left out up to there would look as if it had never been.
            if let Some(until) = self.until.filter(|until| self.told < Some(*until)) {
                self.tell(sender, begins.min(until)).await?;
            }
            return Ok(false);
        }
        self.tell(sender, begins).await?;
        let frame = (self.frame)(self.buffer[..count].to_vec());
        sender.send(frame).await?;
        self.told = Some(begins + count as u64);
        Ok(true)
    }

    async fn tell<C: AsyncRead + AsyncWrite>(
        &mut self,
        sender: &mut Sender<'_, C>,
        place: u64,
    ) -> Result<(), StreamError> {
        if self.told == Some(place) {
            return Ok(());
        }
        self.told = Some(place);
        let (output, at) = (self.which, place);
        sender.send(StreamFrame::Begins { output, at }).await
    }

    /// Reads the next bytes into the buffer; none at the end of what is there now.
    async fn read(&mut self) -> io::Result<usize> {
        loop {
            if self.part.is_none() {
                self.look(Start::At(self.at)).await?;
            }
            let Some(part) = &mut self.part else {
                return Ok(0);
            };
            // Looked for first: what was written to this one before it was left is read below.
            let is_complete = part.is_complete || is_left(&self.path, &part.file).await?;
            let count = part.file.read(&mut self.buffer).await?;
            if count > 0 || !is_complete {
                self.at += count as u64;
                return Ok(count);
            }
            self.part = None;
        }
    }

    /// Opens the file in which that place is, if there is one, and gives the end of all of them.
    async fn look(&mut self, from: Start) -> io::Result<u64> {
        for looks in 1..=LOOKS {
            let path = self.path.clone();
            let is_last = looks == LOOKS;
            let found = tokio::task::spawn_blocking(move || look(&path, from, is_last)).await;
            if let Some(found) = found.map_err(io::Error::other)?? {
                self.at = found.at;
                self.part = found.part.map(|(file, is_complete)| Part {
                    file: File::from_std(file),
                    is_complete,
                });
                return Ok(found.end);
            }
            // sleep: until they have their names.
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Err(io::Error::other("its files are renamed all the time"))
    }

    fn unreadable(&self, error: &io::Error) -> StreamError {
        let message = format!("{}: {error}", self.path.display());
        refused("output-unreadable", message)
    }
}

/// Whether that file is not the newest any more.
async fn is_left(path: &Path, file: &File) -> io::Result<bool> {
    let ours = file.metadata().await?.ino();
    match tokio::fs::metadata(path).await {
        Ok(newest) => Ok(newest.ino() != ours),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Where to begin.
#[derive(Debug, Clone, Copy)]
enum Start {
    /// At this place.
    At(u64),
    /// So much before the end.
    BeforeEnd(u64),
}

/// What was found.
#[derive(Debug)]
struct Found {
    /// The place that was looked for, or the first after it that is there.
    at: u64,
    /// The end of what is there.
    end: u64,
    /// The file in which the place is, read from there on, and whether it is complete.
    part: Option<(fs::File, bool)>,
}

/// Looks once; none where files are being renamed. The newest is not waited for the last time: who was
/// about to make it may be gone. Blocks.
fn look(path: &Path, from: Start, is_last: bool) -> io::Result<Option<Found>> {
    let complete = parts::list(path)?;
    let newest = open(path)?;
    let before_newest = match complete.last() {
        None => Some(0),
        Some(last) => length(&parts::complete(path, *last))?.map(|length| last + length),
    };
    let is_all = newest.is_some() || complete.is_empty() || is_last;
    // Names are never used twice: what was looked at in between belongs together.
    let is_one = parts::list(path)? == complete;
    let Some(before_newest) = before_newest.filter(|_| is_all && is_one) else {
        return Ok(None);
    };
    let end = before_newest + newest.as_ref().map_or(Ok(0), len_of)?;
    let first = complete.first().copied().unwrap_or(before_newest);
    let wanted = match from {
        Start::At(place) => place,
        Start::BeforeEnd(bytes) => end.saturating_sub(bytes),
    };
    let at = wanted.max(first);
    let mut found = Found {
        at,
        end,
        part: None,
    };
    let later = complete.partition_point(|begins| *begins <= at);
    for begins in &complete[later.saturating_sub(1)..] {
        let Some(file) = open(&parts::complete(path, *begins))? else {
            return Ok(None);
        };
        if at < begins + len_of(&file)? {
            found.at = at.max(*begins);
            found.part = Some((from_place(file, found.at - begins)?, true));
            return Ok(Some(found));
        }
    }
    if let Some(newest) = newest {
        found.at = at.max(before_newest);
        let begins = found.at - before_newest;
        found.part = Some((from_place(newest, begins)?, false));
    }
    Ok(Some(found))
}

fn from_place(mut file: fs::File, place: u64) -> io::Result<fs::File> {
    file.seek(SeekFrom::Start(place))?;
    Ok(file)
}

fn len_of(file: &fs::File) -> io::Result<u64> {
    Ok(file.metadata()?.len())
}

/// None if it is not there.
fn length(path: &Path) -> io::Result<Option<u64>> {
    there(fs::metadata(path)).map(|there| there.map(|metadata| metadata.len()))
}

fn open(path: &Path) -> io::Result<Option<fs::File>> {
    there(fs::File::open(path))
}

fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use tepui_types::wire::stream::Output::Stdout;

    use super::*;
    use crate::frames::FrameReader;

    /// Those of a task: complete ones by their places, and the newest.
    fn write(path: &Path, complete: &[(u64, &str)], newest: &str) {
        for (begins, text) in complete {
            fs::write(parts::complete(path, *begins), text).unwrap();
        }
        fs::write(path, newest).unwrap();
    }

    /// The newest becomes a complete one that begins there.
    fn rotate(path: &Path, begins: u64, newest: &str) {
        fs::rename(path, parts::complete(path, begins)).unwrap();
        fs::write(path, newest).unwrap();
    }

    /// What is read next, up to where there is nothing now, with the place of each piece.
    async fn all(output: &mut Output) -> Vec<(u64, String)> {
        let mut pieces: Vec<(u64, String)> = Vec::new();
        loop {
            let count = output.read().await.unwrap();
            let text = str::from_utf8(&output.buffer[..count]).unwrap();
            let at = output.at - count as u64;
            match pieces.last_mut() {
                _ if count == 0 => return pieces,
                Some((begins, piece)) if *begins + piece.len() as u64 == at => piece.push_str(text),
                _ => pieces.push((at, text.to_owned())),
            }
        }
    }

    fn piece(at: u64, text: &str) -> Vec<(u64, String)> {
        vec![(at, text.to_owned())]
    }

    #[tokio::test]
    async fn places_count_from_the_first_byte_that_was_ever_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        write(&path, &[(100, "abc"), (103, "def")], "ghi");
        for (offset, at, text) in [
            (0, 100, "abcdefghi"),
            (100, 100, "abcdefghi"),
            (104, 104, "efghi"),
            (106, 106, "ghi"),
            (-2, 107, "hi"),
            (-7, 102, "cdefghi"),
            (-99, 100, "abcdefghi"),
        ] {
            let mut output = Output::alone(&path, Stdout);
            assert_eq!(output.open(offset).await.unwrap(), 109, "from {offset}");
            assert_eq!(output.at, at, "from {offset}");
            assert_eq!(all(&mut output).await, piece(at, text), "from {offset}");
        }
        let mut output = Output::alone(&path, Stdout);
        output.open(111).await.unwrap();
        assert!(all(&mut output).await.is_empty());
        rotate(&path, 106, "jklm");
        assert_eq!(all(&mut output).await, piece(111, "lm"));
    }

    #[tokio::test]
    async fn a_reader_goes_on_in_the_file_that_comes_next_and_knows_what_it_missed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        let mut output = Output::alone(&path, Stdout);
        assert_eq!(output.open(0).await.unwrap(), 0);
        assert!(all(&mut output).await.is_empty());
        write(&path, &[], "one ");
        assert_eq!(all(&mut output).await, piece(0, "one "));
        rotate(&path, 0, "two ");
        rotate(&path, 4, "three ");
        assert_eq!(all(&mut output).await, piece(4, "two three "));
        // What it has open is read to its end, though it is removed.
        write(&path, &[], "three four ");
        rotate(&path, 8, "five ");
        rotate(&path, 19, "six ");
        for begins in [0, 4, 8, 19] {
            fs::remove_file(parts::complete(&path, begins)).unwrap();
        }
        rotate(&path, 24, "seven");
        let missed = [piece(14, "four "), piece(24, "six seven")].concat();
        assert_eq!(all(&mut output).await, missed);
    }

    #[tokio::test]
    async fn a_reader_hears_of_it_when_all_up_to_where_it_stops_was_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        write(&path, &[(0, "abc"), (3, "def")], "ghi");
        let (ours, theirs) = tokio::io::duplex(MAX_CHUNK);
        let (read, write_half) = tokio::io::split(ours);
        let metrics = crate::metrics::Metrics::new();
        let mut sender = Sender {
            write: write_half,
            metrics: &metrics,
            patience: crate::streams::STALL,
        };
        let mut output = Output::alone(&path, Stdout);
        let end = output.open(0).await.unwrap();
        output.stop_at(end);
        output.tell_place(&mut sender).await.unwrap();
        assert!(output.send(&mut sender).await.unwrap());
        rotate(&path, 6, "jkl");
        rotate(&path, 9, "mno");
        for begins in [0, 3, 6] {
            fs::remove_file(parts::complete(&path, begins)).unwrap();
        }
        assert!(!output.send(&mut sender).await.unwrap());
        assert!(!output.send(&mut sender).await.unwrap());
        drop((read, sender));
        let mut frames = FrameReader::<_, StreamFrame>::new(theirs, stream::VERSION);
        let mut said = Vec::new();
        while let Ok(Some(batch)) = frames.next_batch().await {
            said.extend(batch);
        }
        let begins = |at| StreamFrame::Begins { output: Stdout, at };
        let sent = StreamFrame::Data(b"abc".to_vec());
        assert_eq!(said, [begins(0), sent, begins(9)]);
    }

    #[tokio::test]
    async fn what_is_left_of_an_interrupted_renaming_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        // One that was to be removed, of which not all was written; the newest was not made.
        write(&path, &[(0, "ab"), (5, "fgh")], "");
        fs::remove_file(&path).unwrap();
        let mut output = Output::alone(&path, Stdout);
        assert_eq!(output.open(0).await.unwrap(), 8);
        let pieces = [piece(0, "ab"), piece(5, "fgh")].concat();
        assert_eq!(all(&mut output).await, pieces);
    }
}
