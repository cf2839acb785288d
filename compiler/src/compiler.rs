//! Starts a process that compiles, waits for it, and says how it ended.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tepui_types::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

use crate::Limits;
use crate::process::{DAMAGED, REFUSED};

/// The file that this process was started from, also when a new release lies at its path by now: the
/// compiler and who asks must be of one build.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// Threads of the compiler: some are left to others on a large machine, and its memory does not grow
/// with the machine.
const MAX_THREADS: usize = 4;
/// The longest compilation. Large interpreters take some ten seconds; waiting longer helps nobody.
const WAIT: Duration = Duration::from_secs(120);
/// What is kept of a failed compiler's last words: a panic with its place.
const SAID_BYTES: u64 = 4 * 1024;
/// What is read of an answer that does not go into a file: why a program is refused.
const ANSWER_BYTES: u64 = 64 * 1024;

/// How to compile.
#[derive(Debug, Clone)]
pub struct Compiler {
    /// What is started.
    pub program: PathBuf,
    /// What one compilation may use.
    pub limits: Limits,
    /// How long one may take.
    pub wait: Duration,
}

/// A compilation that is over.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub outcome: Outcome,
    /// What it answered, unless that went into a file.
    pub answer: Vec<u8>,
    /// Its words about what went wrong.
    pub said: String,
}

/// How a compilation has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// There is machine code.
    Done,
    /// The program is at fault; the answer says how.
    Refused,
    /// The artifact's bytes are not those of its digest.
    Damaged,
    /// It used all that it may of this.
    OverLimit(String),
    /// It took longer than anybody waits.
    TooSlow,
    /// There is no room on the disk for the machine code.
    NoRoom,
    /// It ended in no way that was foreseen.
    Crashed(ExitStatus),
}

impl Default for Compiler {
    fn default() -> Self {
        Self {
            program: THIS_PROGRAM.into(),
            limits: Limits::default(),
            wait: WAIT,
        }
    }
}

impl Compiler {
    /// Starts the process, called `name`, with these arguments and the limits after them. One that
    /// nobody waits for any more is killed.
    ///
    /// # Errors
    /// Where there is no such program.
    ///
    /// # Panics
    /// Outside a runtime of tokio with I/O.
    pub fn start<A: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = A>,
        artifact: File,
        answer: Stdio,
    ) -> io::Result<Child> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Command::new(&self.program)
            .arg0(name)
            .args(arguments)
            .args(self.limits.arguments())
            .env_clear()
            .env("RAYON_NUM_THREADS", threads.min(MAX_THREADS).to_string())
            .stdin(artifact)
            .stdout(answer)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
    }

    /// Waits for it, as long as it may take.
    ///
    /// # Errors
    /// Where it cannot be heard or waited for.
    pub async fn end(&self, mut child: Child) -> io::Result<Ended> {
        let Ok(ended) = tokio::time::timeout(self.wait, hear(&mut child)).await else {
            // It may have ended by itself meanwhile.
            child.kill().await.ok();
            return Ok(Ended {
                outcome: Outcome::TooSlow,
                answer: Vec::new(),
                said: String::new(),
            });
        };
        let (status, answer, said) = ended?;
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        Ok(Ended {
            outcome: self.outcome(status, &said),
            answer,
            said,
        })
    }

    fn outcome(&self, status: ExitStatus, said: &str) -> Outcome {
        let Limits {
            memory,
            cpu_s,
            code,
        } = self.limits;
        match status.code().map(u8::try_from) {
            Some(Ok(0)) => return Outcome::Done,
            Some(Ok(REFUSED)) => return Outcome::Refused,
            Some(Ok(DAMAGED)) => return Outcome::Damaged,
            _ => {}
        }
        let signal = status.signal();
        match signal.and_then(|signal| Signal::try_from(signal).ok()) {
            Some(Signal::SIGXCPU) => Outcome::OverLimit(format!("{cpu_s} s of processor time")),
            Some(Signal::SIGXFSZ) => {
                Outcome::OverLimit(format!("{} of compiled code", Bytes(code)))
            }
            // The words of Rust's standard library, where memory is refused.
            _ if said.contains("memory allocation of") => {
                Outcome::OverLimit(format!("{} of memory", Bytes(memory)))
            }
            // The system's word for ENOSPC, where the code is written.
            _ if said.contains("No space left on device") => Outcome::NoRoom,
            _ => Outcome::Crashed(status),
        }
    }
}

/// Reads what it says, answer and errors, and waits for its end.
async fn hear(child: &mut Child) -> io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    let answer = read(child.stdout.take(), ANSWER_BYTES);
    let said = read(child.stderr.take(), SAID_BYTES);
    let (answer, said) = tokio::try_join!(answer, said)?;
    Ok((child.wait().await?, answer, said))
}

/// The beginning of a stream, which is closed then: who goes on writing ends.
async fn read(stream: Option<impl AsyncRead + Unpin>, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(most).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a shell's script in the compiler's place.
    async fn ended(script: &str, wait: Duration) -> Ended {
        let compiler = Compiler {
            program: "/bin/sh".into(),
            wait,
            ..Compiler::default()
        };
        let nothing = File::open("/dev/null").unwrap();
        let child = compiler.start("sh", ["-c", script], nothing, Stdio::piped());
        compiler.end(child.unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn every_end_is_told_from_the_others() {
        for (script, expected) in [
            ("exit 0", "Done"),
            ("exit 3", "Refused"),
            ("exit 4", "Damaged"),
            ("exit 5", "Crashed"),
            ("echo No space left on device >&2; exit 1", "NoRoom"),
            ("kill -SEGV $$", "Crashed"),
            ("kill -XCPU $$", "480 s of processor time"),
            ("kill -XFSZ $$", "512 MiB of compiled code"),
            (
                "echo memory allocation of 7 bytes failed >&2; kill -ABRT $$",
                "2 GiB of memory",
            ),
        ] {
            let outcome = ended(script, WAIT).await.outcome;
            let shown = format!("{outcome:?}");
            assert!(shown.contains(expected), "{script}: {shown}");
        }
    }

    #[tokio::test]
    async fn nothing_is_read_without_end() {
        for script in ["exec yes >&2", "exec yes"] {
            let ended = ended(script, WAIT).await;
            assert!(matches!(ended.outcome, Outcome::Crashed(_)), "{ended:?}");
            assert!(ended.said.len() as u64 <= SAID_BYTES);
            assert!(ended.answer.len() as u64 <= ANSWER_BYTES);
        }
    }

    #[tokio::test]
    async fn one_that_takes_too_long_is_ended() {
        let ended = ended("exec sleep 1000", Duration::from_millis(1)).await;
        assert_eq!(ended.outcome, Outcome::TooSlow);
    }

    #[tokio::test]
    async fn it_is_told_its_limits_and_has_no_environment() {
        let ended = ended("echo $0 $1 $2 $HOME $USER", WAIT).await;
        let answer = String::from_utf8(ended.answer).unwrap();
        assert_eq!(answer, "2147483648 480 536870912\n");
    }
}
