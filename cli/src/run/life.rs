//! What is done for a job's tasks while they live, as flags say it: what they read, find in their
//! sandbox, and leave behind; when they are started again.

use anyhow::{Context, Result};
use clap::Args;
use tepui_types::command::{CommandOptions, CommandStdin, LogPolicy, Restart, RestartAfter};
use tepui_types::{Bytes, Digest, Fetch, WasmOptions};

/// How the sum of what is fetched is written.
const SUM: &str = "write `#sha256:` and 64 hexadecimal digits behind the URL";

/// What is done for a task.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Life")]
pub struct LifeOptions {
    /// Send a command what comes from this process's standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give a command a terminal: with `-i`, this one
    #[arg(short = 't', long = "terminal")]
    has_terminal: bool,
    /// Have a file in the sandbox: a http, https or file URL, or an artifact's digest, with another
    /// name in front where it is to have one, and `#sha256:…` behind a URL whose bytes must be those;
    /// again for more
    #[arg(long, value_parser = fetched, value_name = "[PATH=]URL[#sha256:HEX]")]
    fetch: Vec<Fetch>,
    /// The same, and it can be executed
    #[arg(long, value_parser = fetched, value_name = "[PATH=]URL[#sha256:HEX]")]
    fetch_program: Vec<Fetch>,
    /// Have what an archive (tar or zip) holds in the sandbox, or in a folder of it; again for more
    #[arg(long, value_parser = fetched, value_name = "[PATH=]URL[#sha256:HEX]")]
    unpack: Vec<Fetch>,
    /// Start a command again where it is, after a `failure` or after `any` end
    #[arg(long, value_parser = after, value_name = "WHEN")]
    revive: Option<RestartAfter>,
    /// How often at most [default: without end]
    #[arg(long, requires = "revive", value_name = "N")]
    revivals: Option<u32>,
    /// Keep so much of a command's output, in files of this size
    #[arg(long, value_name = "SIZE")]
    log_size: Option<Bytes>,
    /// Keep the latest output, in so many files, in place of the first [default: 1]
    #[arg(long, requires = "log_size", value_name = "N")]
    log_files: Option<u32>,
    /// Run a command on these processors alone, such as 0-3,8
    #[arg(long, value_name = "CPUS")]
    cpuset: Option<String>,
}

impl LifeOptions {
    /// Whether someone here speaks to the task.
    pub fn is_attached(&self) -> bool {
        self.interactive
    }

    /// What the sandbox holds before the task starts.
    pub fn fetch(&self) -> Vec<Fetch> {
        let programs = self.fetch_program.iter().map(|one| Fetch {
            executable: true,
            ..one.clone()
        });
        let archives = self.unpack.iter().map(|one| Fetch {
            extract: true,
            ..one.clone()
        });
        let files = self.fetch.iter().cloned();
        files.chain(programs).chain(archives).collect()
    }

    /// What is done for a command, which may have an image that is a WebAssembly program and is given
    /// `wasm` then; none where that is nothing.
    ///
    /// # Errors
    /// Says which flags do not go together.
    pub fn command(&self, wasm: Option<Box<WasmOptions>>) -> Result<Option<Box<CommandOptions>>> {
        let options = CommandOptions {
            restart: self.revive.map(|after| Restart {
                after,
                most: self.revivals,
                ..Restart::default()
            }),
            logs: self.log_size.map(|max_bytes| LogPolicy {
                max_bytes,
                files: self.log_files.unwrap_or(1),
            }),
            stdin: match (self.interactive, self.has_terminal) {
                (_, true) => CommandStdin::Terminal,
                (true, false) => CommandStdin::Open,
                (false, false) => CommandStdin::Nothing,
            },
            cpuset: self.cpuset.clone(),
            wasm,
            ..CommandOptions::default()
        };
        Ok((options != CommandOptions::default()).then(|| Box::new(options)))
    }

    /// Refuses what WebAssembly programs do not have.
    ///
    /// # Errors
    /// Names it.
    pub fn refuse_for_wasm(&self) -> Result<()> {
        let none = self.command(None)?.is_none();
        none.then_some(()).context(
            "-i, -t, --revive, --log-size and --cpuset are for commands: leave them out for a \
             WebAssembly program, which reads what --stdin names",
        )
    }
}

fn fetched(text: &str) -> Result<Fetch, String> {
    // A URL may hold `=`, a path may not hold `:`.
    let (path, from) = match text.split_once('=') {
        Some((path, from)) if !path.contains(':') => (Some(path.to_owned()), from),
        _ => (None, text),
    };
    let (from, digest) = match from.split_once('#') {
        Some((url, fragment)) => match digest(fragment)? {
            Some(digest) => (url, Some(digest)),
            None => (from, None),
        },
        None => (from, None),
    };
    Ok(Fetch {
        path,
        digest,
        ..Fetch::new(from)
    })
}

/// The digest that a URL's fragment says, if it is meant to be one. A sum that nobody would look at is
/// refused.
fn digest(fragment: &str) -> Result<Option<Digest>, String> {
    let (kind, sum) = fragment.split_once([':', '=']).unwrap_or((fragment, ""));
    match kind.to_ascii_lowercase().as_str() {
        "sha256" => {
            let digest = format!("sha256:{sum}").parse::<Digest>();
            digest.map(Some).map_err(|why| why.to_string())
        }
        "md5" | "sha1" | "sha224" | "sha384" | "sha512" => {
            Err(format!("`{kind}` is not compared: {SUM}"))
        }
        _ => Ok(None),
    }
}

fn after(text: &str) -> Result<RestartAfter, String> {
    match text {
        "failure" => Ok(RestartAfter::Failure),
        "any" => Ok(RestartAfter::Any),
        _ => Err("choose failure or any".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fetched_may_have_another_name() {
        let plain = fetched("https://example.org/a?b=c").unwrap();
        assert_eq!(
            (plain.path, plain.from.as_str()),
            (None, "https://example.org/a?b=c")
        );
        let named = fetched("bin/a=https://example.org/a?b=c").unwrap();
        assert_eq!(named.path.as_deref(), Some("bin/a"));
        assert_eq!(named.from, "https://example.org/a?b=c");
    }

    #[test]
    fn what_is_fetched_may_have_to_have_a_digest() {
        let digest = Digest::of(b"x");
        let url = "https://example.org/a?b=c";
        for text in [
            format!("{url}#{digest}"),
            format!("{url}#{}", digest.to_string().replace(':', "=")),
        ] {
            let fetch = fetched(&text).unwrap();
            assert_eq!((fetch.from.as_str(), fetch.digest), (url, Some(digest)));
        }
        let named = fetched(&format!("bin/a={url}#{digest}")).unwrap();
        assert_eq!(
            (named.path.as_deref(), named.digest),
            (Some("bin/a"), Some(digest))
        );
        let artifact = fetched(&format!("a={digest}")).unwrap();
        assert_eq!((artifact.from, artifact.digest), (digest.to_string(), None));
        let fragment = fetched("https://example.org/a#page=2").unwrap();
        assert_eq!(fragment.from, "https://example.org/a#page=2");
        for (sum, hint) in [
            ("sha256:12", "64 hexadecimal digits"),
            ("sha256", "64 hexadecimal digits"),
            ("md5=12", "`md5` is not compared"),
        ] {
            let error = fetched(&format!("{url}#{sum}")).unwrap_err();
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn nothing_said_is_nothing_done() {
        assert_eq!(LifeOptions::default().command(None).unwrap(), None);
        let options = LifeOptions {
            interactive: true,
            has_terminal: true,
            ..LifeOptions::default()
        };
        let options = options.command(None).unwrap().unwrap();
        assert_eq!(options.stdin, CommandStdin::Terminal);
    }
}
