//! Members: frameworks in their roles.
//!
//! A framework takes part in the order of service once for each of its roles,
//! with the demand, the filters and the offers of that role.

use tepui_types::{FrameworkId, Role};

use super::demands::Demands;
use super::patience::Patience;
use crate::charge::Charge;
use crate::state::frameworks::Framework;

/// A framework in one of its roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberId {
    /// Whose.
    pub framework: FrameworkId,
    /// The role's place among the framework's; there are far fewer than 256.
    place: u8,
}

impl MemberId {
    /// The framework in the role at this place.
    pub fn new(framework: FrameworkId, place: usize) -> Self {
        let place = u8::try_from(place).unwrap_or(u8::MAX);
        Self { framework, place }
    }

    /// The framework in one of its roles; none if it has not got it.
    pub fn of(framework: &Framework, role: Option<&Role>) -> Option<Self> {
        let place = framework.info.roles.place(role)?;
        Some(Self::new(framework.id, place))
    }

    /// All that a framework may have.
    pub fn all_of(framework: FrameworkId) -> std::ops::RangeInclusive<Self> {
        Self::new(framework, 0)..=Self::new(framework, usize::MAX)
    }
}

/// A framework in its roles, with their places.
pub fn members(framework: &Framework) -> impl Iterator<Item = (MemberId, &Role)> {
    let roles = framework.info.roles.iter().enumerate();
    roles.map(|(place, role)| (MemberId::new(framework.id, place), role))
}

/// A member as the allocator last saw it.
#[derive(Debug, Default)]
pub(super) struct Member {
    pub role: Role,
    pub demands: Demands,
    /// What its tasks have, as it is charged.
    pub used: Charge,
    pub patience: Patience,
}
