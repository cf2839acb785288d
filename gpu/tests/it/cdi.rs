//! Descriptions of devices as vendors' tools write them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tepui_gpu::cdi::{DeviceName, Registry};
use tepui_gpu::{Access, EditMount, HookPoint, MachineNodes, Node, NodeKind};

/// In the manner of NVIDIA's tool: devices by index, by UUID and all together.
const NVIDIA: &str = r#"---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
  - name: "0"
    containerEdits:
      deviceNodes:
        - path: /dev/nvidia0
        - path: /dev/dri/card1
          permissions: rw
      hooks:
        - hookName: createContainer
          path: /usr/bin/nvidia-cdi-hook
          args: [nvidia-cdi-hook, create-symlinks, --link, "../card1::/dev/dri/by-path/pci-0000:1b:00.0-card"]
          env:
            - NVIDIA_CTK_DEBUG=false
  - name: "1:0"
    containerEdits:
      deviceNodes:
        - path: /dev/nvidia1
        - path: /dev/nvidia-caps/nvidia-cap21
          hostPath: /dev/nvidia-caps/nvidia-cap21
  - name: all
    containerEdits:
      deviceNodes:
        - path: /dev/nvidia0
        - path: /dev/nvidia1
containerEdits:
  env:
    - NVIDIA_VISIBLE_DEVICES=void
  deviceNodes:
    - path: /dev/nvidia-uvm
    - path: /dev/nvidiactl
  mounts:
    - hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.550.90.07
      containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.550.90.07
      options: [ro, nosuid, nodev, rbind, rprivate]
    - hostPath: /usr/bin/nvidia-smi
      containerPath: /usr/bin/nvidia-smi
      options:
        - ro
        - nosuid
        - nodev
        - rbind
        - rprivate
  hooks:
    - hookName: createContainer
      path: /usr/bin/nvidia-cdi-hook
      args:
        - nvidia-cdi-hook
        - update-ldcache
        - --folder
        - /usr/lib/x86_64-linux-gnu
"#;

/// In the manner of a vendor that names everything.
const VENDOR: &str = r#"{
  "cdiVersion": "0.7.0", "kind": "vendor.example/fpga.v2",
  "annotations": {"made-by": "hand"},
  "devices": [{
    "name": "left", "annotations": {"slot": "3"},
    "containerEdits": {
      "env": ["FPGA=left"], "additionalGids": [0, 44, 44],
      "deviceNodes": [{
        "path": "/dev/fpga", "hostPath": "/dev/fpga-left", "type": "c", "major": 240, "minor": 7,
        "fileMode": 432, "permissions": "r", "uid": 7, "gid": 9
      }],
      "mounts": [{"hostPath": "/opt/fpga", "containerPath": "/fpga", "type": "none", "options": ["bind"]}],
      "hooks": [{"hookName": "poststop", "path": "/opt/fpga/reset", "env": ["A=b=c"], "timeout": 5}]
    }
  }, {"name": "right"}]
}"#;

pub fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

pub fn name(text: &str) -> DeviceName {
    text.parse().unwrap()
}

pub fn nodes(known: &[(&str, u32, u32)]) -> BTreeMap<PathBuf, Node> {
    let node = |(path, major, minor): &(&str, u32, u32)| {
        let (kind, major, minor) = (NodeKind::Char, *major, *minor);
        (PathBuf::from(path), Node { kind, major, minor })
    };
    known.iter().map(node).collect()
}

fn machine() -> BTreeMap<PathBuf, Node> {
    nodes(&[
        ("/dev/nvidia0", 195, 0),
        ("/dev/nvidia1", 195, 1),
        ("/dev/nvidiactl", 195, 255),
        ("/dev/nvidia-uvm", 507, 0),
        ("/dev/nvidia-caps/nvidia-cap21", 510, 21),
        ("/dev/dri/card1", 226, 1),
    ])
}

#[test]
fn a_device_brings_what_its_file_says_for_all() {
    let folder = folder(&[("nvidia.yaml", NVIDIA)]);
    let registry = Registry::read(&[folder.path()]);
    assert!(registry.problems().is_empty(), "{:?}", registry.problems());
    let edits = registry
        .resolve(&[name("nvidia.com/gpu=0")], &machine())
        .unwrap();
    let devices: Vec<_> = edits
        .devices
        .iter()
        .map(|node| (node.path.to_str().unwrap(), node.major, node.minor))
        .collect();
    assert_eq!(
        devices,
        [
            ("/dev/nvidia-uvm", 507, 0),
            ("/dev/nvidiactl", 195, 255),
            ("/dev/nvidia0", 195, 0),
            ("/dev/dri/card1", 226, 1),
        ]
    );
    let rules: Vec<_> = edits
        .device_rules()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        rules,
        ["c 507:0 rwm", "c 195:255 rwm", "c 195:0 rwm", "c 226:1 rw"]
    );
    let library = "/usr/lib/x86_64-linux-gnu/libcuda.so.550.90.07";
    assert_eq!(edits.mounts.len(), 2);
    assert_eq!(edits.mounts[0], EditMount::read_only(library, library));
    assert_eq!(edits.hooks.len(), 2, "of all, then of its own");
    assert_eq!(edits.hooks[0].args[1], "update-ldcache");
    assert_eq!(edits.hooks[1].point, HookPoint::CreateContainer);
    assert_eq!(
        edits.hooks[1].env,
        [("NVIDIA_CTK_DEBUG".into(), "false".into())]
    );
    assert_eq!(
        edits.env,
        [("NVIDIA_VISIBLE_DEVICES".into(), "void".into())]
    );
}

#[test]
fn two_devices_of_a_file_bring_what_is_for_all_once() {
    let folder = folder(&[("nvidia.yml", NVIDIA)]);
    let registry = Registry::read(&[folder.path()]);
    let names = [
        "nvidia.com/gpu=0",
        "nvidia.com/gpu=1:0",
        "nvidia.com/gpu=all",
    ]
    .map(name);
    let edits = registry.resolve(&names, &machine()).unwrap();
    assert_eq!(
        edits.devices.len(),
        6,
        "each node once: {:?}",
        edits.devices
    );
    assert_eq!((edits.mounts.len(), edits.hooks.len()), (2, 2));
}

#[test]
fn every_field_is_carried_over() {
    let folder = folder(&[("vendor.json", VENDOR)]);
    let registry = Registry::read(&[folder.path()]);
    assert!(registry.problems().is_empty(), "{:?}", registry.problems());
    let left = name("vendor.example/fpga.v2=left");
    // The driver has not made its node yet; the file says all about it.
    let edits = registry
        .resolve(std::slice::from_ref(&left), &nodes(&[]))
        .unwrap();
    let node = &edits.devices[0];
    assert_eq!(
        (node.path.as_path(), node.host_path.as_path()),
        (Path::new("/dev/fpga"), Path::new("/dev/fpga-left"))
    );
    assert_eq!(
        (node.kind, node.major, node.minor),
        (NodeKind::Char, 240, 7)
    );
    assert_eq!(
        (node.file_mode, node.uid, node.gid),
        (Some(0o660), Some(7), Some(9))
    );
    let read = Access {
        read: true,
        ..Access::NONE
    };
    assert_eq!(node.access, read);
    assert_eq!(edits.additional_gids, [44]);
    assert_eq!(edits.mounts[0].kind, "none");
    let hook = &edits.hooks[0];
    assert_eq!((hook.point, hook.timeout_s), (HookPoint::Poststop, Some(5)));
    assert_eq!(hook.env, [("A".into(), "b=c".into())]);
    // It has another number now: the file is of an earlier boot.
    let moved = nodes(&[("/dev/fpga-left", 241, 7)]);
    let error = registry.resolve(&[left], &moved).unwrap_err().to_string();
    assert!(error.contains("`c 240:7`, and it is `c 241:7`"), "{error}");
    let right = registry.resolve(&[name("vendor.example/fpga.v2=right")], &nodes(&[]));
    assert_eq!(right.unwrap(), Default::default());
}

#[test]
fn a_later_folder_counts_before_an_earlier_one() {
    let of = |value: &str| {
        format!(
            "cdiVersion: 0.3.0\nkind: v.com/c\ndevices:\n- name: x\n  containerEdits:\n    env: [V={value}]\n"
        )
    };
    let (etc, twin, run) = (of("etc"), of("twin"), of("run"));
    let low = folder(&[("a.yaml", &etc), ("b.yaml", &twin)]);
    let high = folder(&[("z.yaml", &run)]);
    let both = Registry::read(&[low.path(), high.path()]);
    let edits = both.resolve(&[name("v.com/c=x")], &MachineNodes).unwrap();
    assert_eq!(
        edits.env,
        [("V".into(), "run".into())],
        "the later folder settles it"
    );
    let one = Registry::read(&[low.path(), Path::new("/nowhere/cdi")]);
    assert!(one.problems().is_empty(), "a missing folder is none");
    assert_eq!(one.devices().count(), 0);
    let error = one
        .resolve(&[name("v.com/c=x")], &MachineNodes)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("a.yaml") && error.contains("b.yaml"),
        "{error}"
    );
}

#[test]
fn nodes_have_the_numbers_of_this_machine() {
    let text = |path: &str| {
        format!(
            r#"{{"cdiVersion": "0.3.0", "kind": "v.com/c", "devices": [{{"name": "x",
            "containerEdits": {{"deviceNodes": [{{"path": "{path}"}}]}}}}]}}"#
        )
    };
    let null = folder(&[("null.json", &text("/dev/null"))]);
    let edits = Registry::read(&[null.path()]).resolve(&[name("v.com/c=x")], &MachineNodes);
    let node = &edits.unwrap().devices[0];
    assert_eq!((node.major, node.minor, node.file_mode), (1, 3, None));
    let place = null.path().join("link");
    std::os::unix::fs::symlink("/dev/null", &place).unwrap();
    for (path, why) in [
        (place.to_str().unwrap(), "not a device"),
        ("/etc/passwd", "not a device"),
        ("/dev/no-such-thing", "No such file"),
    ] {
        let folder = folder(&[("x.json", &text(path))]);
        let error = Registry::read(&[folder.path()]).resolve(&[name("v.com/c=x")], &MachineNodes);
        let error = error.unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(why), "{path}: {source}");
        assert!(error.to_string().contains("load the driver"), "{error}");
    }
}

#[test]
fn an_unknown_device_is_told_with_those_that_there_are() {
    let folder = folder(&[("nvidia.yaml", NVIDIA), ("vendor.json", VENDOR)]);
    let registry = Registry::read(&[folder.path()]);
    let error = registry.resolve(&[name("nvidia.com/gpu=7")], &machine());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("there are 0, 1:0, all)"), "{error}");
    assert!(error.contains("nvidia-ctk cdi generate"), "{error}");
}

#[test]
fn names_are_those_of_the_specification() {
    for good in [
        "vendor.com/foo=a",
        "foo.bar.baz/foo-bar123.B_az=0",
        "nvidia.com/gpu=MIG-1c5d2a6e",
        "v/c=0:1",
    ] {
        assert_eq!(name(good).to_string(), good);
    }
    for bad in [
        "",
        "foo",
        "vendor.com/foo",
        "vendor.com/foo/=a",
        "vendor.com/foo/bar=a",
        "=a",
        "/foo=a",
        "vendor.com/=a",
        "vendor.com/foo=",
        "vendor.com/1foo=a",
        "ven..dor/foo=a",
        "-v.com/foo=a",
        "vendor.com/foo=-a",
        "vendor.com/foo=a/../b",
        "vendor.com/foo=a b",
        "vendor.com/foo=ä",
    ] {
        let error = bad.parse::<DeviceName>().unwrap_err().to_string();
        assert!(error.contains("nvidia.com/gpu=0"), "{bad}: {error}");
    }
}
