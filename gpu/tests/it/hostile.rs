//! Files that are wrong or mean harm: each is told by its name, and the others count.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use tepui_gpu::MachineNodes;
use tepui_gpu::cdi::{MAX_FILE, MAX_FILES, Registry};

use crate::cdi::{folder, name};

const GOOD: &str = "cdiVersion: 0.8.0\nkind: good.com/c\ndevices:\n- name: x\n";

/// What is wrong with a JSON file of these parts.
fn problem(version: &str, kind: &str, edits: &str) -> String {
    let text = format!(
        r#"{{"cdiVersion": "{version}", "kind": "{kind}",
        "devices": [{{"name": "x", "containerEdits": {edits}}}]}}"#
    );
    told("bad.json", &text)
}

/// What is wrong with a file. A good one beside it must count.
fn told(file: &str, text: &str) -> String {
    let folder = folder(&[(file, text), ("good.yaml", GOOD)]);
    let registry = Registry::read(&[folder.path()]);
    registry
        .resolve(&[name("good.com/c=x")], &MachineNodes)
        .unwrap();
    assert_eq!(registry.devices().count(), 1, "{text}");
    let [problem] = registry.problems() else {
        panic!("{:?} of {text}", registry.problems());
    };
    let problem = problem.to_string();
    assert!(problem.contains(file), "{problem}");
    problem
}

#[test]
fn what_a_file_says_wrong_is_told_with_its_fix() {
    for (version, edits, part) in [
        ("0.2.0", "{}", "0.3.0 to 1.1.0"),
        ("2.0.0", "{}", "0.3.0 to 1.1.0"),
        ("", "{}", "not known"),
        (
            "0.8.0",
            r#"{"intelRdt": {}}"#,
            "`intelRdt` cannot be applied",
        ),
        (
            "1.1.0",
            r#"{"netDevices": []}"#,
            "`netDevices` cannot be applied",
        ),
        (
            "0.8.0",
            r#"{"privileged": true}"#,
            "unknown field `privileged`",
        ),
        ("0.8.0", r#"{"env": ["A=1"], "env": []}"#, "duplicate field"),
        ("0.8.0", r#"{"env": ["A"]}"#, "NAME=VALUE"),
        ("0.8.0", r#"{"env": ["=A"]}"#, "NAME=VALUE"),
        ("0.8.0", r#"{"env": ["A=\u0000"]}"#, "NAME=VALUE"),
        (
            "0.8.0",
            r#"{"deviceNodes": [{"path": "dev/x"}]}"#,
            "absolute",
        ),
        (
            "0.8.0",
            r#"{"deviceNodes": [{"path": "/dev/../etc/x"}]}"#,
            "without `..`",
        ),
        (
            "0.8.0",
            r#"{"deviceNodes": [{"path": "/dev/x", "hostPath": "x"}]}"#,
            "absolute",
        ),
        (
            "0.8.0",
            r#"{"deviceNodes": [{"path": "/dev/x", "type": "q"}]}"#,
            "kind of device",
        ),
        (
            "0.8.0",
            r#"{"deviceNodes": [{"path": "/dev/x", "permissions": "rwx"}]}"#,
            "r, w and m",
        ),
        (
            "0.8.0",
            r#"{"deviceNodes": [{"path": "/dev/x", "major": -1}]}"#,
            "u32",
        ),
        (
            "0.8.0",
            r#"{"mounts": [{"hostPath": "/a", "containerPath": "/"}]}"#,
            "absolute",
        ),
        (
            "0.8.0",
            r#"{"mounts": [{"hostPath": "/a/..", "containerPath": "/b"}]}"#,
            "without `..`",
        ),
        (
            "0.8.0",
            r#"{"mounts": [{"hostPath": "/a"}]}"#,
            "containerPath",
        ),
        (
            "0.8.0",
            r#"{"hooks": [{"hookName": "always", "path": "/x"}]}"#,
            "not a hook",
        ),
        (
            "0.8.0",
            r#"{"hooks": [{"hookName": "poststop", "path": "x"}]}"#,
            "absolute",
        ),
        (
            "0.8.0",
            r#"{"hooks": [{"hookName": "poststop", "path": "/x", "timeout": 0}]}"#,
            "at least 1",
        ),
        (
            "0.3.0",
            r#"{"mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "none"}]}"#,
            "of version 0.4.0",
        ),
        (
            "0.4.0",
            r#"{"deviceNodes": [{"path": "/a", "hostPath": "/b"}]}"#,
            "of version 0.5.0",
        ),
        ("0.6.0", r#"{"additionalGids": [1]}"#, "of version 0.7.0"),
    ] {
        let problem = problem(version, "v.com/c", edits);
        assert!(problem.contains(part), "{version} {edits}: {problem}");
    }
    for kind in ["c", "v.com/", "v.com/c/d", "../etc/c", "v.com/c.d"] {
        assert!(!problem("0.5.0", kind, "{}").is_empty(), "{kind}");
    }
}

#[test]
fn texts_that_are_no_description_are_told() {
    for (file, text, part) in [
        ("a.json", "", "EOF"),
        ("a.json", "{", "EOF"),
        ("a.json", "[]", "expected"),
        ("a.json", "{}", "cdiVersion"),
        ("a.yaml", "", "invalid type"),
        ("a.yaml", "\t- [", "line"),
        ("a.yaml", "a: 1\na: 2", "line 2: `a` stands here twice"),
        ("a.yaml", "a: &x [1]\nb: [*x, *x]", "anchors are not taken"),
        ("a.yaml", "a: *x", "anchor"),
        ("a.yaml", "a: !!binary aGk=", "tags are not taken"),
        ("a.yaml", "? [a]\n: b", "a key is a list"),
        ("a.yaml", "a: 1\n---\nb: 2", "second document"),
        ("a.yaml", "a: 0666", "in two ways"),
        ("a.yaml", "a: 99999999999999999999", "too large"),
        (
            "a.yaml",
            "cdiVersion: 0.8.0\nkind: v.com/c\ndevices: []",
            "no devices",
        ),
        (
            "a.yaml",
            "cdiVersion: 0.8.0\nkind: v.com/c\ndevices: [{name: x}, {name: x}]",
            "twice",
        ),
        (
            "a.yaml",
            "cdiVersion: 0.8.0\nkind: v.com/c\ndevices: [{name: x}, {name: ../x}]",
            "names no device",
        ),
        (
            "a.yaml",
            "cdiVersion: 0.8\nkind: v.com/c\ndevices: [{name: x}]",
            "`0.8` is not known",
        ),
    ] {
        let problem = told(file, text);
        assert!(problem.contains(part), "{text}: {problem}");
    }
    let deep = "[".repeat(100_000);
    assert!(told("deep.yaml", &deep).contains("line 1"));
    assert!(told("deep.yaml", &deep[..200]).contains("16 deep"));
    assert!(told("deep.yaml", &"- ".repeat(10_000)).contains("16 deep"));
    assert!(told("deep.json", &deep).contains("expected"));
    let rdt = format!(r#"{{"intelRdt": {deep}}}"#);
    assert!(problem("0.8.0", "v.com/c", &rdt).contains("recursion"));
    let long = " ".repeat(MAX_FILE as usize + 1);
    assert!(told("long.json", &long).contains("1 MiB"));
}

#[test]
fn what_is_no_file_or_everybodys_is_not_read() {
    let place = folder(&[
        ("good.yaml", GOOD),
        ("open.yaml", "x"),
        ("bytes.json", ""),
        ("notes.txt", "x"),
    ]);
    let at = |name: &str| place.path().join(name);
    fs::set_permissions(at("open.yaml"), Permissions::from_mode(0o646)).unwrap();
    fs::write(at("bytes.json"), [0xff, 0xfe]).unwrap();
    fs::create_dir(at("folder.yaml")).unwrap();
    symlink("/dev/zero", at("endless.yaml")).unwrap();
    symlink("nowhere", at("gone.yaml")).unwrap();
    symlink("loop.yaml", at("loop.yaml")).unwrap();
    let pipe = rustix::fs::Mode::from_raw_mode(0o600);
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe.yaml"), kind, pipe, 0).unwrap();
    let registry = Registry::read(&[place.path()]);
    registry
        .resolve(&[name("good.com/c=x")], &MachineNodes)
        .unwrap();
    let told: Vec<_> = registry
        .problems()
        .iter()
        .map(ToString::to_string)
        .collect();
    let expected = [
        ("bytes.json", "UTF-8"),
        ("endless.yaml", "not a file"),
        ("folder.yaml", "not a file"),
        ("gone.yaml", "failed to read"),
        ("loop.yaml", "failed to read"),
        ("open.yaml", "chmod o-w"),
        ("pipe.yaml", "not a file"),
    ];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (problem, (file, part)) in told.iter().zip(expected) {
        assert!(
            problem.contains(file) && problem.contains(part),
            "{problem}"
        );
    }
}

#[test]
fn hooks_are_only_those_of_the_machines_operator() {
    let hooks = r#"{"hooks": [{"hookName": "createContainer", "path": "/bin/true"}]}"#;
    let text = |name: &str, edits: &str| {
        format!(
            r#"{{"cdiVersion": "0.8.0", "kind": "{name}.com/c",
            "devices": [{{"name": "x", "containerEdits": {edits}}}]}}"#
        )
    };
    let place = folder(&[
        ("hooks.json", &text("hooks", hooks)),
        ("open.json", &text("open", hooks)),
        ("plain.json", &text("plain", "{}")),
    ]);
    for name in ["open.json", "plain.json"] {
        // The group of a folder may be another than root's.
        let path = place.path().join(name);
        std::os::unix::fs::chown(&path, None, Some(nobodys())).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o664)).unwrap();
    }
    let registry = Registry::read(&[place.path()]);
    let known = |kind: &str| registry.knows(&name(&format!("{kind}.com/c=x")));
    assert!(known("hooks") && known("plain") && !known("open"));
    let [problem] = registry.problems() else {
        panic!("{:?}", registry.problems());
    };
    let why = std::error::Error::source(problem).unwrap().to_string();
    assert!(why.contains("open.json: `chmod go-w` it"), "{why}");
}

/// A group that is not root's: without privileges, one's own.
fn nobodys() -> u32 {
    match rustix::process::getegid().as_raw() {
        0 => 65_534,
        own => own,
    }
}

#[test]
fn a_link_to_a_good_file_is_followed() {
    let (place, elsewhere) = (folder(&[]), folder(&[("good.yaml", GOOD)]));
    symlink(
        elsewhere.path().join("good.yaml"),
        place.path().join("linked.yaml"),
    )
    .unwrap();
    let registry = Registry::read(&[place.path()]);
    assert!(
        registry.knows(&name("good.com/c=x")),
        "{:?}",
        registry.problems()
    );
}

#[test]
fn a_folder_with_too_many_files_is_read_in_part_and_told() {
    let place = folder(&[]);
    for number in 0..=MAX_FILES {
        let text = format!("cdiVersion: 0.8.0\nkind: v.com/c\ndevices:\n- name: x{number}\n");
        fs::write(place.path().join(format!("{number:04}.yaml")), text).unwrap();
    }
    let registry = Registry::read(&[place.path()]);
    assert_eq!(registry.devices().count(), MAX_FILES);
    assert_eq!(registry.problems().len(), 1);
}
