//! Roles: the names under which frameworks are offered resources.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// A role path such as `eng` or `eng/web`; `*` is everybody's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct Role(String);

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
