//! A command line that runs, with its input, its output and what it says.

use std::io::{Read, Write};
use std::process::Stdio;

use nix::pty::openpty;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::master::{Master, within};

/// One whose input and output are a terminal; ended with its test.
pub struct OnTerminal {
    child: Child,
    keyboard: std::fs::File,
}

impl OnTerminal {
    pub fn start(master: &Master, args: &[&str]) -> Self {
        let terminal = openpty(None, None).unwrap();
        let screen = terminal.slave.try_clone().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_tepui"))
            .env("TEPUI_MASTER", &master.url)
            .args(args)
            .stdin(terminal.slave)
            .stdout(screen)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            child,
            keyboard: terminal.master.into(),
        }
    }

    /// Waits until that is what it shows next.
    pub async fn shows(&self, text: &str) {
        let mut screen = self.keyboard.try_clone().unwrap();
        let mut shown = vec![0; text.len()];
        let read = tokio::task::spawn_blocking(move || {
            screen.read_exact(&mut shown).unwrap();
            shown
        });
        assert_eq!(within(read).await.unwrap(), text.as_bytes());
    }

    pub fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// The code that it ends with, and what it says beside its output.
    pub async fn ends(mut self) -> (Option<i32>, String) {
        ends(&mut self.child).await
    }
}

async fn ends(child: &mut Child) -> (Option<i32>, String) {
    let mut said = child.stderr.take().unwrap();
    let mut beside = String::new();
    within(said.read_to_string(&mut beside)).await.unwrap();
    let status = within(child.wait()).await.unwrap();
    (status.code(), beside)
}

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

    /// The first line that it says beside its output.
    pub async fn complaint(&mut self) -> String {
        let mut said = BufReader::new(self.child.stderr.take().unwrap());
        let mut line = String::new();
        within(said.read_line(&mut line)).await.unwrap();
        line
    }

    /// All that it still prints, and says beside it; it has to succeed.
    pub async fn both(mut self) -> (String, String) {
        let mut said = self.child.stderr.take().unwrap();
        let mut beside = String::new();
        within(said.read_to_string(&mut beside)).await.unwrap();
        (self.rest().await, beside)
    }

    /// The code that it ends with, and what it says beside its output.
    pub async fn ends(mut self) -> (Option<i32>, String) {
        ends(&mut self.child).await
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
