//! From what drivers say to an inventory.
//!
//! Pure apart from the library itself. Whatever one device does, the others are found; nothing that
//! is said twice or has no usable name gets in.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::amd::detect_amd;
use crate::gpu::{FaultyGpu, Gpu, GpuVendor, Inventory, MigInstance};
use crate::nvidia::{DeviceReading, MigReading, NvidiaLibrary};
use crate::nvml::Nvml;

/// The most devices that are asked for: no machine has as many, and a library that says more is
/// broken.
pub const MAX_GPUS: u32 = 256;
/// The most bytes of an id. A UUID with its prefix has 40; instances of older drivers have 52.
const MAX_ID: usize = 96;

/// All of this machine's devices, those of NVIDIA first. Blocks as long as drivers do.
pub fn detect() -> Inventory {
    let mut found = match Nvml::open() {
        Ok(Some(library)) => detect_nvidia(&library),
        Ok(None) => Inventory::default(),
        Err(fault) => Inventory {
            faulty: vec![faulty(0, fault.to_string())],
            ..Inventory::default()
        },
    };
    let amd = detect_amd(Path::new("/sys"));
    found.gpus.extend(amd.gpus);
    found.faulty.extend(amd.faulty);
    found
}

/// All that NVIDIA's library knows of. A library that answers nothing is one fault.
pub fn detect_nvidia(library: &impl NvidiaLibrary) -> Inventory {
    let mut found = Inventory::default();
    let count = match library.device_count() {
        Ok(count) => count.min(MAX_GPUS),
        Err(fault) => {
            found.faulty.push(faulty(0, fault.to_string()));
            return found;
        }
    };
    match library.versions() {
        Ok(versions) => found.nvidia = Some(versions),
        Err(fault) => tracing::debug!(%fault, "the driver does not tell its release"),
    }
    let mut ids = BTreeSet::new();
    for index in 0..count {
        match library.device(index) {
            Ok(reading) => add(&mut found, &mut ids, index, &reading),
            Err(fault) => found.faulty.push(faulty(index, fault.to_string())),
        }
    }
    found
}

fn faulty(index: u32, why: String) -> FaultyGpu {
    FaultyGpu {
        vendor: GpuVendor::Nvidia,
        index,
        why,
    }
}

fn add(found: &mut Inventory, ids: &mut BTreeSet<String>, index: u32, reading: &DeviceReading) {
    let gpus = match &reading.instances {
        None => vec![whole(index, reading)],
        Some(instances) if instances.is_empty() => {
            let why = "it is to be cut into instances, and has none: make some with `nvidia-smi \
                       mig -cgi … -C`, or take MIG mode back with `nvidia-smi -mig 0`";
            found.faulty.push(faulty(index, why.into()));
            return;
        }
        Some(instances) => {
            let instances = instances.iter();
            instances
                .map(|instance| part(index, reading, instance))
                .collect()
        }
    };
    for gpu in gpus {
        if !is_id(&gpu.id) {
            let why = format!("its UUID `{}` is not one: update the driver", gpu.id);
            found.faulty.push(faulty(index, why));
        } else if !ids.insert(gpu.id.clone()) {
            let why = format!("another device has its UUID {} as well", gpu.id);
            found.faulty.push(faulty(index, why));
        } else {
            found.gpus.push(gpu);
        }
    }
}

fn whole(index: u32, reading: &DeviceReading) -> Gpu {
    Gpu {
        id: reading.uuid.clone(),
        vendor: GpuVendor::Nvidia,
        index,
        model: reading.model.clone(),
        memory: reading.memory,
        pci_bus_id: short_bus_id(&reading.pci_bus_id),
        compute_capability: reading.compute_capability,
        minor: reading.minor,
        nodes: vec![PathBuf::from(format!("/dev/nvidia{}", reading.minor))],
        mig: None,
    }
}

fn part(index: u32, reading: &DeviceReading, instance: &MigReading) -> Gpu {
    Gpu {
        id: instance.uuid.clone(),
        model: instance.model.clone(),
        memory: instance.memory,
        mig: Some(MigInstance {
            parent: reading.uuid.clone(),
            index: instance.index,
            gpu_instance: instance.gpu_instance,
            compute_instance: instance.compute_instance,
        }),
        ..whole(index, reading)
    }
}

/// Ids go into environment variables and lists with commas.
fn is_id(id: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/' | b'.' | b'_');
    !id.is_empty() && id.len() <= MAX_ID && id.bytes().all(fits)
}

/// As the kernel writes it: `00000000:3B:00.0` is `0000:3b:00.0`.
fn short_bus_id(bus_id: &str) -> String {
    let lower = bus_id.to_ascii_lowercase();
    match lower.split_once(':') {
        Some((domain, rest)) if domain.len() == 8 && domain.starts_with("0000") => {
            format!("{}:{rest}", &domain[4..])
        }
        _ => lower,
    }
}
