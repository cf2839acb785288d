//! What a sandbox is to be filled with, as an agent asks for it, and what that means.
//!
//! Nothing here touches a disk or a network. What an [`Item`] says is checked once, by
//! [`Wanted::new`]; behind it, sources are parsed, destinations lie below the sandbox, and names are
//! fit for messages.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use reqwest::Url;
use tepui_tree::clean;
use tepui_types::Digest;

use crate::error::FetchError;
use crate::name::{last_segment, one_name};

/// Something to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where it is.
    pub source: Source,
    /// What it is called, where its source ends with another name: the agent's artifacts lie under
    /// their digests.
    pub name: Option<String>,
    /// What its bytes have as SHA-256, in hexadecimal; checked before anything is put in place.
    /// What is kept by that digest is taken from there, and nobody is asked: who knows the digest of
    /// something is taken for one who may have it.
    pub sha256: Option<String>,
    /// Where it goes: a path below the sandbox. Of a file that is its name, of an archive the
    /// folder that it is unpacked into. Where nothing is said, a file is called as the last part of
    /// its source, and an archive is unpacked into the sandbox itself.
    pub destination: Option<PathBuf>,
    /// Whether it is unpacked.
    pub extract: Extract,
    /// Whether the file may be executed. What an archive holds has the modes that stand there.
    pub executable: bool,
    /// Whether the download is kept for later tasks. Without a `sha256` its server is asked each
    /// time whether it has changed. Files of the machine are never kept: they are there.
    pub cache: bool,
}

impl Item {
    /// A file from there, as it is.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            name: None,
            sha256: None,
            destination: None,
            extract: Extract::None,
            executable: false,
            cache: false,
        }
    }
}

/// Where something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `http://`, `https://`, or `file:///` below a folder that the operator allows.
    Url(String),
    /// A file that the agent itself has, such as an artifact. Not for paths that users name.
    Local(PathBuf),
}

/// Whether something is unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Extract {
    /// It is put there as it is.
    #[default]
    None,
    /// It is, if it is called like an archive and is one by what it holds. Many things that are
    /// called otherwise are archives too (`.jar`, `.whl`, `.docx`) and are not meant to be unpacked.
    Auto,
    /// It is, whatever it is called; what is no archive is refused.
    Required,
}

/// Who has what was fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a sandbox is filled with, and how far.
#[derive(Debug, Clone)]
pub struct Request {
    /// The folder. It is there, belongs to the agent, and nobody else writes in it meanwhile.
    pub sandbox: PathBuf,
    /// Put in place in this order: what comes later replaces files of the same name.
    pub items: Vec<Item>,
    /// Who has all that is made; the agent's own user where nobody is named.
    pub owner: Option<Owner>,
    /// The most bytes that are put into the sandbox, all items together.
    pub limit: u64,
}

/// An item that can be meant.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Where it is.
    pub origin: Origin,
    /// As messages name it.
    pub name: String,
    /// What its bytes have to have.
    pub digest: Option<Digest>,
    /// Below the sandbox; empty for the sandbox itself.
    pub destination: Option<PathBuf>,
    /// What the source calls it; none where that is no name.
    pub called: Option<PathBuf>,
    /// As asked for.
    pub extract: Extract,
    /// As asked for.
    pub executable: bool,
    /// As asked for.
    pub cache: bool,
}

/// Where something is, parsed.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// `http` or `https`.
    Http(Url),
    /// A path that a user names.
    File(PathBuf),
    /// A path that the agent names.
    Local(PathBuf),
}

impl Wanted {
    /// Checks what can be checked without looking.
    pub fn new(item: &Item) -> Result<Self, FetchError> {
        let (origin, name) = origin(&item.source)?;
        let invalid = |why: String| FetchError::invalid(&name, why);
        let digest = item.sha256.as_deref().map(read_digest);
        let digest = digest.transpose().map_err(|why| invalid(why.into()))?;
        let destination = item
            .destination
            .as_deref()
            .map(|path| clean(path.as_os_str().as_bytes()))
            .transpose();
        let destination = destination.map_err(|why| {
            let shown = item.destination.as_deref().unwrap_or(Path::new(""));
            FetchError::outside(format!("the destination {shown:?} of {name}"), why)
        })?;
        let called = match (&item.name, &origin) {
            (Some(name), _) => Some(one_name(name.as_bytes()).ok_or_else(|| {
                invalid(format!(
                    "{name:?} is no name of a file: give one without `/`"
                ))
            })?),
            (None, Origin::Http(url)) => last_segment(url.path()),
            (None, Origin::File(path) | Origin::Local(path)) => path.file_name().map(PathBuf::from),
        };
        let is_sandbox = destination.as_ref().map(|path| path.as_os_str().is_empty());
        match (is_sandbox, item.extract) {
            (Some(true), Extract::None) => {
                let why = "its destination is the sandbox itself: name a file in it, or let it be unpacked";
                return Err(invalid(why.into()));
            }
            (None, Extract::None | Extract::Auto) if called.is_none() => {
                let why = "its URL ends with no file's name: give it a destination";
                return Err(invalid(why.into()));
            }
            _ => {}
        }
        Ok(Self {
            origin,
            digest,
            destination,
            called,
            name,
            extract: item.extract,
            executable: item.executable,
            cache: item.cache,
        })
    }

    /// Where the file goes if it is not unpacked.
    pub fn file(&self) -> Result<&Path, FetchError> {
        let given = self.destination.as_deref();
        // An archive that proves to be none, with the sandbox as its destination.
        let given = given.filter(|path| !path.as_os_str().is_empty());
        given
            .or(self.called.as_deref())
            .ok_or_else(|| FetchError::invalid(&self.name, "it has no name: give it a destination"))
    }

    /// Where it goes if it is unpacked.
    pub fn folder(&self) -> &Path {
        self.destination.as_deref().unwrap_or(Path::new(""))
    }
}

fn origin(source: &Source) -> Result<(Origin, String), FetchError> {
    let text = match source {
        Source::Local(path) => {
            return Ok((Origin::Local(path.clone()), path.display().to_string()));
        }
        Source::Url(text) => text,
    };
    // The text itself may hold a password.
    let invalid = |why: &str| Err(FetchError::invalid("the URL of an item", why));
    let Ok(url) = Url::parse(text) else {
        return invalid("it is no URL: give one such as https://example.org/file.tar.gz");
    };
    match url.scheme() {
        "http" | "https" => {
            let name = without_credentials(&url);
            Ok((Origin::Http(url), name))
        }
        "file" => match url.to_file_path() {
            Ok(path) => {
                let name = path.display().to_string();
                Ok((Origin::File(path), format!("file://{name}")))
            }
            Err(()) => invalid("a file's URL has no host: write file:///folder/file"),
        },
        scheme => invalid(&format!(
            "{scheme}:// is not fetched: give an http, https or file URL"
        )),
    }
}

/// From hexadecimal, perhaps behind `sha256:`.
fn read_digest(text: &str) -> Result<Digest, &'static str> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let digest = format!("sha256:{hex}").parse();
    digest.map_err(|_| "a sha256 has 64 hexadecimal digits: take it from `sha256sum FILE`")
}

/// A URL as people may see it: queries carry tokens and signatures, too.
pub(crate) fn without_credentials(url: &Url) -> String {
    let mut shown = url.clone();
    // A URL without a host has no credentials either, and cannot be given none.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_fragment(None);
    if shown.query().is_some() {
        shown.set_query(Some("…"));
    }
    shown.as_str().replace("?%E2%80%A6", "?…")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Item {
        Item::new(Source::Url(text.into()))
    }

    #[test]
    fn messages_show_no_credentials() {
        let wanted = Wanted::new(&url("https://ann:secret@host/a/b%20c?token=secret#x")).unwrap();
        assert_eq!(wanted.name, "https://host/a/b%20c?…");
        assert_eq!(wanted.file().unwrap(), Path::new("b c"));
        for broken in ["https://ann:secret@", "ftp://ann:secret@host/a"] {
            let error = Wanted::new(&url(broken)).unwrap_err();
            assert_eq!(error.code(), "fetch-invalid");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_has_no_name_wants_a_destination() {
        for nameless in [
            "http://host",
            "http://host/a/",
            "http://host/%2e%2e",
            "http://host/a%2Fb",
            "http://host/a%00b",
        ] {
            let error = Wanted::new(&url(nameless)).unwrap_err();
            assert!(error.to_string().contains("destination"), "{error}");
            let named = Item {
                destination: Some("a/./b".into()),
                ..url(nameless)
            };
            let wanted = Wanted::new(&named).unwrap();
            assert_eq!(wanted.file().unwrap(), Path::new("a/b"));
        }
    }

    #[test]
    fn what_the_agent_calls_otherwise_has_its_own_name() {
        let mut item = Item::new(Source::Local("/artifacts/ab12".into()));
        item.name = Some("tool.tar.gz".into());
        assert_eq!(
            Wanted::new(&item).unwrap().file().unwrap(),
            Path::new("tool.tar.gz")
        );
        for name in ["", "..", "a/b", "/a"] {
            item.name = Some(name.into());
            assert_eq!(Wanted::new(&item).unwrap_err().code(), "fetch-invalid");
        }
    }

    #[test]
    fn destinations_lie_in_the_sandbox() {
        for path in ["..", "a/../../b", "/etc/passwd", "a/\0"] {
            let item = Item {
                destination: Some(path.into()),
                ..url("http://host/a")
            };
            assert_eq!(Wanted::new(&item).unwrap_err().code(), "fetch-outside");
        }
    }

    #[test]
    fn a_file_cannot_be_the_sandbox() {
        let mut item = Item {
            destination: Some(".".into()),
            ..url("http://host/a")
        };
        assert_eq!(Wanted::new(&item).unwrap_err().code(), "fetch-invalid");
        item.extract = Extract::Required;
        assert_eq!(Wanted::new(&item).unwrap().folder(), Path::new(""));
    }

    #[test]
    fn digests_are_checked_for_their_form() {
        for digest in ["", "abc", &"g".repeat(64)] {
            let item = Item {
                sha256: Some(digest.into()),
                ..url("http://host/a")
            };
            assert_eq!(Wanted::new(&item).unwrap_err().code(), "fetch-invalid");
        }
        let digest = Digest::of(b"abc");
        for text in [
            digest.hex(),
            digest.hex().to_uppercase(),
            digest.to_string(),
        ] {
            assert_eq!(read_digest(&text), Ok(digest));
        }
    }
}
