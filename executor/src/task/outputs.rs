//! Standard output and error of the command: two pipes, or a terminal, that the
//! server's loop empties into two files.
//!
//! The command has no file of its own to write to, so that what it
//! leaves on the disk has a bound: past it the pipes are emptied all the same,
//! and the command does not learn of it. What is in a pipe when the last process
//! has ended is in the file before that end is told.
//!
//! What this costs is not charged to the command, so it is kept to about what the
//! command itself spends on writing: a pipe that was found empty is left alone
//! for a moment, so that much is taken in at once.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tepui_executor::log;
use tepui_executor::output::{Keep, Ration};
use tepui_types::Bytes;

use crate::latest::Latest;

/// Bytes taken out of a pipe at once: all that a new one holds. Signals and the
/// agent are looked at in between.
const PORTION: usize = 64 * 1024;
/// What the pipe of a loud command holds, so that it seldom waits for the end of
/// a rest: the most that the kernel gives anybody. What is in it counts as the
/// command's memory.
const LOUD_PIPE: i32 = 1024 * 1024;
/// How long a pipe is left alone that was found empty: nothing to who follows
/// the output, and at most a thousand wakeups a second.
const REST: Duration = Duration::from_millis(1);
/// The same for a new one: short commands have ended by then, and are not held up at their end to have
/// it seen that they closed their streams. What they wrote is taken in with that end.
const FIRST_REST: Duration = Duration::from_millis(2);

/// Both streams.
pub struct Outputs {
    streams: [Stream; 2],
    buffer: Box<[u8]>,
}

impl Outputs {
    /// Prepares for files in `folder`, each of which is made when there is
    /// something to write, and gives what the command writes to: its standard
    /// output and error.
    pub fn make(folder: &Path, keep: Keep) -> io::Result<(Self, [PipeWriter; 2])> {
        let (stdout, out) = Stream::make(folder.join("stdout"), keep)?;
        let (stderr, err) = Stream::make(folder.join("stderr"), keep)?;
        let this = Self {
            streams: [stdout, stderr],
            buffer: vec![0; PORTION].into(),
        };
        Ok((this, [out, err]))
    }

    /// The same for a terminal, of which this is the other end. It is the output and the error; all of
    /// it goes to the file of the output.
    pub fn of_terminal(folder: &Path, keep: Keep, master: OwnedFd) -> io::Result<Self> {
        let stdout = Stream::of(folder.join("stdout"), keep, Some(master.into()))?;
        let stderr = Stream::of(folder.join("stderr"), keep, None)?;
        Ok(Self {
            streams: [stdout, stderr],
            buffer: vec![0; PORTION].into(),
        })
    }

    /// Whether nothing can come any more.
    pub fn have_ended(&self) -> bool {
        self.streams.iter().all(|stream| stream.pipe.is_none())
    }

    /// What becomes readable when the command has written, or closed a stream;
    /// not those that rest.
    pub fn fds(&self, now: Instant) -> [Option<BorrowedFd<'_>>; 2] {
        self.streams.each_ref().map(|stream| stream.fd(now))
    }

    /// When the next stream has rested.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let rests = self.streams.iter().map(|stream| stream.rests_until);
        rests.filter(|until| *until > now).min()
    }

    /// Takes in a portion of what was written to the streams that are readable.
    /// Never waits for the command.
    pub fn pump(&mut self, readable: [bool; 2], now: Instant) {
        for (stream, readable) in self.streams.iter_mut().zip(readable) {
            if !readable {
                continue;
            }
            let taken = stream.pump(&mut self.buffer);
            // Files that are begun cost more than what is written to them, where they are tiny.
            if taken < Some(PORTION) || std::mem::take(&mut stream.has_begun_files) {
                stream.rests_until = now + REST;
            }
            if taken == Some(PORTION) {
                stream.enlarge();
            }
        }
    }

    /// Takes in all that is left, when nobody is left to write. Someone outside
    /// of the task who was given a pipe may: what comes after this is refused.
    pub fn finish(mut self) {
        for stream in &mut self.streams {
            stream.finish(&mut self.buffer);
        }
    }
}

struct Stream {
    /// None once all its writers have closed it. A terminal is read in the same way.
    pipe: Option<PipeReader>,
    path: PathBuf,
    /// Of the first output; none until something was written: short silent tasks leave no files.
    file: Option<File>,
    keeping: Keeping,
    /// Whether a file was begun since it was last looked.
    has_begun_files: bool,
    rests_until: Instant,
    is_large: bool,
}

/// Which of its output is kept.
enum Keeping {
    First(Ration),
    Latest(Latest),
}

impl Keeping {
    /// In that file, and what is beside it.
    fn of(keep: Keep, path: &Path) -> io::Result<Self> {
        Ok(match keep {
            Keep::First(limit) => Self::First(Ration::new(limit)),
            Keep::Latest { bytes, files } => Self::Latest(Latest::open(path, bytes, files)?),
        })
    }
}

impl Stream {
    fn make(path: PathBuf, keep: Keep) -> io::Result<(Self, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((Self::of(path, keep, Some(reader))?, writer))
    }

    fn of(path: PathBuf, keep: Keep, pipe: Option<PipeReader>) -> io::Result<Self> {
        Ok(Self {
            pipe,
            keeping: Keeping::of(keep, &path)?,
            path,
            file: None,
            has_begun_files: false,
            rests_until: Instant::now() + FIRST_REST,
            is_large: false,
        })
    }

    fn fd(&self, now: Instant) -> Option<BorrowedFd<'_>> {
        let pipe = self.pipe.as_ref().filter(|_| self.rests_until <= now);
        pipe.map(PipeReader::as_fd)
    }

    /// Gives a loud command more room. Where the kernel refuses, for users have
    /// a bound, the command waits a little for the end of each rest.
    fn enlarge(&mut self) {
        if let Some(pipe) = self.pipe.as_ref().filter(|_| !self.is_large) {
            let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(LOUD_PIPE));
            self.is_large = true;
        }
    }

    /// Takes in a portion; none when nothing is there.
    fn pump(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.pipe.as_mut()?.read(buffer) {
            Ok(count) if count > 0 => {
                self.keep(&buffer[..count]);
                Some(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Some(0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Ok(_) | Err(_) => {
                self.pipe = None;
                None
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let Keeping::Latest(latest) = &mut self.keeping else {
            return self.keep_first(bytes);
        };
        match latest.keep(bytes) {
            Ok(has_begun_files) => self.has_begun_files |= has_begun_files,
            Err((lost, error)) => self.give_up(lost, error),
        }
    }

    fn keep_first(&mut self, bytes: &[u8]) {
        let Keeping::First(ration) = &mut self.keeping else {
            return;
        };
        let (kept, notice) = ration.take(bytes);
        match self.write(kept) {
            Ok(()) => self.note(notice),
            Err(error) => self.lose(kept, error, notice),
        }
    }

    /// The latest output cannot be kept any more; this is the first that is not.
    fn give_up(&mut self, bytes: &[u8], error: io::Error) {
        let mut ration = Ration::new(Bytes(bytes.len() as u64));
        let (lost, notice) = ration.take(bytes);
        self.keeping = Keeping::First(ration);
        self.lose(lost, error, notice);
    }

    fn lose(&mut self, bytes: &[u8], error: io::Error, notice: Option<String>) {
        log::say(format_args!("output is lost: {error}"));
        if let Keeping::First(ration) = &mut self.keeping {
            let said = ration.stop(bytes, error);
            self.note(said.or(notice));
        }
    }

    fn finish(&mut self, buffer: &mut [u8]) {
        let capacity = self
            .pipe
            .as_ref()
            .and_then(|pipe| fcntl(pipe, FcntlArg::F_GETPIPE_SZ).ok())
            .map_or(PORTION, |bytes| bytes.unsigned_abs() as usize);
        let mut taken = 0;
        while taken < capacity
            && let Some(count) = self.pump(buffer)
        {
            taken += count;
        }
        if let Keeping::First(ration) = &self.keeping {
            self.note(ration.finish());
        }
    }

    fn note(&mut self, notice: Option<String>) {
        // Where not even that can be written, the log has said so.
        let _ = self.write(notice.unwrap_or_default().as_bytes());
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(append_to(&self.path)?),
        };
        file.write_all(bytes)
    }
}

/// The file at `path`, made where it is not there.
pub fn append_to(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o644);
    options.open(path)
}
