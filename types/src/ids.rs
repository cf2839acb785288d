//! Newtype ids and names.
//!
//! Ids that the cluster counts (`AgentId`, `FrameworkId`) are minted by
//! `State::apply`; those that must be unique before there is a log
//! (`ClusterId`, `NodeId`) are drawn at random once. Each has one text form
//! with a letter in front, used in URLs, JSON and logs; the binary encoding is
//! the bare number.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// Text that is not an id or a name of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct ParseIdError {
    text: String,
    expected: &'static str,
}

impl ParseIdError {
    fn new(text: &str, expected: &'static str) -> Self {
        // An error message never echoes more of a caller's input than helps.
        let text = text.chars().take(80).collect();
        Self { text, expected }
    }
}

/// In JSON every id is a string.
macro_rules! schema_by_text {
    ($name:ident) => {
        #[cfg(feature = "openapi")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                String::schema()
            }
        }

        #[cfg(feature = "openapi")]
        impl utoipa::ToSchema for $name {}
    };
}

/// Implements serde by the text form for people's formats, by `$raw` for binary ones.
macro_rules! serde_by_text {
    ($name:ident, $raw:ty, $from_raw:expr, $to_raw:expr) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    let to_raw: fn(&$name) -> &$raw = $to_raw;
                    to_raw(self).serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(D::Error::custom)
                } else {
                    let from_raw: fn($raw) -> Result<$name, ParseIdError> = $from_raw;
                    from_raw(<$raw>::deserialize(deserializer)?).map_err(D::Error::custom)
                }
            }
        }

        schema_by_text!($name);
    };
}

macro_rules! counted_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.strip_prefix($prefix)
                    .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
                    .and_then(|digits| digits.parse().ok())
                    .map(Self)
                    .ok_or_else(|| ParseIdError::new(text, $expected))
            }
        }

        serde_by_text!($name, u64, |raw| Ok($name(raw)), |id| &id.0);
    };
}

counted_id!(
    /// An agent, for as long as its data folder lives. Minted when it registers.
    AgentId, "a", "an agent id such as `a3`"
);
counted_id!(
    /// A framework from its deployment to its removal. A new deployment under
    /// an old name is another framework.
    FrameworkId, "f", "a framework id such as `f1`"
);
counted_id!(
    /// A maintenance window.
    WindowId, "w", "a maintenance window's id such as `w2`"
);

counted_id!(
    /// One offer of one leader: no other knows its number.
    OfferId, "o", "an offer id such as `o17`"
);

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $raw:ty, $width:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $raw);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $width, "x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Some(text)
                    .filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))
                    .and_then(|text| <$raw>::from_str_radix(text, 16).ok())
                    .map(Self)
                    .ok_or_else(|| ParseIdError::new(text, $expected))
            }
        }

        serde_by_text!($name, $raw, |raw| Ok($name(raw)), |id| &id.0);
    };
}

random_id!(
    /// The cluster: drawn once by the first master, carried in every handshake
    /// and written in every data folder.
    ClusterId, u128, "32", "a cluster id of 32 hexadecimal digits"
);
random_id!(
    /// One master's data folder, also its Raft id. Never zero.
    NodeId, u64, "16", "a node id of 16 hexadecimal digits"
);

/// One operation of a committed command: the entry's log index, and its place
/// among the command's operations. Effects are idempotent by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OperationId {
    /// Log index of the command.
    pub index: u64,
    /// Position inside the command.
    pub ordinal: u32,
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.ordinal)
    }
}

impl FromStr for OperationId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseIdError::new(text, "an operation's id such as `17.0`");
        let (index, ordinal) = text.split_once('.').ok_or_else(error)?;
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(index) || !is_number(ordinal) {
            return Err(error());
        }
        Ok(Self {
            index: index.parse().map_err(|_| error())?,
            ordinal: ordinal.parse().map_err(|_| error())?,
        })
    }
}

/// A task's name inside its framework: 1 to 63 of `a-z`, `0-9` and `-`,
/// neither first nor last a `-` (a DNS label, RFC 1123).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
// Shared: a task's name is in many tables.
pub struct TaskName(Arc<str>);

impl TaskName {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 63;

    /// Checks and takes a name.
    pub fn new(name: impl Into<Arc<str>>) -> Result<Self, ParseIdError> {
        let name = name.into();
        if is_label(&name) {
            Ok(Self(name))
        } else {
            Err(ParseIdError::new(&name, LABEL))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

const LABEL: &str = "a name of 1 to 63 characters out of a-z, 0-9 and `-` (no `-` at either end)";

/// Whether `text` is a DNS label as RFC 1123 has it, in lower case.
pub fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= TaskName::MAX_LEN
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TaskName {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

serde_by_text!(TaskName, Arc<str>, TaskName::new, |name| &name.0);

/// A task's identity. An attempt is never reused, so a launch frame that comes
/// late cannot run a finished task again.
///
/// Text form: `f1.hello-7.0`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// Whose task it is.
    pub framework: FrameworkId,
    /// Its name there.
    pub name: TaskName,
    /// The how-manieth launch of its framework it is, counted from 0 by
    /// `State::apply`.
    pub attempt: u64,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.framework, self.name, self.attempt)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TaskId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseIdError::new(text, "a task id such as `f1.hello.0`");
        let mut parts = text.split('.');
        let (Some(framework), Some(name), Some(attempt), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(error());
        };
        Ok(Self {
            framework: framework.parse().map_err(|_| error())?,
            name: name.parse().map_err(|_| error())?,
            attempt: attempt.parse().map_err(|_| error())?,
        })
    }
}

impl Serialize for TaskId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            (self.framework, &self.name, self.attempt).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for TaskId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            text.parse().map_err(D::Error::custom)
        } else {
            let (framework, name, attempt) = Deserialize::deserialize(deserializer)?;
            Ok(Self {
                framework,
                name,
                attempt,
            })
        }
    }
}

schema_by_text!(TaskId);

/// The SHA-256 digest of an artifact's bytes. Text form: `sha256:` and 64
/// hexadecimal digits, as OCI writes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The 64 hexadecimal digits alone, for file names.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseIdError::new(text, "a digest: `sha256:` and 64 hexadecimal digits");
        let digits = text.strip_prefix("sha256:").ok_or_else(error)?.as_bytes();
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() {
            return Err(error());
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let nibble = |digit: u8| char::from(digit).to_digit(16).ok_or_else(error);
            *byte = (nibble(pair[0])? << 4 | nibble(pair[1])?) as u8;
        }
        Ok(Self(bytes))
    }
}

serde_by_text!(Digest, [u8; 32], |raw| Ok(Digest(raw)), |digest| &digest.0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_round_trip() {
        let task = TaskId {
            framework: FrameworkId(1),
            name: TaskName::new("hello-7").unwrap(),
            attempt: 2,
        };
        assert_eq!(task.to_string(), "f1.hello-7.2");
        assert_eq!(task.to_string().parse(), Ok(task));
        assert_eq!("a3".parse(), Ok(AgentId(3)));
        assert_eq!(ClusterId(10).to_string().parse(), Ok(ClusterId(10)));
        let digest = Digest::of(b"tepui");
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn bad_text_is_refused_with_the_form_that_is_wanted() {
        for text in ["", "a", "a-1", "a+1", "b3", "a99999999999999999999"] {
            let error = text.parse::<AgentId>().unwrap_err();
            assert!(
                error
                    .to_string()
                    .ends_with("is not an agent id such as `a3`")
            );
        }
        for text in [
            "f1.hello",
            "f1.hello.x",
            "f1..0",
            "hello.0",
            "f1.a.0.0",
            "f1.Hello.0",
        ] {
            assert!(text.parse::<TaskId>().is_err(), "{text}");
        }
        for text in ["sha256:", "md5:00", &format!("sha256:{}", "é".repeat(32))] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn json_has_text_and_postcard_has_numbers() {
        assert_eq!(serde_json::to_string(&AgentId(3)).unwrap(), "\"a3\"");
        assert_eq!(postcard::to_stdvec(&AgentId(3)).unwrap(), [3]);
        let refused = postcard::from_bytes::<TaskName>(&[1, b'-']);
        assert!(refused.is_err(), "names are checked on the way in");
    }
}
