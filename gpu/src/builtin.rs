//! What containers need for devices that no vendor's file describes.
//!
//! Pure functions of a machine's [`DriverFiles`]. NVIDIA's: the nodes, the driver's libraries in a
//! folder of their own, and who is visible, by UUID. AMD's: the nodes, for images bring the rest.
//! Enough for computing and video; graphics want the vendor's file.

use std::path::{Path, PathBuf};

use crate::driver_files::{DriverFiles, numbered};
use crate::edits::{Access, ContainerEdits, DeviceNode, EditMount};
use crate::error::GpuError;
use crate::gpu::{Gpu, GpuVendor};
use crate::libraries::CUDA;
use crate::nodes::Node;

/// Where images that are made for GPUs look already.
const LIBRARY_FOLDER: &str = "/usr/local/nvidia/lib64";
/// What every process with one of NVIDIA's devices opens.
const NVIDIA_COMMON: [&str; 2] = ["/dev/nvidiactl", "/dev/nvidia-uvm"];
/// What profilers open.
const NVIDIA_TOOLS: &str = "/dev/nvidia-uvm-tools";
/// What every process with one of AMD's devices opens.
const AMD_COMMON: &str = "/dev/kfd";
/// Containers are guarded by their cgroup; in there any user may open the node.
const NODE_MODE: u32 = 0o666;

/// Edits for these devices.
pub fn edits(files: &DriverFiles, gpus: &[&Gpu]) -> Result<ContainerEdits, GpuError> {
    let mut edits = ContainerEdits::default();
    let of = |vendor| gpus.iter().filter(move |gpu| gpu.vendor == vendor);
    if of(GpuVendor::Nvidia).next().is_some() {
        nvidia(files, &mut edits)?;
    }
    if of(GpuVendor::Amd).next().is_some() {
        edits.devices.push(device(files, AMD_COMMON.into())?);
    }
    for gpu in gpus {
        for path in own_nodes(files, gpu)? {
            let node = device(files, path)?;
            // Instances share their whole device's node.
            if !edits.devices.contains(&node) {
                edits.devices.push(node);
            }
        }
    }
    for (name, value) in visible(gpus) {
        edits.set(name, value);
    }
    Ok(edits)
}

/// What all of NVIDIA's devices need.
fn nvidia(files: &DriverFiles, edits: &mut ContainerEdits) -> Result<(), GpuError> {
    for path in NVIDIA_COMMON {
        edits.devices.push(device(files, path.into())?);
    }
    if files.nodes.contains_key(Path::new(NVIDIA_TOOLS)) {
        edits.devices.push(device(files, NVIDIA_TOOLS.into())?);
    }
    if !files.libraries.contains_key(CUDA) {
        return Err(GpuError::MissingLibrary(CUDA));
    }
    for (name, path) in &files.libraries {
        let place = Path::new(LIBRARY_FOLDER).join(name);
        edits.mounts.push(EditMount::read_only(path, place));
    }
    for path in &files.programs {
        edits.mounts.push(EditMount::read_only(path, path));
    }
    edits
        .search
        .push(("LD_LIBRARY_PATH".into(), LIBRARY_FOLDER.into()));
    Ok(())
}

/// Which devices programs see, by UUID: numbers change, and are counted anew in a container.
pub fn visible(gpus: &[&Gpu]) -> Vec<(&'static str, String)> {
    let of = |vendor| {
        let ids = gpus.iter().filter(|gpu| gpu.vendor == vendor);
        ids.map(|gpu| gpu.id.as_str()).collect::<Vec<_>>()
    };
    let (nvidia, amd) = (of(GpuVendor::Nvidia), of(GpuVendor::Amd));
    let mut env = Vec::new();
    if !nvidia.is_empty() {
        env.push(("NVIDIA_VISIBLE_DEVICES", nvidia.join(",")));
        env.push(("CUDA_VISIBLE_DEVICES", nvidia.join(",")));
    }
    // Devices without a number of their own are not known to AMD's runtime by it.
    if !amd.is_empty() && amd.iter().all(|id| id.starts_with("GPU-")) {
        env.push(("ROCR_VISIBLE_DEVICES", amd.join(",")));
    }
    env
}

/// The nodes that lead to this device: its own, and an instance's two ways in.
pub fn own_nodes(files: &DriverFiles, gpu: &Gpu) -> Result<Vec<PathBuf>, GpuError> {
    let mut nodes = gpu.nodes.clone();
    if let Some(mig) = &gpu.mig {
        let (gpu_minor, gi, ci) = (gpu.minor, mig.gpu_instance, mig.compute_instance);
        let gpu_instance = format!("gpu{gpu_minor}/gi{gi}/access");
        let compute_instance = format!("gpu{gpu_minor}/gi{gi}/ci{ci}/access");
        for way in [gpu_instance, compute_instance] {
            let minor = files.mig_minors.get(&way);
            let minor = minor.ok_or_else(|| GpuError::MissingInstance(gpu.id.clone()))?;
            nodes.push(PathBuf::from(format!("/dev/nvidia-caps/nvidia-cap{minor}")));
        }
    }
    Ok(nodes)
}

/// The nodes that lead to one device alone, each with what it leads to. Below `/dev/dri` there are
/// others' as well, such as a screen's: only those of `gpus` count.
pub fn private_nodes<'a>(
    files: &'a DriverFiles,
    gpus: &'a [Gpu],
) -> impl Iterator<Item = (&'a Path, Node)> {
    let is_private = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| numbered(name, "nvidia") || numbered(name, "nvidia-cap"))
            || gpus.iter().any(|gpu| gpu.nodes.contains(path))
    };
    let nodes = files.nodes.iter();
    nodes
        .filter(move |(path, _)| is_private(path))
        .map(|(path, node)| (path.as_path(), *node))
}

fn device(files: &DriverFiles, path: PathBuf) -> Result<DeviceNode, GpuError> {
    let Some(node) = files.nodes.get(&path) else {
        return Err(GpuError::MissingNode(path));
    };
    Ok(DeviceNode {
        host_path: path.clone(),
        path,
        kind: node.kind,
        major: node.major,
        minor: node.minor,
        file_mode: Some(NODE_MODE),
        uid: None,
        gid: None,
        access: Access::USE,
    })
}
