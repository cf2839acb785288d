//! A command line that runs, with its input, its output and what it says.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::master::{Master, within};

/// One that is ended with its test.
pub struct Tepui {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Tepui {
    pub fn start(master: &Master, args: &[&str]) -> Self {
        Self::start_with(master, args, Stdio::inherit())
    }

    /// One whose complaints are read, too.
    pub fn start_heard(master: &Master, args: &[&str]) -> Self {
        Self::start_with(master, args, Stdio::piped())
    }

    fn start_with(master: &Master, args: &[&str], stderr: Stdio) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tepui"))
            .env("TEPUI_MASTER", &master.url)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            stdin,
            stdout,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub async fn types(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).await.unwrap();
    }

    pub fn ends_input(&mut self) {
        self.stdin = None;
    }

    /// The next line that it prints.
    pub async fn line(&mut self) -> String {
        let mut line = String::new();
        within(self.stdout.read_line(&mut line)).await.unwrap();
        line
    }

    /// All that it still prints, and says beside it; it has to succeed.
    pub async fn both(mut self) -> (String, String) {
        let mut said = self.child.stderr.take().unwrap();
        let mut beside = String::new();
        within(said.read_to_string(&mut beside)).await.unwrap();
        (self.rest().await, beside)
    }

    /// All that it still prints; it has to succeed.
    pub async fn rest(mut self) -> String {
        let mut text = String::new();
        within(self.stdout.read_to_string(&mut text)).await.unwrap();
        let status = within(self.child.wait()).await.unwrap();
        assert!(status.success(), "{status}");
        text
    }
}
