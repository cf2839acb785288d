//! References to container images, as people write them.
//!
//! An [`ImageRef`] is what a task's specification says: text that names an image in a registry, in a
//! folder of the agent's machine, or in the cluster's artifacts. It is checked when it is made, so
//! [`ImageRef::source`] never fails, and it keeps the text that was written. Grammar and defaults of
//! registry references are those of the distribution project, as Docker normalises them.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::ids::Digest;

/// The registry of references that name none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Another name of the same registry, from Docker's early days.
const OLD_DEFAULT_REGISTRY: &str = "index.docker.io";
/// Where the default registry keeps images whose name is one word.
const DEFAULT_FOLDER: &str = "library/";
/// The tag of references that name neither tag nor digest.
const DEFAULT_TAG: &str = "latest";
/// The longest tag, as registries have it.
const MAX_TAG_LEN: usize = 128;
/// The longest repository, with its registry, as Docker has it.
const MAX_NAME_LEN: usize = 255;

const LAYOUT: &str = "oci-layout:";
const ARTIFACT: &str = "artifact:";

/// Which image a task wants: `busybox:1.36`, `ghcr.io/x/y@sha256:…`, `oci-layout:/folder:tag` or
/// `artifact:sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct ImageRef(String);

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ImageSource {
    /// From a registry.
    Registry(RegistryImage),
    /// From an OCI layout folder on the agent's machine.
    Layout {
        /// The folder's absolute path.
        folder: String,
        /// Which of its images; without it the folder has but one.
        tag: Option<String>,
    },
    /// From an archive that was uploaded to the cluster: docker-archive or oci-archive.
    Artifact(Digest),
}

/// An image in a registry, with every default written out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RegistryImage {
    /// Host, and port where one was given.
    pub registry: String,
    /// The path there.
    pub repository: String,
    /// What it is called there; none where only a digest was given.
    pub tag: Option<String>,
    /// What its manifest or index is, exactly. Where it is given, the tag says nothing.
    pub digest: Option<Digest>,
}

impl fmt::Display for RegistryImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// When a registry is asked although the image may be here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PullPolicy {
    /// Only when the agent does not have it.
    #[default]
    IfNotPresent,
    /// Each time: what the tag means now. Layers that are here are not sent again.
    Always,
    /// Not at all: it is here, or the task fails.
    Never,
}

/// A reference that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an image: {fix}")]
pub struct ParseImageError {
    text: String,
    fix: &'static str,
}

impl ParseImageError {
    fn new(text: &str, fix: &'static str) -> Self {
        // An error message never echoes more of a caller's input than helps.
        let text = text.chars().take(80).collect();
        Self { text, fix }
    }
}

impl ImageRef {
    /// The longest reference, in bytes.
    pub const MAX_LEN: usize = 512;

    /// Checks and takes a reference.
    ///
    /// # Errors
    /// When it has none of the forms; the message says which part is wrong.
    pub fn new(text: impl Into<String>) -> Result<Self, ParseImageError> {
        let text = text.into();
        match parse(&text) {
            Ok(_) => Ok(Self(text)),
            Err(fix) => Err(ParseImageError::new(&text, fix)),
        }
    }

    /// The reference as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it says.
    pub fn source(&self) -> ImageSource {
        // invariant: the text was parsed when the reference was made.
        parse(&self.0).expect("a reference that was checked")
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ImageRef {
    type Err = ParseImageError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for ImageRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// The source, or what to write instead.
fn parse(text: &str) -> Result<ImageSource, &'static str> {
    if text.is_empty() {
        return Err("write a name such as `busybox:1.36`");
    }
    if text.len() > ImageRef::MAX_LEN {
        return Err("write at most 512 bytes");
    }
    if let Some(layout) = text.strip_prefix(LAYOUT) {
        return parse_layout(layout);
    }
    if let Some(digest) = text.strip_prefix(ARTIFACT) {
        let digest = digest.parse();
        return digest.map(ImageSource::Artifact).map_err(
            |_| "write `artifact:` and the digest of the uploaded archive, `sha256:` and 64 hexadecimal digits",
        );
    }
    parse_registry(text).map(ImageSource::Registry)
}

fn parse_layout(text: &str) -> Result<ImageSource, &'static str> {
    let (folder, tag) = match text.rsplit_once(':') {
        Some((folder, tag)) if !tag.contains('/') => (folder, Some(tag)),
        _ => (text, None),
    };
    if !folder.starts_with('/') || folder.chars().any(char::is_control) {
        return Err("write `oci-layout:` and the absolute path of a folder on the agent");
    }
    if folder.split('/').any(|name| name == "." || name == "..") {
        return Err("write the folder's path without `.` and `..`");
    }
    check_tag(tag)?;
    Ok(ImageSource::Layout {
        folder: folder.to_owned(),
        tag: tag.map(str::to_owned),
    })
}

fn parse_registry(text: &str) -> Result<RegistryImage, &'static str> {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    let digest: Option<Digest> = digest.map(str::parse).transpose().map_err(
        |_| "what follows `@` is a digest: `sha256:` and 64 hexadecimal digits in lower case",
    )?;
    // A colon before the last slash is the registry's port.
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    };
    check_tag(tag)?;
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest.to_owned()),
        Some(_) => (DEFAULT_REGISTRY, name.to_owned()),
        None => (DEFAULT_REGISTRY, format!("{DEFAULT_FOLDER}{name}")),
    };
    let registry = match registry {
        OLD_DEFAULT_REGISTRY => DEFAULT_REGISTRY,
        registry => registry,
    };
    check_registry(registry)?;
    check_repository(&repository)?;
    if registry.len() + 1 + repository.len() > MAX_NAME_LEN {
        return Err("write a registry and name of at most 255 bytes");
    }
    let tag = match (tag, digest) {
        (None, None) => Some(DEFAULT_TAG),
        (tag, _) => tag,
    };
    Ok(RegistryImage {
        registry: registry.to_owned(),
        repository,
        tag: tag.map(str::to_owned),
        digest,
    })
}

/// Whether the first name of a reference is a host, not the first part of a path.
fn is_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    const FIX: &str =
        "write the registry as `host` or `host:port`, with letters, digits, `-` and `.`";
    let (host, port) = match registry.rsplit_once(':') {
        // Inside the brackets of an IPv6 address a colon begins no port.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    if port.is_some_and(|port| !is_port(port)) {
        return Err(FIX);
    }
    if let Some(address) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        let is_address = address
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b':');
        return if is_address && !address.is_empty() {
            Ok(())
        } else {
            Err(FIX)
        };
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if host.split('.').all(is_label) {
        Ok(())
    } else {
        Err(FIX)
    }
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("write the name in lower case");
    }
    if repository.split('/').all(is_component) {
        Ok(())
    } else {
        Err(
            "write the name out of a-z, 0-9 and single `.`, `_` or `-` between them, parts joined by `/`",
        )
    }
}

/// Words of letters and digits, joined by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = bytes.first().is_some_and(is_word) && bytes.last().is_some_and(is_word);
    let mut joints = bytes.split(is_word).filter(|joint| !joint.is_empty());
    ends && joints
        .all(|joint| matches!(joint, b"." | b"_" | b"__") || joint.iter().all(|byte| *byte == b'-'))
}

fn check_tag(tag: Option<&str>) -> Result<(), &'static str> {
    let Some(tag) = tag else { return Ok(()) };
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_tag = tag.bytes().next().is_some_and(is_word)
        && tag.len() <= MAX_TAG_LEN
        && tag
            .bytes()
            .all(|byte| is_word(byte) || byte == b'.' || byte == b'-');
    if is_tag {
        Ok(())
    } else {
        Err(
            "write the tag out of letters, digits, `_`, `.` and `-`, at most 128, the first no `.` or `-`",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn registry(text: &str) -> String {
        match ImageRef::new(text).unwrap().source() {
            ImageSource::Registry(image) => image.to_string(),
            other => panic!("{text} is {other:?}"),
        }
    }

    #[test]
    fn registry_references_get_dockers_defaults() {
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("library/busybox", "docker.io/library/busybox:latest"),
            ("me/tool", "docker.io/me/tool:latest"),
            ("index.docker.io/me/tool:1", "docker.io/me/tool:1"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("ghcr.io/x/y:z", "ghcr.io/x/y:z"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("a/b__c-d.e/f---g", "docker.io/a/b__c-d.e/f---g:latest"),
        ] {
            assert_eq!(registry(text), full);
        }
        let pinned = format!("localhost:5000/a/b@sha256:{HEX}");
        assert_eq!(registry(&pinned), pinned, "a digest asks for no tag");
        let both = format!("a.io/b:c@sha256:{HEX}");
        assert_eq!(registry(&both), both);
    }

    #[test]
    fn folders_and_artifacts_have_forms_of_their_own() {
        let layout = |folder: &str, tag: Option<&str>| ImageSource::Layout {
            folder: folder.into(),
            tag: tag.map(Into::into),
        };
        let source = |text: &str| ImageRef::new(text).unwrap().source();
        assert_eq!(source("oci-layout:/srv/a"), layout("/srv/a", None));
        assert_eq!(source("oci-layout:/srv/a:b"), layout("/srv/a", Some("b")));
        assert_eq!(source("oci-layout:/a:b/c"), layout("/a:b/c", None));
        let artifact = source(&format!("artifact:sha256:{HEX}"));
        assert_eq!(artifact, ImageSource::Artifact(Digest::of(b"")));
    }

    #[test]
    fn bad_references_are_refused_with_the_fix() {
        let long = format!("a/{}", "b".repeat(ImageRef::MAX_LEN));
        let wide = format!("a/{}", "b".repeat(MAX_NAME_LEN));
        for (text, fix) in [
            ("", "write a name"),
            (&*long, "at most 512"),
            (&*wide, "at most 255"),
            ("Busybox", "lower case"),
            ("a//b", "parts joined by `/`"),
            ("a/../b", "parts joined by `/`"),
            ("a___b", "between them"),
            ("-a", "between them"),
            ("a:", "write the tag"),
            ("a:.b", "write the tag"),
            ("a:é", "write the tag"),
            ("a@sha256:12", "is a digest"),
            ("a@md5:12", "is a digest"),
            ("a.io:0/b", "`host:port`"),
            ("a.io:x/b", "`host:port`"),
            ("a..io/b", "`host:port`"),
            ("https://a.io/b", "`host:port`"),
            ("oci-layout:srv", "absolute path"),
            ("oci-layout:/a/../b", "without `.` and `..`"),
            ("oci-layout:/a:", "write the tag"),
            ("artifact:12", "uploaded archive"),
        ] {
            let error = ImageRef::new(text).unwrap_err().to_string();
            assert!(error.contains(fix), "{error}");
            assert!(error.len() < 300, "{error}");
        }
    }

    #[test]
    fn references_are_strings_in_every_format_and_checked_on_the_way_in() {
        let image = ImageRef::new("busybox:1.36").unwrap();
        let json = serde_json::to_string(&image).unwrap();
        assert_eq!(json, "\"busybox:1.36\"");
        assert_eq!(serde_json::from_str::<ImageRef>(&json).unwrap(), image);
        assert!(serde_json::from_str::<ImageRef>("\"Busy box\"").is_err());
        let bytes = postcard::to_stdvec(&image).unwrap();
        assert_eq!(postcard::from_bytes::<ImageRef>(&bytes), Ok(image));
        assert!(postcard::from_bytes::<ImageRef>(&[1, b'-']).is_err());
        let policy = serde_json::to_string(&PullPolicy::default()).unwrap();
        assert_eq!(policy, "\"if-not-present\"");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_what_is_taken_names_itself(text in "[a-z0-9@:/._-]{0,40}|.{0,20}") {
            if let Ok(image) = ImageRef::new(text)
                && let ImageSource::Registry(source) = image.source()
            {
                let again = ImageRef::new(source.to_string()).unwrap();
                proptest::prop_assert_eq!(again.source(), ImageSource::Registry(source));
            }
        }
    }
}
