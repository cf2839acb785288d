//! What a cgroup says of devices.
//!
//! A container is denied everything first, so it needs rules that allow. A native task may open
//! whatever its user may, so it needs rules that deny it the devices of others; none names a node
//! that it shares with them. So no list of rules depends on its order.

use std::fmt;

use crate::edits::{Access, NodeKind};

/// One line of a cgroup's device control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceRule {
    /// Whether it allows or denies.
    pub allow: bool,
    /// Of which kind.
    pub kind: NodeKind,
    /// The driver's number.
    pub major: u32,
    /// The device's number.
    pub minor: u32,
    /// What is allowed or denied.
    pub access: Access,
}

impl DeviceRule {
    /// A rule that allows.
    pub fn allow(kind: NodeKind, major: u32, minor: u32, access: Access) -> Self {
        Self {
            allow: true,
            kind,
            major,
            minor,
            access,
        }
    }

    /// A rule that denies everything.
    pub fn deny(kind: NodeKind, major: u32, minor: u32) -> Self {
        Self {
            allow: false,
            ..Self::allow(kind, major, minor, Access::ALL)
        }
    }
}

impl fmt::Display for DeviceRule {
    /// As `devices.allow` and `devices.deny` of cgroup v1 take it: `c 195:0 rw`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            major,
            minor,
            access,
            ..
        } = self;
        write!(f, "{} {major}:{minor} {access}", kind.letter())
    }
}
