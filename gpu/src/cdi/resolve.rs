//! From what a file says to edits with the machine's own numbers.

use super::error::CdiError;
use super::file::{CdiFile, FileEdits, FileNode};
use crate::edits::{ContainerEdits, DeviceNode, NodeKind};
use crate::nodes::{Node, Nodes};

/// The edits with their nodes.
pub fn edits(
    file: &CdiFile,
    from: &FileEdits,
    nodes: &impl Nodes,
) -> Result<ContainerEdits, CdiError> {
    let mut edits = ContainerEdits::default();
    let devices = from.nodes.iter().map(|node| device(file, node, nodes));
    edits.append(ContainerEdits {
        devices: devices.collect::<Result<_, _>>()?,
        ..from.plain.clone()
    });
    Ok(edits)
}

fn device(file: &CdiFile, from: &FileNode, nodes: &impl Nodes) -> Result<DeviceNode, CdiError> {
    let node = node(file, from, nodes)?;
    Ok(DeviceNode {
        path: from.path.clone(),
        host_path: from.host_path.clone(),
        kind: node.kind,
        major: node.major,
        minor: node.minor,
        file_mode: from.file_mode,
        uid: from.uid,
        gid: from.gid,
        access: from.access,
    })
}

/// The machine's node if it is there; numbers change when drivers are loaded anew. What the file
/// says in full counts where the machine has made no node yet.
fn node(file: &CdiFile, from: &FileNode, nodes: &impl Nodes) -> Result<Node, CdiError> {
    let said = match (from.kind, from.numbers) {
        (Some(NodeKind::Fifo), _) => Some((NodeKind::Fifo, (0, 0))),
        (Some(kind), Some(numbers)) => Some((kind, numbers)),
        _ => None,
    };
    let found = match (nodes.node(&from.host_path), said) {
        (Ok(found), _) => found,
        (Err(_), Some((kind, (major, minor)))) => return Ok(Node { kind, major, minor }),
        (Err(source), None) => {
            return Err(CdiError::Node {
                file: file.path.clone(),
                node: from.host_path.clone(),
                source,
            });
        }
    };
    let kind = from.kind.unwrap_or(found.kind);
    let numbers = from.numbers.unwrap_or((found.major, found.minor));
    let differs =
        kind != found.kind || (kind != NodeKind::Fifo && numbers != (found.major, found.minor));
    if differs {
        let text = |kind: NodeKind, (major, minor)| format!("{} {major}:{minor}", kind.letter());
        return Err(CdiError::Stale {
            file: file.path.clone(),
            node: from.host_path.clone(),
            said: text(kind, numbers),
            found: text(found.kind, (found.major, found.minor)),
        });
    }
    Ok(found)
}
