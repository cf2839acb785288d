//! The versions of the specification, and what came with each.

use super::wire::{Edits, File};

/// Oldest first. 0.8.0 and 1.0.0 brought no fields; 1.1.0 brought only what is refused here.
const KNOWN: [&str; 8] = [
    "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];

/// Why a file is not of the version that it names.
pub fn check(file: &File) -> Result<(), String> {
    // A patch changes no format.
    let said = file.cdi_version.trim_start_matches('v');
    let release = said.rsplit_once('.').map_or("", |(release, _)| release);
    let known = KNOWN
        .iter()
        .position(|known| known.rsplit_once('.').is_some_and(|(is, _)| is == release));
    let Some(version) = known else {
        return Err(format!(
            "its cdiVersion `{}` is not known here: use one of {} to {}",
            file.cdi_version,
            KNOWN[0],
            KNOWN[KNOWN.len() - 1]
        ));
    };
    let edits = file.devices.iter().map(|device| &device.container_edits);
    let edits: Vec<_> = edits.chain([&file.container_edits]).collect();
    let in_devices = |test: fn(&super::wire::Device) -> bool| file.devices.iter().any(test);
    let in_edits = |test: fn(&Edits) -> bool| edits.iter().any(|edits| test(edits));
    let class = file.kind.split_once('/').map_or("", |(_, class)| class);
    let used = [
        (1, "the type of a mount", in_edits(has_mount_type)),
        (2, "hostPath of a device node", in_edits(has_host_path)),
        (
            2,
            "a device whose name begins with a digit",
            in_devices(begins_with_digit),
        ),
        (
            3,
            "annotations",
            !file.annotations.is_empty() || in_devices(|device| !device.annotations.is_empty()),
        ),
        (3, "a class with a dot", class.contains('.')),
        (
            4,
            "additionalGids",
            in_edits(|edits| !edits.additional_gids.is_empty()),
        ),
    ];
    match used
        .iter()
        .find(|(since, _, is_used)| *is_used && *since > version)
    {
        Some((since, what, _)) => Err(format!(
            "it uses {what}, which is of version {}, and says that it is {}: raise its cdiVersion",
            KNOWN[*since], file.cdi_version
        )),
        None => Ok(()),
    }
}

fn has_mount_type(edits: &Edits) -> bool {
    edits.mounts.iter().any(|mount| mount.kind.is_some())
}

fn has_host_path(edits: &Edits) -> bool {
    edits
        .device_nodes
        .iter()
        .any(|node| node.host_path.is_some())
}

fn begins_with_digit(device: &super::wire::Device) -> bool {
    device
        .name
        .starts_with(|first: char| first.is_ascii_digit())
}
