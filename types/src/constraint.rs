//! On which agents a demand may be met: by their attributes and names.
//!
//! A constraint keeps offers away that would only be declined. Region and zone
//! are attributes like others.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::agent::AgentInfo;

/// Any of these groups must hold whole; without groups every agent will do.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Constraints(pub Vec<Vec<Constraint>>);

/// What must hold of one property of an agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Constraint {
    /// An attribute's name, or `hostname`.
    pub attribute: String,
    /// What must hold of it.
    pub test: Test,
}

/// What must hold of an attribute. An agent without it passes `NotExists`,
/// `NotEquals` and `NotMatches`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Test {
    /// It is there.
    Exists,
    /// It is not there.
    NotExists,
    /// It is this.
    Equals(String),
    /// It is not this.
    NotEquals(String),
    /// This pattern covers it: `*` stands for any text, `?` for one character.
    Matches(String),
    /// This pattern does not cover it.
    NotMatches(String),
}

/// A text that is no constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a test of an attribute such as zone=a, zone!=a, rack~r* or !ssd")]
pub struct ParseConstraintError(String);

impl Constraints {
    /// The name that stands for an agent's hostname.
    pub const HOSTNAME: &str = "hostname";
    /// The most groups, and constraints in one.
    pub const MAX_EACH: usize = 16;
    /// Bytes of a name, value or pattern.
    pub const MAX_TEXT: usize = 256;

    /// Whether every agent will do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an agent's name matters, beside its attributes.
    pub fn names_hosts(&self) -> bool {
        let mut constraints = self.0.iter().flatten();
        constraints.any(|constraint| constraint.attribute == Self::HOSTNAME)
    }

    /// Whether this agent will do.
    pub fn hold_of(&self, agent: &AgentInfo) -> bool {
        self.hold(&agent.hostname, &agent.attributes)
    }

    /// Whether an agent of this name and these attributes will do.
    pub fn hold(&self, hostname: &str, attributes: &BTreeMap<String, String>) -> bool {
        let holds = |constraint: &Constraint| constraint.holds(hostname, attributes);
        self.0.is_empty() || self.0.iter().any(|group| group.iter().all(holds))
    }

    /// All of them, one group after another.
    pub fn each(&self) -> impl Iterator<Item = &Constraint> {
        self.0.iter().flatten()
    }

    /// What is wrong with them in themselves.
    pub fn validate(&self) -> Result<(), String> {
        let is_long = |group: &Vec<Constraint>| group.is_empty() || group.len() > Self::MAX_EACH;
        if self.0.len() > Self::MAX_EACH || self.0.iter().any(is_long) {
            return Err(format!(
                "constraints are at most {} groups of 1 to {} each",
                Self::MAX_EACH,
                Self::MAX_EACH
            ));
        }
        let mut constraints = self.0.iter().flatten();
        let is_long = |constraint: &Constraint| {
            let text = constraint.test.text();
            constraint.attribute.is_empty()
                || constraint.attribute.len() > Self::MAX_TEXT
                || text.is_some_and(|text| text.len() > Self::MAX_TEXT)
        };
        match constraints.find(|constraint| is_long(constraint)) {
            Some(_) => Err(format!(
                "an attribute's name has 1 to {} bytes, and what is asked of it at most as many",
                Self::MAX_TEXT
            )),
            None => Ok(()),
        }
    }

    /// Bytes that they take in a turn, about.
    pub fn size(&self) -> usize {
        let constraints = self.0.iter().flatten();
        let text = |constraint: &Constraint| constraint.test.text().map_or(0, str::len);
        constraints
            .map(|constraint| constraint.attribute.len() + text(constraint) + 8)
            .sum()
    }
}

impl FromStr for Constraint {
    type Err = ParseConstraintError;

    /// `zone=a`, `zone!=a`, `zone~a*`, `zone!~a*`, `zone` or `!zone`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        type Sign = (&'static str, fn(String) -> Test);
        let tests: [Sign; 4] = [
            ("!=", Test::NotEquals),
            ("!~", Test::NotMatches),
            ("=", Test::Equals),
            ("~", Test::Matches),
        ];
        // The sign that comes first is the one; what follows may hold others.
        let signs = tests
            .iter()
            .filter_map(|(sign, test)| Some((text.find(sign)?, sign, test)));
        let (attribute, test) = match signs.min_by_key(|(at, ..)| *at) {
            Some((at, sign, test)) => (&text[..at], test(text[at + sign.len()..].to_owned())),
            None => match text.strip_prefix('!') {
                Some(name) => (name, Test::NotExists),
                None => (text, Test::Exists),
            },
        };
        // What others write is taken for the name of an attribute that no agent has.
        let is_foreign = |sign: char| sign.is_whitespace() || "<>()".contains(sign);
        let is_doubled = matches!(&test, Test::Equals(value) if value.starts_with('='));
        if attribute.is_empty()
            || attribute.starts_with('!')
            || attribute.contains(is_foreign)
            || is_doubled
        {
            return Err(ParseConstraintError(text.to_owned()));
        }
        let attribute = attribute.to_owned();
        Ok(Self { attribute, test })
    }
}

/// As [`FromStr`] reads it.
impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.attribute;
        match &self.test {
            Test::Exists => f.write_str(name),
            Test::NotExists => write!(f, "!{name}"),
            Test::Equals(value) => write!(f, "{name}={value}"),
            Test::NotEquals(value) => write!(f, "{name}!={value}"),
            Test::Matches(pattern) => write!(f, "{name}~{pattern}"),
            Test::NotMatches(pattern) => write!(f, "{name}!~{pattern}"),
        }
    }
}

impl Constraint {
    /// Whether it holds of this agent.
    pub fn holds_of(&self, agent: &AgentInfo) -> bool {
        self.holds(&agent.hostname, &agent.attributes)
    }

    fn holds(&self, hostname: &str, attributes: &BTreeMap<String, String>) -> bool {
        let value = match self.attribute.as_str() {
            Constraints::HOSTNAME => Some(hostname),
            name => attributes.get(name).map(String::as_str),
        };
        self.test.holds_of(value)
    }
}

/// For people: `zone=a and ssd, or zone=b`.
impl fmt::Display for Constraints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, group) in self.0.iter().enumerate() {
            f.write_str(if index > 0 { ", or " } else { "" })?;
            for (index, constraint) in group.iter().enumerate() {
                f.write_str(if index > 0 { " and " } else { "" })?;
                write!(f, "{constraint}")?;
            }
        }
        Ok(())
    }
}

impl Test {
    fn holds_of(&self, value: Option<&str>) -> bool {
        match self {
            Self::Exists => value.is_some(),
            Self::NotExists => value.is_none(),
            Self::Equals(wanted) => value == Some(wanted),
            Self::NotEquals(unwanted) => value != Some(unwanted),
            Self::Matches(pattern) => value.is_some_and(|value| covers(pattern, value)),
            Self::NotMatches(pattern) => !value.is_some_and(|value| covers(pattern, value)),
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Exists | Self::NotExists => None,
            Self::Equals(text)
            | Self::NotEquals(text)
            | Self::Matches(text)
            | Self::NotMatches(text) => Some(text),
        }
    }
}

/// Whether a pattern covers a text. After a `*` that led nowhere only the last
/// one is tried again, so the time is at most the product of the lengths.
pub(crate) fn covers(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut read) = (0, 0);
    let mut star = None;
    while read < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || *wanted == text[read] => {
                at += 1;
                read += 1;
            }
            _ => match &mut star {
                Some((star, from)) => {
                    *from += 1;
                    (at, read) = (*star + 1, *from);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|left| *left == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Resources;

    fn agent() -> AgentInfo {
        AgentInfo {
            address: None,
            hostname: "node-7".into(),
            resources: Resources::default(),
            attributes: BTreeMap::from([("zone".into(), "eu-a".into())]).into(),
            version: "0".into(),
            full: None,
        }
    }

    fn one(attribute: &str, test: Test) -> Constraint {
        let attribute = attribute.into();
        Constraint { attribute, test }
    }

    #[test]
    fn any_group_must_hold_whole() {
        use Test::*;
        let zone = |test| one("zone", test);
        let holds = |groups: &[&[Constraint]]| {
            let groups = groups.iter().map(|group| group.to_vec()).collect();
            Constraints(groups).hold_of(&agent())
        };
        assert!(holds(&[]));
        assert!(holds(&[&[zone(Exists), zone(Matches("eu-*".into()))]]));
        assert!(!holds(&[&[zone(Exists), zone(Equals("eu-b".into()))]]));
        assert!(holds(&[
            &[zone(NotExists)],
            &[zone(NotEquals("eu-b".into()))]
        ]));
        assert!(holds(&[&[
            one("gpu", NotExists),
            one("gpu", NotMatches("*".into()))
        ]]));
        assert!(holds(&[&[one("hostname", Equals("node-7".into()))]]));
        assert!(!holds(&[&[one("hostname", NotMatches("node-?".into()))]]));
    }

    #[test]
    fn patterns_cover_whole_texts() {
        for (pattern, text, covered) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "abcb", false),
            ("*b*b", "abab", true),
            ("a?c", "äbc", false),
            ("?bc", "äbc", true),
            ("**", "x", true),
            ("x?", "x", false),
        ] {
            assert_eq!(covers(pattern, text), covered, "{pattern} {text}");
        }
        let (pattern, text) = ("*a".repeat(120), "a".repeat(2_000) + "b");
        assert!(!covers(&pattern, &text), "and that in no time");
    }

    #[test]
    fn constraints_are_bounded() {
        let group = vec![one("zone", Test::Exists)];
        assert_eq!(Constraints(vec![group.clone(); 16]).validate(), Ok(()));
        assert!(Constraints(vec![group.clone(); 17]).validate().is_err());
        assert!(
            Constraints(vec![vec![group[0].clone(); 17]])
                .validate()
                .is_err()
        );
        assert!(Constraints(vec![Vec::new()]).validate().is_err());
        let long = one("zone", Test::Equals("x".repeat(257)));
        assert!(Constraints(vec![vec![long]]).validate().is_err());
        assert!(
            Constraints(vec![vec![one("", Test::Exists)]])
                .validate()
                .is_err()
        );
    }

    #[test]
    fn tests_of_attributes_begin_at_their_first_sign() {
        use Test::*;
        for (text, name, test) in [
            ("zone=a", "zone", Equals("a".into())),
            ("zone!=a=b", "zone", NotEquals("a=b".into())),
            ("zone=a!=b", "zone", Equals("a!=b".into())),
            ("rack~r*", "rack", Matches("r*".into())),
            ("rack!~r*", "rack", NotMatches("r*".into())),
            ("ssd", "ssd", Exists),
            ("!ssd", "ssd", NotExists),
            ("zone=", "zone", Equals(String::new())),
        ] {
            let attribute = name.into();
            assert_eq!(text.parse(), Ok(Constraint { attribute, test }), "{text}");
        }
        for text in [
            "",
            "=a",
            "!",
            "!=a",
            "!zone=a",
            "~x",
            "cpu>2",
            "cpu>=2",
            "zone==a",
            "zone in (a,b)",
        ] {
            assert!(text.parse::<Constraint>().is_err(), "{text}");
        }
    }
}
