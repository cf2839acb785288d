//! What holds of any description, whatever it says.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use proptest::prelude::*;
use serde_json::json;
use tepui_gpu::ContainerEdits;
use tepui_gpu::cdi::Registry;

use crate::cdi::{folder, name, nodes};

/// Paths of all sorts, most of them good.
fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "/[a-c]{1,2}(/[a-c.]{1,3}){0,2}",
        1 => "(/|\\.\\.|\\.|[a-c])*",
        1 => "\\PC{0,8}",
    ]
}

fn edits() -> impl Strategy<Value = serde_json::Value> {
    let node = (path(), proptest::option::of(path())).prop_map(|(path, host)| {
        let mut node = json!({"path": path, "type": "c", "major": 9, "minor": 1});
        if let Some(host) = host {
            node["hostPath"] = json!(host);
        }
        node
    });
    let mount = (path(), path())
        .prop_map(|(host, place)| json!({"hostPath": host, "containerPath": place}));
    let hook = path().prop_map(|path| json!({"hookName": "createContainer", "path": path}));
    let few = 0..3_usize;
    (
        proptest::collection::vec(node, few.clone()),
        proptest::collection::vec(mount, few.clone()),
        proptest::collection::vec(hook, few),
    )
        .prop_map(|(nodes, mounts, hooks)| json!({"deviceNodes": nodes, "mounts": mounts, "hooks": hooks}))
}

fn paths(edits: &ContainerEdits) -> impl Iterator<Item = &PathBuf> {
    let devices = edits
        .devices
        .iter()
        .flat_map(|node| [&node.path, &node.host_path]);
    let mounts = edits
        .mounts
        .iter()
        .flat_map(|mount| [&mount.host_path, &mount.container_path]);
    devices
        .chain(mounts)
        .chain(edits.hooks.iter().map(|hook| &hook.path))
}

/// Every text in a value.
fn texts(value: &serde_json::Value, found: &mut BTreeSet<PathBuf>) {
    match value {
        serde_json::Value::String(text) => {
            found.insert(text.into());
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
        serde_json::Value::Object(values) => values.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

fn is_safe(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn edits_hold_no_path_that_the_file_does_not_say(own in edits(), other in edits(), common in edits()) {
        let file = json!({
            "cdiVersion": "0.8.0", "kind": "v.com/c", "containerEdits": common,
            "devices": [{"name": "own", "containerEdits": own}, {"name": "other", "containerEdits": other}],
        });
        let place = folder(&[("v.json", &file.to_string())]);
        let registry = Registry::read(&[place.path()]);
        let mut said = BTreeSet::new();
        texts(&common, &mut said);
        texts(&own, &mut said);
        match registry.resolve(&[name("v.com/c=own")], &nodes(&[])) {
            Ok(edits) => for path in paths(&edits) {
                prop_assert!(is_safe(path), "{path:?}");
                prop_assert!(said.contains(path), "{path:?} is not in what was asked for");
            },
            Err(_) => prop_assert_eq!(registry.problems().len(), 1, "a file is refused for a reason"),
        }
        // JSON is YAML, apart from how some characters are escaped.
        if file.to_string().is_ascii() && !file.to_string().contains('\\') {
            let twin = folder(&[("v.yaml", &file.to_string())]);
            let twin = Registry::read(&[twin.path()]);
            let resolve = |registry: &Registry| registry.resolve(&[name("v.com/c=own")], &nodes(&[])).ok();
            prop_assert_eq!(resolve(&registry), resolve(&twin));
        }
    }

    #[test]
    fn no_text_breaks_the_reader(text in "[-a:{}\\[\\]#&*!|>'\"%@`,? \n\t\\PC]{0,60}") {
        for file in ["x.yaml", "x.json"] {
            let place = folder(&[(file, &text)]);
            let registry = Registry::read(&[place.path()]);
            prop_assert_eq!(registry.devices().count() + registry.problems().len(), 1);
        }
    }
}
