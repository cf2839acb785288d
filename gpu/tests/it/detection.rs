//! What is found, and what an agent lends of it.

use std::collections::BTreeMap;
use std::path::Path;

use tepui_gpu::{DriverFiles, NvidiaFault, Nvml, detect, detect_nvidia};
use tepui_types::{Bytes, Resources};

use crate::machines::{self, A100, H100, MIG};

#[test]
fn a_whole_device_is_lent_by_its_uuid() {
    let found = detect_nvidia(&machines::h100());
    assert_eq!(found.faulty, []);
    let gpu = found.get(H100).unwrap();
    assert_eq!(gpu.pci_bus_id, "0000:1b:00.0");
    assert_eq!(gpu.nodes, [Path::new("/dev/nvidia0")]);
    assert_eq!(gpu.memory, Bytes::mib(81_559));
    assert_eq!(found.resources(), BTreeMap::from([(H100.into(), 1000)]));
    let attributes: Vec<_> = found.attributes().into_iter().collect();
    let told = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        attributes,
        [
            told("gpu_compute", "9.0"),
            told("gpu_cuda", "12.4"),
            told("gpu_driver", "550.90.07"),
            told("gpu_memory_mib", "81559"),
            told("gpu_model", "NVIDIA H100 80GB HBM3"),
        ]
    );
    let lent = Resources {
        gpus: found.resources(),
        ..Resources::default()
    };
    assert_eq!(lent.validate(), Ok(()));
}

#[test]
fn instances_are_devices_of_their_own_and_their_whole_is_none() {
    let found = detect_nvidia(&machines::a100_mig());
    let ids: Vec<_> = found.gpus.iter().map(|gpu| gpu.id.as_str()).collect();
    assert_eq!(ids, [MIG[0], MIG[1], MIG[2], A100[1]]);
    let last = found.get(MIG[2]).unwrap();
    let mig = last.mig.as_ref().unwrap();
    assert_eq!(
        (mig.index, mig.gpu_instance, mig.parent.as_str()),
        (4, 9, A100[0])
    );
    assert_eq!((last.index, last.minor), (0, 1));
    assert_eq!(found.resources().len(), 4);
    let attributes = found.attributes();
    assert_eq!(attributes["gpu_memory_mib"], "4864", "the least is told");
    assert_eq!(
        attributes["gpu_model"],
        "NVIDIA A100-SXM4-40GB|NVIDIA A100-SXM4-40GB MIG 1g.5gb|NVIDIA A100-SXM4-40GB MIG \
         2g.10gb|NVIDIA A100-SXM4-40GB MIG 3g.20gb"
    );
}

#[test]
fn a_lost_device_is_told_and_the_others_are_lent() {
    let found = detect_nvidia(&machines::one_lost());
    assert_eq!(found.resources(), BTreeMap::from([(H100.into(), 1000)]));
    let told: Vec<_> = found.faulty.iter().map(ToString::to_string).collect();
    assert!(told[0].contains("gpu 0: it fell off the bus"), "{told:?}");
    assert!(told[1].contains("gpu 1: it needs a reset"), "{told:?}");
}

#[test]
fn no_device_is_nothing_to_lend() {
    let found = detect_nvidia(&machines::empty());
    assert!(found.resources().is_empty() && found.attributes().is_empty());
    assert!(found.faulty.is_empty());
}

#[test]
fn a_library_that_answers_nothing_is_one_fault() {
    let mut broken = machines::h100();
    broken.devices = Err(NvidiaFault::VersionMismatch);
    let found = detect_nvidia(&broken);
    assert!(found.gpus.is_empty() && found.nvidia.is_none());
    assert!(found.faulty[0].why.contains("restart the machine"));
}

#[test]
fn a_device_without_a_name_of_its_own_is_not_lent() {
    let mut odd = machines::a100_mig();
    let devices = odd.devices.as_mut().unwrap();
    devices[0].as_mut().unwrap().instances = Some(Vec::new());
    let mut twin = devices[1].clone();
    twin.as_mut().unwrap().minor = 3;
    let mut comma = devices[1].clone();
    comma.as_mut().unwrap().uuid = "GPU-1,GPU-2".into();
    devices.extend([twin, comma]);
    let found = detect_nvidia(&odd);
    assert_eq!(found.resources(), BTreeMap::from([(A100[1].into(), 1000)]));
    let told: Vec<_> = found.faulty.iter().map(ToString::to_string).collect();
    assert!(told[0].contains("nvidia-smi mig -cgi"), "{told:?}");
    assert!(told[1].contains("another device"), "{told:?}");
    assert!(told[2].contains("is not one"), "{told:?}");
}

#[test]
fn many_models_make_no_longer_attribute_than_can_be_asked_for() {
    let mut many = machines::h100();
    let devices = many.devices.as_mut().unwrap();
    for n in 0..40 {
        let mut next = devices[0].clone();
        let reading = next.as_mut().unwrap();
        reading.uuid = format!("GPU-{n}");
        reading.model = format!("Größe {n}");
        devices.push(next);
    }
    let found = detect_nvidia(&many);
    assert_eq!(found.gpus.len(), 41);
    let model = &found.attributes()["gpu_model"];
    assert!((250..=256).contains(&model.len()), "{}", model.len());
}

#[test]
fn a_machine_without_a_driver_is_an_ordinary_one() {
    let opened = Nvml::open();
    if Path::new("/dev/nvidiactl").exists() {
        let nvml = opened.unwrap().expect("a driver's nodes want its library");
        let found = detect_nvidia(&nvml);
        assert!(found.gpus.len() + found.faulty.len() > 0);
    } else {
        assert!(matches!(opened, Ok(None)), "{:?}", opened.err());
        let found = detect();
        assert!(
            found.nvidia.is_none() && found.faulty.is_empty(),
            "{found:?}"
        );
        assert!(DriverFiles::read().unwrap().libraries.is_empty());
    }
}
