//! The devices of a container: those that every program may expect, and those that its task was given.
//!
//! A pure function of what the agent found (see [`LocalDevices`]). Nothing else can be opened, whatever
//! nodes there are in the container's root.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};
use tepui_executor::cgroup::devices::{DeviceAccess, DeviceKind, DevicePolicy, DeviceRule};
use tepui_types::wire::executor::{DeviceNode, LocalDevices};

/// null, zero, full, tty, random, urandom, console, ptmx, by major and minor number.
const HARMLESS: [(u32, u32); 8] = [
    (1, 3),
    (1, 5),
    (1, 7),
    (5, 0),
    (1, 8),
    (1, 9),
    (5, 1),
    (5, 2),
];
/// Terminals, whichever minor number they have.
const TERMINALS: u32 = 136;

/// Which devices may be opened: nothing but the usual ones, and those.
pub fn policy(given: Option<&LocalDevices>) -> DevicePolicy {
    let allow = |kind, major, minor| DeviceRule {
        allow: true,
        kind,
        major,
        minor,
        access: DeviceAccess::ALL,
    };
    let harmless = HARMLESS
        .into_iter()
        .map(|(major, minor)| allow(DeviceKind::Char, major, Some(minor)));
    let mut rules: Vec<_> = harmless.collect();
    rules.push(allow(DeviceKind::Char, TERMINALS, None));
    for node in given.iter().flat_map(|given| &given.nodes) {
        let kind = match node.is_block {
            true => DeviceKind::Block,
            false => DeviceKind::Char,
        };
        // The kernel has no device whose numbers are not of 32 bits together.
        if let (Ok(major), Ok(minor)) = (node.major.try_into(), node.minor.try_into()) {
            rules.push(allow(kind, major, Some(minor)));
        }
    }
    DevicePolicy {
        allow_others: false,
        rules,
    }
}

/// The same as a runtime's specification says it.
///
/// # Errors
/// None that these values could lead to.
pub fn rules(given: Option<&LocalDevices>) -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    let none = LinuxDeviceCgroupBuilder::default()
        .allow(false)
        .access("rwm");
    let mut rules = vec![none.build()?];
    for rule in policy(given).rules {
        let typ = match rule.kind {
            DeviceKind::Block => LinuxDeviceType::B,
            DeviceKind::Char => LinuxDeviceType::C,
        };
        let allowed = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(typ)
            .major(rule.major)
            .access("rwm");
        rules.push(match rule.minor {
            Some(minor) => allowed.minor(minor).build()?,
            None => allowed.build()?,
        });
    }
    Ok(rules)
}

/// The nodes that are made for what the task was given. Whoever the container runs as can open them:
/// they are its task's alone.
///
/// # Errors
/// None that these values could lead to.
pub fn nodes(given: &LocalDevices) -> Result<Vec<LinuxDevice>, OciSpecError> {
    let node = |node: &DeviceNode| {
        LinuxDeviceBuilder::default()
            .path(&node.path)
            .typ(type_of(node))
            .major(node.major)
            .minor(node.minor)
            .file_mode(0o666_u32)
            .uid(0_u32)
            .gid(0_u32)
            .build()
    };
    given.nodes.iter().map(node).collect()
}

fn type_of(node: &DeviceNode) -> LinuxDeviceType {
    match node.is_block {
        true => LinuxDeviceType::B,
        false => LinuxDeviceType::C,
    }
}
