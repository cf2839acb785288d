//! What a job's WebAssembly program is given beyond its arguments, as flags say it.
//!
//! They are for a program from a file and for one that an image turns out to be; a command of the
//! agents' machines has none of it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tepui_types::wasm::{Destination, Stdin};
use tepui_types::{Digest, WasmOptions};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::client::Client;
use crate::{amounts, artifact};

/// What a WebAssembly program may reach, and what it reads.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "WebAssembly programs")]
pub struct WasmFlags {
    /// Let it connect there, by sockets and by HTTP: `db.example:5432`, `10.0.0.0/8:*`, `*:443`;
    /// nowhere unless said; again for more
    #[arg(long, value_name = "HOST:PORT")]
    connect: Vec<Destination>,
    /// Let it listen on the task's own ports (--ports); a wasi:http service needs none of it
    #[arg(long)]
    listen: bool,
    /// What it reads: a file, an artifact's digest, or `-` for some text on this process's own
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,
    /// Where a wasi:http service is reached [default: every address of its machine]
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
    /// Requests of a service that run at once, beyond which they wait [default: 64]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(WasmOptions::MAX_CONCURRENCY)), value_name = "N")]
    concurrency: Option<u32>,
    /// How long a request to a service may take [default: 30s]
    #[arg(long, value_parser = amounts::duration, value_name = "SPAN")]
    request_timeout: Option<Duration>,
}

impl WasmFlags {
    /// What it is given, with its input brought to the cluster; none where that is nothing.
    ///
    /// # Errors
    /// Says which flag cannot be, or why the input is not there.
    pub async fn options(&self, client: &Client) -> Result<Option<Box<WasmOptions>>> {
        let mut options = self.without_input();
        // First: what is wrong is said before anything is uploaded.
        options.validate().map_err(anyhow::Error::msg)?;
        if let Some(from) = &self.stdin {
            options.stdin = Some(input(from, client).await?);
        }
        Ok((options != WasmOptions::default()).then(|| Box::new(options)))
    }

    fn without_input(&self) -> WasmOptions {
        WasmOptions {
            connect: self.connect.clone(),
            listen: self.listen,
            address: self.address,
            concurrency: self.concurrency,
            request_timeout_ms: self.request_timeout.map(super::millis),
            stdin: None,
        }
    }

    /// Refuses what only WebAssembly programs have.
    ///
    /// # Errors
    /// Names it.
    pub fn refuse_for_commands(&self) -> Result<()> {
        let is_said = self.stdin.is_some() || self.without_input() != WasmOptions::default();
        anyhow::ensure!(
            !is_said,
            "--connect, --listen, --stdin, --address, --concurrency and --request-timeout are for \
             WebAssembly programs: leave them out for a command of the agents' machines, which \
             reaches what its machine does, and reads what comes from here with -i"
        );
        Ok(())
    }
}

/// A standard input that a person named.
async fn input(from: &Path, client: &Client) -> Result<Stdin> {
    if from == Path::new("-") {
        return Ok(Stdin::Text(text(tokio::io::stdin()).await?));
    }
    let digest = from.to_str().and_then(|text| text.parse::<Digest>().ok());
    match digest {
        Some(digest) => Ok(Stdin::Artifact(digest)),
        None => artifact::upload(from, client).await.map(Stdin::Artifact),
    }
}

/// All of it, which goes with the job and so is short.
async fn text(stream: impl AsyncRead + Unpin) -> Result<String> {
    const MOST: usize = WasmOptions::MAX_STDIN_TEXT;
    let mut bytes = Vec::new();
    let mut stream = stream.take(MOST as u64 + 1);
    let read = stream.read_to_end(&mut bytes).await;
    read.context("failed to read standard input")?;
    anyhow::ensure!(
        bytes.len() <= MOST,
        "standard input has more than {MOST} bytes: put it into a file, and name that (--stdin FILE)"
    );
    let text = String::from_utf8(bytes);
    text.context("standard input is no text: put it into a file, and name that (--stdin FILE)")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: WasmFlags,
    }

    fn parse(line: &str) -> Result<WasmFlags, clap::Error> {
        let words = std::iter::once("tepui").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.flags)
    }

    #[test]
    fn flags_say_all_that_a_program_is_given() {
        let words = [
            "--connect db.example:5432 --connect *:443 --listen --address 127.0.0.1",
            "--concurrency 7 --request-timeout 2s",
        ];
        let options = parse(&words.join(" ")).unwrap().without_input();
        assert_eq!(
            serde_json::to_value(options).unwrap(),
            serde_json::json!({
                "connect": ["db.example:5432", "*:443"], "listen": true, "address": "127.0.0.1",
                "concurrency": 7, "request_timeout_ms": 2000, "stdin": null,
            })
        );
        assert_eq!(
            parse("").unwrap().without_input(),
            WasmOptions::default(),
            "nothing said is nothing given"
        );
    }

    #[test]
    fn flags_that_cannot_be_say_why() {
        for (line, hint) in [
            ("--connect db.example", "HOST:PORT"),
            ("--address here", "--address"),
            ("--concurrency 0", "1..=1000"),
            ("--request-timeout soon", "500ms"),
        ] {
            let Err(error) = parse(line) else {
                panic!("{line} is taken");
            };
            assert!(error.to_string().contains(hint), "{line}: {error}");
        }
    }

    #[test]
    fn commands_have_none_of_them() {
        assert!(parse("").unwrap().refuse_for_commands().is_ok());
        for line in ["--listen", "--stdin x", "--connect *:1", "--concurrency 1"] {
            assert!(
                parse(line).unwrap().refuse_for_commands().is_err(),
                "{line}"
            );
        }
    }

    #[tokio::test]
    async fn an_input_from_here_is_a_short_text() {
        assert_eq!(text(&b"words"[..]).await.unwrap(), "words");
        let long = vec![b'x'; WasmOptions::MAX_STDIN_TEXT + 1];
        for bytes in [&long[..], &[0xff]] {
            let error = text(bytes).await.unwrap_err();
            assert!(error.to_string().contains("--stdin FILE"), "{error:#}");
        }
    }
}
