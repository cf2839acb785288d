//! Roles: the names under which frameworks are offered resources.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::resources::{ResourceLimit, ResourceRequest};

/// A role path such as `eng` or `eng/web`; `*` is everybody's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct Role(Arc<str>);

/// A role path that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a role: write names out of a-z, 0-9 and `-` joined by `/` (at most 8 levels), or `*`"
)]
pub struct ParseRoleError(String);

impl Role {
    /// The deepest path, in names.
    pub const MAX_DEPTH: usize = 8;

    /// The role of those who name none.
    pub fn default_role() -> Self {
        Self("*".into())
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The role one level up.
    pub fn parent(&self) -> Option<Self> {
        self.0
            .rsplit_once('/')
            .map(|(parent, _)| Self(parent.into()))
    }

    /// This role and those above it, upwards.
    pub fn upwards(&self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self.clone()), Self::parent)
    }

    /// How many names its path has.
    pub fn depth(&self) -> usize {
        self.0.split('/').count()
    }

    /// Whether this is `other`, or is below it.
    pub fn is_within(&self, other: &Self) -> bool {
        let rest = self.0.strip_prefix(&*other.0);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// How much a role counts, and what it is promised and allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleSettings {
    /// Beside its siblings, in thousandths.
    pub weight_milli: u32,
    /// What is laid away for it, whether it uses it or not.
    pub guarantee: ResourceRequest,
    /// The most that it may have.
    pub limit: ResourceLimit,
    /// Whether its tasks may be ended for roles below their guarantee; as with
    /// the role above it if nothing is said.
    pub preemptible: Option<bool>,
}

impl RoleSettings {
    /// The weight of a role that nobody has set: 1.
    pub const DEFAULT_WEIGHT_MILLI: u32 = 1_000;
    /// The greatest weight: 1,000,000, so that a share divided by it still says something.
    pub const MAX_WEIGHT_MILLI: u32 = 1_000_000_000;

    /// What is wrong with them in themselves.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=Self::MAX_WEIGHT_MILLI).contains(&self.weight_milli) {
            return Err(format!(
                "a weight is from 0.001 to {}: a role that shall have nothing gets a limit of 0",
                Self::MAX_WEIGHT_MILLI / 1_000
            ));
        }
        let custom = [&self.guarantee.custom, &self.limit.custom];
        let is_long = |name: &String| name.len() > ResourceRequest::MAX_CUSTOM_NAME;
        if custom
            .iter()
            .any(|custom| custom.len() > ResourceRequest::MAX_CUSTOM || custom.keys().any(is_long))
        {
            return Err(format!(
                "a quota names at most {} custom resources, with names of at most {} bytes",
                ResourceRequest::MAX_CUSTOM,
                ResourceRequest::MAX_CUSTOM_NAME
            ));
        }
        if let Some((name, most)) = self.limit.passed_by(&self.guarantee) {
            return Err(format!(
                "the limit of {} {name} is below the guarantee of {}: raise the limit, or lower the \
                 guarantee",
                ResourceRequest::show_amount(name, most),
                self.guarantee.show(name)
            ));
        }
        Ok(())
    }
}

impl Default for RoleSettings {
    fn default() -> Self {
        Self {
            weight_milli: Self::DEFAULT_WEIGHT_MILLI,
            guarantee: ResourceRequest::default(),
            limit: ResourceLimit::default(),
            preemptible: None,
        }
    }
}

/// The roles of a framework: one or more, each once. The first is that of all
/// for which it names none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Roles(Vec<Role>);

impl Roles {
    /// The most roles of one framework: a team's, not a cluster's.
    pub const MAX: usize = 32;

    /// These, if there is one, none twice, and not too many.
    pub fn new(roles: Vec<Role>) -> Result<Self, String> {
        if !(1..=Self::MAX).contains(&roles.len()) {
            return Err(format!("a framework has 1 to {} roles", Self::MAX));
        }
        let mut known = std::collections::BTreeSet::new();
        match roles.iter().find(|role| !known.insert(*role)) {
            Some(role) => Err(format!("role `{role}` is named twice")),
            None => Ok(Self(roles)),
        }
    }

    /// That of all for which the framework names none.
    pub fn first(&self) -> &Role {
        // invariant: there is one at least.
        &self.0[0]
    }

    /// All of them, in the framework's order.
    pub fn iter(&self) -> impl Iterator<Item = &Role> {
        self.0.iter()
    }

    /// Where a role stands among them; the first place for none.
    pub fn place(&self, role: Option<&Role>) -> Option<usize> {
        match role {
            Some(role) => self.0.iter().position(|known| known == role),
            None => Some(0),
        }
    }

    /// The role that is meant by one of them or none.
    pub fn get(&self, role: Option<&Role>) -> Option<&Role> {
        self.place(role).map(|place| &self.0[place])
    }
}

impl From<Role> for Roles {
    fn from(role: Role) -> Self {
        Self(vec![role])
    }
}

impl<'de> Deserialize<'de> for Roles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Default for Role {
    fn default() -> Self {
        Self::default_role()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Role {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let depth = text.split('/').count();
        let is_path = depth <= Self::MAX_DEPTH && text.split('/').all(crate::ids::is_label);
        if text == "*" || is_path {
            Ok(Self(text.into()))
        } else {
            Err(ParseRoleError(text.chars().take(80).collect()))
        }
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}
