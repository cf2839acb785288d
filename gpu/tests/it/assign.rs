//! Devices brought to containers and native tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tepui_gpu::cdi::Registry;
use tepui_gpu::{
    Access, Assigner, ContainerEdits, DriverFiles, EditMount, GpuError, Inventory, detect_nvidia,
    mig_minors,
};

use crate::cdi::{folder, nodes};
use crate::machines::{self, A100, H100, MIG};

/// What NVIDIA's driver has put on a machine with two devices.
fn files() -> DriverFiles {
    let libraries = ["libcuda.so.1", "libnvidia-ml.so.1"];
    let library = |name: &str| (name.to_owned(), Path::new("/usr/lib/nvidia").join(name));
    DriverFiles {
        nodes: nodes(&[
            ("/dev/nvidia0", 195, 0),
            ("/dev/nvidia1", 195, 1),
            ("/dev/nvidiactl", 195, 255),
            ("/dev/nvidia-uvm", 507, 0),
            ("/dev/nvidia-uvm-tools", 507, 1),
            ("/dev/nvidia-caps/nvidia-cap1", 510, 1),
            ("/dev/nvidia-caps/nvidia-cap21", 510, 21),
            ("/dev/nvidia-caps/nvidia-cap22", 510, 22),
            ("/dev/nvidia-caps/nvidia-cap30", 510, 30),
            ("/dev/nvidia-caps/nvidia-cap31", 510, 31),
            ("/dev/nvidia-caps/nvidia-cap84", 510, 84),
            ("/dev/nvidia-caps/nvidia-cap85", 510, 85),
            ("/dev/dri/card0", 226, 0),
        ]),
        libraries: libraries.iter().map(|name| library(name)).collect(),
        programs: vec!["/usr/bin/nvidia-smi".into()],
        mig_minors: mig_minors(
            "config 1\ngpu1/gi2/access 21\ngpu1/gi2/ci0/access 22\ngpu1/gi3/access 30\n\
             gpu1/gi3/ci0/access 31\ngpu1/gi9/access 84\ngpu1/gi9/ci0/access 85\n",
        ),
    }
}

/// A machine on which tasks start.
struct Machine {
    inventory: Inventory,
    files: DriverFiles,
    registry: Registry,
    mps_pipes: Option<PathBuf>,
}

impl Machine {
    fn new(recorded: &machines::Recorded) -> Self {
        Self {
            inventory: detect_nvidia(recorded),
            files: files(),
            registry: Registry::default(),
            mps_pipes: None,
        }
    }

    fn described(mut self, text: &str) -> Self {
        let folder = folder(&[("nvidia.yaml", text)]);
        self.registry = Registry::read(&[folder.path()]);
        assert!(
            self.registry.problems().is_empty(),
            "{:?}",
            self.registry.problems()
        );
        self
    }

    fn with_mps(mut self) -> Self {
        self.mps_pipes = Some("/tmp/nvidia-mps".into());
        self
    }

    fn assigner(&self) -> Assigner<'_> {
        Assigner {
            inventory: &self.inventory,
            files: &self.files,
            registry: &self.registry,
            mps_pipes: self.mps_pipes.as_deref(),
        }
    }

    fn container(&self, gpus: &[(&str, u64)]) -> Result<ContainerEdits, GpuError> {
        self.assigner().container(&amounts(gpus), &self.files.nodes)
    }

    fn native(&self, gpus: &[(&str, u64)]) -> (BTreeMap<String, String>, Vec<String>) {
        let edits = self.assigner().native(&amounts(gpus)).unwrap();
        assert!(edits.rules.iter().all(|rule| !rule.allow));
        let rules = edits.rules.iter().map(ToString::to_string).collect();
        (edits.env.into_iter().collect(), rules)
    }
}

fn amounts(gpus: &[(&str, u64)]) -> BTreeMap<String, u64> {
    gpus.iter()
        .map(|(id, milli)| ((*id).to_owned(), *milli))
        .collect()
}

fn paths(edits: &ContainerEdits) -> Vec<&str> {
    edits
        .devices
        .iter()
        .map(|node| node.path.to_str().unwrap())
        .collect()
}

fn env(edits: &ContainerEdits) -> BTreeMap<&str, &str> {
    edits
        .env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

#[test]
fn a_device_without_a_description_comes_with_its_driver() {
    let machine = Machine::new(&machines::h100());
    let edits = machine.container(&[(H100, 1000)]).unwrap();
    assert_eq!(
        paths(&edits),
        [
            "/dev/nvidiactl",
            "/dev/nvidia-uvm",
            "/dev/nvidia-uvm-tools",
            "/dev/nvidia0"
        ]
    );
    assert!(edits.devices.iter().all(|node| node.access == Access::USE));
    let rules: Vec<_> = edits
        .device_rules()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        rules,
        ["c 195:255 rw", "c 507:0 rw", "c 507:1 rw", "c 195:0 rw"]
    );
    assert_eq!(
        edits.mounts,
        [
            EditMount::read_only(
                "/usr/lib/nvidia/libcuda.so.1",
                "/usr/local/nvidia/lib64/libcuda.so.1"
            ),
            EditMount::read_only(
                "/usr/lib/nvidia/libnvidia-ml.so.1",
                "/usr/local/nvidia/lib64/libnvidia-ml.so.1"
            ),
            EditMount::read_only("/usr/bin/nvidia-smi", "/usr/bin/nvidia-smi"),
        ]
    );
    assert!(
        edits
            .mounts
            .iter()
            .all(|mount| mount.options.contains(&"ro".into()))
    );
    assert_eq!(
        env(&edits),
        BTreeMap::from([
            ("CUDA_VISIBLE_DEVICES", H100),
            ("NVIDIA_VISIBLE_DEVICES", H100)
        ])
    );
    assert!(!edits.share_ipc);
}

#[test]
fn a_containers_own_search_path_is_kept_behind_the_drivers() {
    let machine = Machine::new(&machines::h100());
    let edits = machine.container(&[(H100, 1000)]).unwrap();
    let mut plain = BTreeMap::new();
    edits.apply_env(&mut plain);
    assert_eq!(plain["LD_LIBRARY_PATH"], "/usr/local/nvidia/lib64");
    let mut own = BTreeMap::from([("LD_LIBRARY_PATH".into(), "/opt/lib".into())]);
    edits.apply_env(&mut own);
    assert_eq!(own["LD_LIBRARY_PATH"], "/usr/local/nvidia/lib64:/opt/lib");
}

#[test]
fn an_instance_comes_with_its_two_ways_in_and_no_others() {
    let machine = Machine::new(&machines::a100_mig());
    let edits = machine.container(&[(MIG[1], 1000)]).unwrap();
    assert_eq!(
        paths(&edits)[3..],
        [
            "/dev/nvidia1",
            "/dev/nvidia-caps/nvidia-cap30",
            "/dev/nvidia-caps/nvidia-cap31"
        ]
    );
    assert_eq!(env(&edits)["CUDA_VISIBLE_DEVICES"], MIG[1]);
    let two = machine
        .container(&[(MIG[0], 1000), (MIG[1], 1000)])
        .unwrap();
    let once: BTreeSet<_> = paths(&two).into_iter().collect();
    assert_eq!(
        once.len(),
        two.devices.len(),
        "the node of both is there once"
    );
    assert_eq!(two.devices.len(), 8);
}

#[test]
fn a_native_task_is_kept_from_what_is_not_its_own() {
    let machine = Machine::new(&machines::a100_mig());
    let (env, rules) = machine.native(&[(MIG[2], 1000)]);
    assert_eq!(env["CUDA_VISIBLE_DEVICES"], MIG[2]);
    let all = |minors: &[u32]| {
        minors
            .iter()
            .map(|minor| format!("c 510:{minor} rwm"))
            .collect::<Vec<_>>()
    };
    let mut denied = all(&[1, 21, 22, 30, 31]);
    denied.push("c 195:0 rwm".into());
    assert_eq!(
        rules, denied,
        "neither the other device nor the other instances"
    );
    let (env, rules) = machine.native(&[]);
    assert_eq!(
        env,
        BTreeMap::from([("CUDA_VISIBLE_DEVICES".into(), String::new())])
    );
    assert_eq!(
        rules.len(),
        9,
        "two devices, seven ways in; a screen's card is nobody's: {rules:?}"
    );
    let mut bare = Machine::new(&machines::empty());
    bare.files = DriverFiles::default();
    assert_eq!(
        bare.native(&[]),
        Default::default(),
        "without a driver nothing changes"
    );
}

#[test]
fn a_part_of_a_device_is_a_part_of_its_processors_where_mps_runs() {
    let machine = Machine::new(&machines::h100()).with_mps();
    let edits = machine.container(&[(H100, 250)]).unwrap();
    assert_eq!(env(&edits)["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"], "25");
    assert_eq!(env(&edits)["CUDA_MPS_PIPE_DIRECTORY"], "/tmp/nvidia-mps");
    let pipes = edits.mounts.last().unwrap();
    assert_eq!(pipes.container_path, Path::new("/tmp/nvidia-mps"));
    assert!(pipes.options.contains(&"rw".into()) && edits.share_ipc);
    let (native, _) = machine.native(&[(H100, 3)]);
    assert_eq!(
        native["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"], "1",
        "none would be nothing"
    );
    let whole = machine.container(&[(H100, 1000)]).unwrap();
    assert!(!whole.share_ipc && env(&whole).len() == 2);
    let without = Machine::new(&machines::h100());
    assert_eq!(
        without.container(&[(H100, 250)]).unwrap(),
        without.container(&[(H100, 1000)]).unwrap()
    );
}

/// A description by number, and by UUID where one is given.
fn description(numbers: &[(&str, &str)]) -> String {
    let device = |(name, path): &(&str, &str)| {
        format!("- name: \"{name}\"\n  containerEdits:\n    deviceNodes:\n    - path: {path}\n")
    };
    let devices: String = numbers.iter().map(device).collect();
    format!(
        "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n{devices}\
         containerEdits:\n  env: [NVIDIA_VISIBLE_DEVICES=void]\n"
    )
}

#[test]
fn a_vendors_description_counts_before_what_is_built_in() {
    let by_number =
        Machine::new(&machines::h100()).described(&description(&[("0", "/dev/nvidia0")]));
    let edits = by_number.with_mps().container(&[(H100, 500)]).unwrap();
    assert_eq!(paths(&edits), ["/dev/nvidia0"]);
    assert_eq!(edits.mounts.len(), 1, "MPS alone");
    assert_eq!(env(&edits)["NVIDIA_VISIBLE_DEVICES"], "void");
    assert_eq!(env(&edits)["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"], "50");
    let both = description(&[("0", "/dev/nvidia7"), (H100, "/dev/nvidia0")]);
    let edits = Machine::new(&machines::h100())
        .described(&both)
        .container(&[(H100, 1000)]);
    assert_eq!(
        paths(&edits.unwrap()),
        ["/dev/nvidia0"],
        "a UUID is surer than a number"
    );
}

#[test]
fn a_description_of_another_device_is_refused() {
    // The driver counts the cut device as 0, and its node is nvidia1.
    let machine = Machine::new(&machines::a100_mig());
    let right = machine.described(&description(&[("1", "/dev/nvidia0")]));
    assert_eq!(
        paths(&right.container(&[(A100[1], 1000)]).unwrap()),
        ["/dev/nvidia0"]
    );
    for stale in ["/dev/nvidia1", "/dev/nvidia-uvm"] {
        let stale = Machine::new(&machines::a100_mig()).described(&description(&[("1", stale)]));
        let error = stale.container(&[(A100[1], 1000)]).unwrap_err();
        assert!(matches!(error, GpuError::Renumbered { .. }), "{error}");
        assert!(
            error.to_string().contains("nvidia-ctk cdi generate"),
            "{error}"
        );
    }
    let whole = description(&[("0:0", "/dev/nvidia1")]);
    let whole = Machine::new(&machines::a100_mig()).described(&whole);
    let error = whole.container(&[(MIG[0], 1000)]).unwrap_err();
    assert!(
        matches!(error, GpuError::Renumbered { .. }),
        "it has no ways in: {error}"
    );
}

#[test]
fn what_is_missing_is_told_with_its_fix() {
    let told = |change: fn(&mut Machine), id: &str, milli: u64| {
        let mut machine = Machine::new(&machines::a100_mig());
        change(&mut machine);
        machine.container(&[(id, milli)]).unwrap_err().to_string()
    };
    let none = |_: &mut Machine| {};
    assert!(told(none, "GPU-gone", 1000).contains("restart the agent"));
    assert!(
        told(none, A100[0], 1000).contains("not on this machine"),
        "it is cut"
    );
    assert!(told(none, A100[1], 0).contains("ask for 1 to 1000"));
    assert!(told(none, A100[1], 1001).contains("ask for 1 to 1000"));
    let no_uvm = |machine: &mut Machine| {
        machine.files.nodes.remove(Path::new("/dev/nvidia-uvm"));
    };
    assert!(told(no_uvm, A100[1], 1000).contains("nvidia-modprobe -u -c 0"));
    let no_library = |machine: &mut Machine| machine.files.libraries.clear();
    assert!(told(no_library, A100[1], 1000).contains("ldconfig -p"));
    let no_way = |machine: &mut Machine| machine.files.mig_minors.clear();
    assert!(told(no_way, MIG[0], 1000).contains("no way into instance"));
    let stale = description(&[("1", "/dev/nvidia9")]);
    let machine = Machine::new(&machines::a100_mig()).described(&stale);
    let error = machine.container(&[(A100[1], 1000)]).unwrap_err();
    assert!(
        error.source().unwrap().to_string().contains("/dev/nvidia9"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn a_task_opens_its_own_devices_and_never_anothers(picked in proptest::collection::btree_map(0..4_usize, 1..=1000_u64, 0..4)) {
        let machine = Machine::new(&machines::a100_mig());
        let gpus: Vec<_> = picked.iter().map(|(n, milli)| (machine.inventory.gpus[*n].id.as_str(), *milli)).collect();
        let edits = machine.container(&gpus).unwrap();
        let native = machine.assigner().native(&amounts(&gpus)).unwrap();
        let opened: BTreeSet<_> = edits.devices.iter().map(|node| (node.major, node.minor)).collect();
        let denied: BTreeSet<_> = native.rules.iter().map(|rule| (rule.major, rule.minor)).collect();
        prop_assert!(opened.is_disjoint(&denied), "{opened:?} {denied:?}");
        // Together they are all nodes of all devices; what is left is everybody's, or the screen's.
        let common = [(195, 255), (507, 0), (507, 1), (226, 0)];
        for node in machine.files.nodes.values() {
            let numbers = (node.major, node.minor);
            prop_assert!(common.contains(&numbers) || opened.contains(&numbers) != denied.contains(&numbers));
        }
        for node in &edits.devices {
            prop_assert_eq!(machine.files.nodes.get(&node.host_path).map(|node| node.minor), Some(node.minor));
        }
        let known: BTreeSet<_> = machine.files.libraries.values().chain(&machine.files.programs).collect();
        for mount in &edits.mounts {
            prop_assert!(known.contains(&mount.host_path), "{mount:?}");
        }
    }
}
