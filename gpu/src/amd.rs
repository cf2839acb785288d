//! AMD's GPUs, as the kernel shows them in sysfs.
//!
//! The compute driver (amdkfd) lists nodes, processors among them; those with SIMD units are GPUs.
//! Their memory and names stand with their render nodes. No library is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tepui_types::Bytes;

use crate::detect::MAX_GPUS;
use crate::driver_files::numbered;
use crate::gpu::{FaultyGpu, Gpu, GpuVendor, Inventory};

/// Where the compute driver lists its nodes.
const NODES: &str = "class/kfd/kfd/topology/nodes";
/// The most of a file in sysfs, which are a page at most.
const MAX_FILE: u64 = 4096;

/// All of AMD's devices below `sys`, which is `/sys`. None without the driver.
pub fn detect_amd(sys: &Path) -> Inventory {
    let (mut found, mut ids) = (Inventory::default(), BTreeSet::new());
    let mut index = 0;
    for folder in folders(&sys.join(NODES)) {
        let Some(properties) = gpu_properties(&folder) else {
            continue;
        };
        match gpu(sys, index, &properties) {
            Ok(mut gpu) => {
                // Parts of one device may have its number all.
                if !ids.insert(gpu.id.clone()) {
                    gpu.id = format!("{}-{}", by_place(&gpu.pci_bus_id), gpu.minor);
                    ids.insert(gpu.id.clone());
                }
                found.gpus.push(gpu);
            }
            Err(error) => found.faulty.push(FaultyGpu {
                vendor: GpuVendor::Amd,
                index,
                why: format!("what the driver says of it cannot be read ({error}): see `dmesg`"),
            }),
        }
        index += 1;
    }
    found
}

/// The numbered folders, in the order of their numbers.
fn folders(nodes: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(nodes).into_iter().flatten().flatten();
    let number = |entry: std::fs::DirEntry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((number, entry.path()))
    };
    let mut folders: Vec<_> = entries.filter_map(number).collect();
    folders.sort();
    // As many processors may stand before them.
    folders.truncate(2 * MAX_GPUS as usize);
    folders.into_iter().map(|(_, path)| path).collect()
}

/// What the node says of itself; none of a processor.
fn gpu_properties(folder: &Path) -> Option<BTreeMap<String, u64>> {
    let text = read(&folder.join("properties")).ok()?;
    let line = |line: &str| {
        let (name, value) = line.trim().split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    let properties: BTreeMap<_, _> = text.lines().filter_map(line).collect();
    let is_gpu = properties.get("simd_count").is_some_and(|count| *count > 0);
    is_gpu.then_some(properties)
}

fn gpu(sys: &Path, index: u32, properties: &BTreeMap<String, u64>) -> io::Result<Gpu> {
    let number = |name: &str| properties.get(name).copied().unwrap_or(0);
    let minor = u32::try_from(number("drm_render_minor")).map_err(io::Error::other)?;
    let device = sys.join(format!("class/drm/renderD{minor}/device"));
    let memory = read(&device.join("mem_info_vram_total"))?;
    let memory = memory.trim().parse().map_err(io::Error::other)?;
    // It is a link into the tree of the buses.
    let place = std::fs::canonicalize(&device)?;
    let pci_bus_id = place.file_name().and_then(|name| name.to_str());
    let pci_bus_id = pci_bus_id.unwrap_or_default().to_owned();
    let unique_id = number("unique_id");
    Ok(Gpu {
        // AMD's runtime knows it by the same name.
        id: match unique_id {
            0 => by_place(&pci_bus_id),
            unique_id => format!("GPU-{unique_id:016x}"),
        },
        vendor: GpuVendor::Amd,
        index,
        model: model(&device, number("device_id")),
        memory: Bytes(memory),
        pci_bus_id,
        compute_capability: None,
        minor,
        nodes: dri_nodes(&device),
        mig: None,
    })
}

fn by_place(pci_bus_id: &str) -> String {
    format!("amd-{pci_bus_id}")
}

/// Its name where its maker wrote one, else its number.
fn model(device: &Path, device_id: u64) -> String {
    let name = read(&device.join("product_name")).unwrap_or_default();
    match name.trim() {
        "" => format!("AMD GPU {device_id:#06x}"),
        name => name.to_owned(),
    }
}

fn dri_nodes(device: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(device.join("drm"));
    let names = entries.into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let mut nodes: Vec<_> = names
        .filter(|name| numbered(name, "renderD") || numbered(name, "card"))
        .map(|name| Path::new("/dev/dri").join(name))
        .collect();
    nodes.sort();
    nodes
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}
