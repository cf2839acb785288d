//! What a task's sandbox is filled with before it starts: files and archives, by URL or by digest.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ids::Digest;

/// Something that is fetched into a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Fetch {
    /// `http://…`, `https://…`, `file:///…` of the agent's machine (agents allow few of those, and
    /// none unless told), or an artifact of the cluster: `sha256:…`.
    pub from: String,
    /// What its bytes must be, where `from` is a URL.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// Where it is put, below the sandbox; the last part of the URL's path when absent. A folder for
    /// what is extracted, and the sandbox itself when absent then.
    #[serde(default)]
    pub path: Option<String>,
    /// Whether it is an archive (tar, compressed or not, or zip) that is unpacked.
    #[serde(default)]
    pub extract: bool,
    /// Whether the file can be executed.
    #[serde(default)]
    pub executable: bool,
    /// Whether the agent keeps it for later tasks.
    #[serde(default)]
    pub cache: bool,
}

impl Fetch {
    /// The most of one task.
    pub const MOST: usize = 32;
    /// Bytes of a URL.
    pub const MAX_FROM: usize = 2048;
    /// Bytes of a path.
    pub const MAX_PATH: usize = 1024;

    /// From there, and nothing else said.
    pub fn new(from: impl Into<String>) -> Self {
        Self {
            from: from.into(),
            digest: None,
            path: None,
            extract: false,
            executable: false,
            cache: false,
        }
    }

    /// The artifact that it is.
    pub fn artifact(&self) -> Option<Digest> {
        self.from.parse().ok()
    }

    /// Where it is put, below the sandbox; none for the sandbox itself.
    pub fn place(&self) -> Option<&str> {
        match &self.path {
            Some(path) => Some(path),
            None if self.extract => None,
            None => {
                let end = self.from.find(['?', '#']).unwrap_or(self.from.len());
                self.from[..end].rsplit('/').next()
            }
        }
    }

    /// What is wrong with some of them.
    pub(crate) fn validate_all(list: &[Self]) -> Result<(), String> {
        if list.len() > Self::MOST {
            return Err(format!("a task fetches at most {} things", Self::MOST));
        }
        let mut places = BTreeSet::new();
        for one in list {
            one.validate()?;
            if !one.extract && !places.insert(one.place()) {
                let place = one.place().unwrap_or_default();
                return Err(format!(
                    "two things are put at `{place}`: give one a `path`"
                ));
            }
        }
        Ok(())
    }

    fn validate(&self) -> Result<(), String> {
        let from = &self.from;
        let short: String = from.chars().take(80).collect();
        let is_url = |scheme| {
            let rest = from.strip_prefix(scheme);
            rest.is_some_and(|rest| !rest.is_empty())
        };
        let known = ["http://", "https://", "file:///"].into_iter().any(is_url);
        if !known && self.artifact().is_none() {
            return Err(format!(
                "`{short}` is nothing to fetch: write a http, https or file URL, or an artifact's \
                 digest (`sha256:…`)"
            ));
        }
        let is_text = |c: char| !c.is_control() && !c.is_whitespace();
        if from.len() > Self::MAX_FROM || !from.chars().all(is_text) {
            return Err(format!(
                "`{short}`: a URL has at most {} bytes, and no spaces",
                Self::MAX_FROM
            ));
        }
        if self.digest.is_some() && self.artifact().is_some() {
            return Err(format!(
                "`{short}` says its digest itself: leave `digest` out"
            ));
        }
        if self.executable && self.extract {
            return Err(format!(
                "`{short}`: what an archive holds is executable as it says: leave `executable` out"
            ));
        }
        if self.artifact().is_some() && self.path.is_none() && !self.extract {
            return Err(format!(
                "`{short}`: an artifact has no name: give it a `path`"
            ));
        }
        let Some(place) = self.place() else {
            return Ok(());
        };
        let is_plain = |name: &str| !matches!(name, "" | "." | "..");
        match place.len() <= Self::MAX_PATH
            && !place.contains(['\0', '\\'])
            && place.split('/').all(is_plain)
        {
            true => Ok(()),
            false => Err(format!(
                "`{short}` cannot be put at `{}`: name a `path` below the sandbox, such as `data`",
                place.chars().take(80).collect::<String>()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<(), String> {
        let list: Vec<Fetch> = serde_json::from_str(json).map_err(|error| error.to_string())?;
        Fetch::validate_all(&list)
    }

    #[test]
    fn what_is_fetched_has_a_source_and_a_place() {
        let digest = Digest::of(b"x");
        for good in [
            r#"[{"from": "https://example.org/a/tool?x=1", "executable": true, "cache": true}]"#,
            r#"[{"from": "http://example.org/a.tar.gz", "extract": true}, {"from": "file:///srv/x"}]"#,
            &format!(r#"[{{"from": "{digest}", "path": "bin/tool"}}]"#),
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let tool = Fetch::new("https://example.org/a/tool?x=/1#y");
        assert_eq!(tool.place(), Some("tool"));
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_name() {
        let digest = Digest::of(b"x");
        for (bad, hint) in [
            (
                r#"[{"from": "ftp://x/y"}]"#.to_owned(),
                "http, https or file",
            ),
            (r#"[{"from": "https://"}]"#.into(), "http, https or file"),
            (r#"[{"from": "file://x"}]"#.into(), "http, https or file"),
            (r#"[{"from": "https://x/"}]"#.into(), "cannot be put at ``"),
            (
                r#"[{"from": "https://x/y", "path": "../y"}]"#.into(),
                "`../y`",
            ),
            (r#"[{"from": "https://x/y", "path": "/y"}]"#.into(), "`/y`"),
            (r#"[{"from": "https://x/a b"}]"#.into(), "no spaces"),
            (
                r#"[{"from": "https://x/y"}, {"from": "https://z/y"}]"#.into(),
                "two things",
            ),
            (format!(r#"[{{"from": "{digest}"}}]"#), "no name"),
            (
                format!(r#"[{{"from": "{digest}", "path": "x", "digest": "{digest}"}}]"#),
                "itself",
            ),
            (
                r#"[{"from": "https://x/y", "extract": true, "executable": true}]"#.into(),
                "leave `executable` out",
            ),
        ] {
            let error = check(&bad).unwrap_err();
            assert!(error.contains(hint), "{bad}: {error}");
        }
    }
}
