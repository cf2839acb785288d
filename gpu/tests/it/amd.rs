//! AMD's devices, in a tree like sysfs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tepui_gpu::cdi::Registry;
use tepui_gpu::{Assigner, DriverFiles, Inventory, detect_amd};
use tepui_types::Bytes;

use crate::cdi::nodes;

/// A processor, two devices with a number of their own, one without, one that is broken.
fn tree() -> tempfile::TempDir {
    let sys = tempfile::tempdir().unwrap();
    let at = |path: String| sys.path().join(path);
    let write = |path: String, text: &str| {
        let path = at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let node = |n: u32, properties: &str| {
        write(
            format!("class/kfd/kfd/topology/nodes/{n}/properties"),
            properties,
        );
    };
    let device = |place: &str, minor: u32, name: &str| {
        let folder = format!("devices/pci0000:00/{place}");
        write(format!("{folder}/mem_info_vram_total"), "68702699520\n");
        write(format!("{folder}/product_name"), name);
        for node in [
            format!("card{}", minor - 127),
            format!("renderD{minor}"),
            "controlD64".into(),
        ] {
            fs::create_dir_all(at(format!("{folder}/drm/{node}"))).unwrap();
        }
        let class = at(format!("class/drm/renderD{minor}"));
        fs::create_dir_all(&class).unwrap();
        symlink(at(folder), class.join("device")).unwrap();
    };
    node(0, "cpu_cores_count 64\nsimd_count 0\ndrm_render_minor 0\n");
    let gpu = |minor: u32, unique: u64| {
        format!(
            "cpu_cores_count 0\nsimd_count 440\ndevice_id 29711\nunique_id {unique}\ndrm_render_minor {minor}\n"
        )
    };
    node(10, &gpu(130, 0));
    node(2, &gpu(129, 0x81ff_4a3b_5aa5_e2c2));
    node(1, &gpu(128, 0x01ff_4a3b_5aa5_e2c2));
    node(11, &gpu(131, 7));
    device("0000:03:00.0", 128, "AMD INSTINCT MI250 (MCM) OAM AC MBA\n");
    device("0000:26:00.0", 129, "AMD INSTINCT MI250 (MCM) OAM AC MBA\n");
    device("0000:43:00.0", 130, "\n");
    sys
}

fn found() -> Inventory {
    detect_amd(tree().path())
}

#[test]
fn devices_are_found_in_the_order_of_the_driver() {
    let found = found();
    let ids: Vec<_> = found.gpus.iter().map(|gpu| gpu.id.as_str()).collect();
    assert_eq!(
        ids,
        [
            "GPU-01ff4a3b5aa5e2c2",
            "GPU-81ff4a3b5aa5e2c2",
            "amd-0000:43:00.0"
        ]
    );
    let first = &found.gpus[0];
    assert_eq!(first.model, "AMD INSTINCT MI250 (MCM) OAM AC MBA");
    assert_eq!(first.memory, Bytes(68_702_699_520));
    assert_eq!(first.pci_bus_id, "0000:03:00.0");
    assert_eq!(
        first.nodes,
        [
            Path::new("/dev/dri/card1"),
            Path::new("/dev/dri/renderD128")
        ]
    );
    assert_eq!(found.gpus[2].model, "AMD GPU 0x740f");
    assert_eq!(found.resources().len(), 3);
    assert_eq!(found.attributes()["gpu_memory_mib"], "65520");
    assert!(!found.attributes().contains_key("gpu_driver"));
    let told = found.faulty[0].to_string();
    assert!(
        found.faulty.len() == 1 && told.contains("AMD gpu 3") && told.contains("dmesg"),
        "{told}"
    );
}

#[test]
fn parts_of_one_device_are_told_apart() {
    let sys = tree();
    for n in [2, 10] {
        let path = sys
            .path()
            .join(format!("class/kfd/kfd/topology/nodes/{n}/properties"));
        let text = fs::read_to_string(&path).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("unique_id"))
            .unwrap();
        fs::write(&path, text.replace(line, "unique_id 144044818026750658")).unwrap();
    }
    let found = detect_amd(sys.path());
    assert_eq!(found.gpus.len(), 3);
    assert_eq!(found.resources().len(), 3, "each has a name of its own");
}

#[test]
fn a_machine_without_the_driver_has_none() {
    let sys = tempfile::tempdir().unwrap();
    assert_eq!(detect_amd(sys.path()), Inventory::default());
}

#[test]
fn a_device_comes_with_its_nodes() {
    let inventory = found();
    let files = DriverFiles {
        nodes: nodes(&[
            ("/dev/kfd", 235, 0),
            ("/dev/dri/card0", 226, 0),
            ("/dev/dri/card1", 226, 1),
            ("/dev/dri/card2", 226, 2),
            ("/dev/dri/renderD128", 226, 128),
            ("/dev/dri/renderD129", 226, 129),
        ]),
        ..DriverFiles::default()
    };
    let assigner = Assigner {
        inventory: &inventory,
        files: &files,
        registry: &Registry::default(),
        mps_pipes: None,
    };
    let id = inventory.gpus[1].id.clone();
    let gpus = [(id.clone(), 1000)].into();
    let edits = assigner.container(&gpus, &files.nodes).unwrap();
    let rules: Vec<_> = edits
        .device_rules()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(rules, ["c 235:0 rw", "c 226:2 rw", "c 226:129 rw"]);
    assert_eq!(edits.env, [("ROCR_VISIBLE_DEVICES".into(), id)]);
    assert!(edits.mounts.is_empty());
    let native = assigner.native(&gpus).unwrap();
    let denied: Vec<_> = native.rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        denied,
        ["c 226:1 rwm", "c 226:128 rwm"],
        "card0 is a screen's"
    );
}
