//! A thread of another process that hangs, as one does whose disk gives no answer.
//!
//! It is traced (ptrace(2)) and stopped; all others of its process go on, which SIGSTOP would not leave
//! them. Dropping it lets it go on, and so does the end of this process.

use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// A thread that hangs as long as this lives.
#[derive(Debug)]
pub struct HungThread {
    release: Option<Sender<()>>,
    tracer: Option<JoinHandle<()>>,
}

impl HungThread {
    /// Lets the thread of this name hang.
    pub fn of(process: Pid, name: &str) -> Result<Self> {
        let thread = thread_of(process, name)?;
        let (release, released) = mpsc::channel::<()>();
        let (stopped, is_stopped) = mpsc::channel();
        // Only the thread that has stopped it may let it go on.
        let tracer = std::thread::spawn(move || {
            let stop = || {
                ptrace::attach(thread)?;
                waitpid(thread, Some(WaitPidFlag::__WALL))
            };
            let is_stopped = stop().map(|_| ());
            let hangs = is_stopped.is_ok();
            stopped.send(is_stopped).ok();
            if hangs {
                released.recv().ok();
                ptrace::detach(thread, None).ok();
            }
        });
        let hung = Self {
            release: Some(release),
            tracer: Some(tracer),
        };
        let is_stopped = is_stopped.recv().context("the tracer has ended")?;
        is_stopped.with_context(|| format!("failed to stop thread `{name}` of {process}"))?;
        Ok(hung)
    }
}

fn thread_of(process: Pid, name: &str) -> Result<Pid> {
    let threads = format!("/proc/{process}/task");
    for thread in std::fs::read_dir(Path::new(&threads))? {
        let thread = thread?;
        if std::fs::read_to_string(thread.path().join("comm"))?.trim() == name {
            let id = thread.file_name().to_string_lossy().parse()?;
            return Ok(Pid::from_raw(id));
        }
    }
    Err(anyhow!("process {process} has no thread `{name}`"))
}

impl Drop for HungThread {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(tracer) = self.tracer.take() {
            tracer.join().ok();
        }
    }
}
