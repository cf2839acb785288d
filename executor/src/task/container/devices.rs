//! The devices of a container: those that every program may expect, and those that its task was given.
//!
//! A pure function of what the agent found (see [`LocalDevices`]). Nothing else can be opened, whatever
//! nodes there are in the container's root.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};
use tepui_types::wire::executor::{DeviceNode, LocalDevices};

/// null, zero, full, tty, random, urandom, console, ptmx, by major and minor number.
const HARMLESS: [(i64, i64); 8] = [
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
const TERMINALS: i64 = 136;

/// Which devices may be opened: nothing but the usual ones, and those.
///
/// # Errors
/// None that these values could lead to.
pub fn rules(given: Option<&LocalDevices>) -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    let none = LinuxDeviceCgroupBuilder::default()
        .allow(false)
        .access("rwm");
    let mut rules = vec![none.build()?];
    let allow = |typ, major, minor: Option<i64>| {
        let rule = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(typ)
            .major(major)
            .access("rwm");
        match minor {
            Some(minor) => rule.minor(minor).build(),
            None => rule.build(),
        }
    };
    for (major, minor) in HARMLESS {
        rules.push(allow(LinuxDeviceType::C, major, Some(minor))?);
    }
    rules.push(allow(LinuxDeviceType::C, TERMINALS, None)?);
    for node in given.iter().flat_map(|given| &given.nodes) {
        rules.push(allow(type_of(node), node.major, Some(node.minor))?);
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
