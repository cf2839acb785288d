//! What an attachment is called: the id that plugins know its container by, and its folder's name.
//!
//! Agents choose ids. They are safe as a file name and as CNI's `CNI_CONTAINERID`, always.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The id of an attachment; CNI's container id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AttachmentId(String);

/// Text that is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` cannot name an attachment: use 1 to {} of A-Z a-z 0-9 . _ -, beginning with a letter \
     or a digit",
    AttachmentId::MAX
)]
pub struct ParseAttachmentIdError {
    text: String,
}

impl AttachmentId {
    /// The longest id, in bytes: plugins make file names of it and of an interface's name, and a
    /// file name has 255 at most.
    pub const MAX: usize = 128;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AttachmentId {
    type Err = ParseAttachmentIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() <= Self::MAX && is_name(text) {
            return Ok(Self(text.to_owned()));
        }
        // An error message never echoes more of a caller's input than helps.
        let text = text.chars().take(80).collect();
        Err(ParseAttachmentIdError { text })
    }
}

/// Whether it is what CNI asks of names: of networks, of containers.
pub(crate) fn is_name(text: &str) -> bool {
    let part = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(part)
}

impl TryFrom<String> for AttachmentId {
    type Error = ParseAttachmentIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AttachmentId> for String {
    fn from(id: AttachmentId) -> Self {
        id.0
    }
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_safe_as_file_names() {
        for good in ["a", "F1.web-0.3", "0_x", &"a".repeat(AttachmentId::MAX)] {
            assert_eq!(good.parse::<AttachmentId>().unwrap().as_str(), good);
        }
        let long = "a".repeat(AttachmentId::MAX + 1);
        for bad in ["", ".", "..", "-a", "a/b", "a b", "a\n", "é", &long] {
            assert!(bad.parse::<AttachmentId>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<AttachmentId>("\"../x\"").is_err());
    }
}
