//! The devices that a task was given, brought to it.
//!
//! A vendor's description counts where there is one, else what is built in. A task with a part of a
//! device shares it: it gets the same edits, and where the agent's operator runs NVIDIA's
//! Multi-Process Service (MPS), at most its part of the processors. Nothing bounds its memory there.
//! Pure functions of what was read of the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tepui_types::resources::MILLI;

use crate::builtin;
use crate::cdi::{DeviceName, Registry};
use crate::driver_files::DriverFiles;
use crate::edits::{ContainerEdits, EditMount};
use crate::error::GpuError;
use crate::gpu::{Gpu, GpuVendor, Inventory};
use crate::nodes::Nodes;
use crate::rules::DeviceRule;

/// What is known of the machine when a task starts.
#[derive(Debug, Clone, Copy)]
pub struct Assigner<'a> {
    /// Its devices.
    pub inventory: &'a Inventory,
    /// What drivers have put on it.
    pub files: &'a DriverFiles,
    /// What vendors say.
    pub registry: &'a Registry,
    /// Where the MPS daemon's pipes are (`CUDA_MPS_PIPE_DIRECTORY`), if one runs.
    pub mps_pipes: Option<&'a Path>,
}

/// What a native task needs: it sees the machine's files already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NativeEdits {
    /// Variables and their values.
    pub env: Vec<(String, String)>,
    /// What its cgroup denies: the devices that are not its own.
    pub rules: Vec<DeviceRule>,
}

/// A device and how much of it.
type Share<'a> = (&'a Gpu, u64);

impl Assigner<'_> {
    /// What a container needs for these devices, which are as a task's resources have them: each
    /// one's thousandths by its id.
    pub fn container(
        &self,
        gpus: &BTreeMap<String, u64>,
        nodes: &impl Nodes,
    ) -> Result<ContainerEdits, GpuError> {
        let shares = self.shares(gpus)?;
        let (mut edits, mut plain) = (ContainerEdits::default(), Vec::new());
        let mut described = Vec::new();
        for (gpu, _) in &shares {
            match self.description(gpu) {
                Some(name) => described.push((*gpu, name)),
                None => plain.push(*gpu),
            }
        }
        let names: Vec<_> = described.iter().map(|(_, name)| name.clone()).collect();
        edits.append(self.registry.resolve(&names, nodes)?);
        for (gpu, name) in &described {
            self.check(gpu, name, nodes)?;
        }
        edits.append(builtin::edits(self.files, &plain)?);
        if let Some(mps) = self.mps(&shares) {
            edits.share_ipc = true;
            edits.mounts.push(mps.mount);
            for (name, value) in mps.env {
                edits.set(name, value);
            }
        }
        Ok(edits)
    }

    /// What a native task needs for these devices; without any, what keeps it from all.
    pub fn native(&self, gpus: &BTreeMap<String, u64>) -> Result<NativeEdits, GpuError> {
        let shares = self.shares(gpus)?;
        let own: Vec<_> = shares.iter().map(|(gpu, _)| *gpu).collect();
        let mut env = builtin::visible(&own);
        if own.is_empty() && !self.inventory.gpus.is_empty() {
            // Libraries ask for devices that they cannot open, and fail where they could do without.
            env.push(("CUDA_VISIBLE_DEVICES", String::new()));
        }
        if let Some(mps) = self.mps(&shares) {
            env.extend(mps.env);
        }
        let mut kept = BTreeSet::new();
        for gpu in own {
            kept.extend(builtin::own_nodes(self.files, gpu)?);
        }
        let others = builtin::private_nodes(self.files, &self.inventory.gpus);
        let others = others.filter(|(path, _)| !kept.contains(*path));
        let rules = others.map(|(_, node)| DeviceRule::deny(node.kind, node.major, node.minor));
        Ok(NativeEdits {
            rules: rules.collect(),
            env: env
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        })
    }

    fn shares(&self, gpus: &BTreeMap<String, u64>) -> Result<Vec<Share<'_>>, GpuError> {
        let share = |(id, milli): (&String, &u64)| match self.inventory.get(id) {
            None => Err(GpuError::Unknown(id.clone())),
            Some(gpu) if (1..=MILLI).contains(milli) => Ok((gpu, *milli)),
            Some(_) => Err(GpuError::Amount {
                id: id.clone(),
                milli: *milli,
            }),
        };
        gpus.iter().map(share).collect()
    }

    /// What its vendor calls it: by its UUID, or by its number, `0` or `0:1`.
    fn description(&self, gpu: &Gpu) -> Option<DeviceName> {
        let (kind, number) = match (gpu.vendor, &gpu.mig) {
            (GpuVendor::Nvidia, None) => ("nvidia.com/gpu", gpu.index.to_string()),
            (GpuVendor::Nvidia, Some(mig)) => {
                ("nvidia.com/gpu", format!("{}:{}", gpu.index, mig.index))
            }
            (GpuVendor::Amd, _) => ("amd.com/gpu", gpu.index.to_string()),
        };
        let names = [gpu.id.as_str(), number.as_str()];
        let names = names.iter().flat_map(|name| DeviceName::new(kind, name));
        names.into_iter().find(|name| self.registry.knows(name))
    }

    /// Numbers change when devices come and go, and a description by number does not: it must lead
    /// to this device, and to no other.
    fn check(&self, gpu: &Gpu, name: &DeviceName, nodes: &impl Nodes) -> Result<(), GpuError> {
        let edits = self.registry.resolve(std::slice::from_ref(name), nodes)?;
        let described: BTreeSet<_> = edits.devices.iter().map(|node| &node.host_path).collect();
        let own = builtin::own_nodes(self.files, gpu)?;
        let is_other = |other: &Gpu| {
            let nodes = builtin::own_nodes(self.files, other);
            let nodes = nodes.unwrap_or_else(|_| other.nodes.clone());
            let mut foreign = nodes.iter().filter(|path| !own.contains(path));
            foreign.any(|path| described.contains(path))
        };
        let leads_here = match gpu.vendor {
            GpuVendor::Nvidia => own.iter().all(|path| described.contains(path)),
            // Some name the render node alone.
            GpuVendor::Amd => own.iter().any(|path| described.contains(path)),
        };
        if leads_here && !self.inventory.gpus.iter().any(is_other) {
            return Ok(());
        }
        Err(GpuError::Renumbered {
            name: name.to_string(),
            id: gpu.id.clone(),
        })
    }

    /// How MPS is reached, for a task with a part of one of NVIDIA's devices.
    fn mps(&self, shares: &[Share<'_>]) -> Option<Mps> {
        let nvidia = shares
            .iter()
            .filter(|(gpu, _)| gpu.vendor == GpuVendor::Nvidia);
        let least = nvidia.map(|(_, milli)| *milli).min()?;
        let pipes = self.mps_pipes.filter(|_| least < MILLI)?;
        let percentage = (least / 10).max(1);
        Some(Mps {
            mount: pipe_mount(pipes),
            env: [
                ("CUDA_MPS_PIPE_DIRECTORY", pipes.display().to_string()),
                ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", percentage.to_string()),
            ],
        })
    }
}

struct Mps {
    mount: EditMount,
    env: [(&'static str, String); 2],
}

/// Clients write into the daemon's pipes.
fn pipe_mount(pipes: &Path) -> EditMount {
    let options = ["rw", "nosuid", "nodev", "noexec", "rbind", "rprivate"];
    EditMount {
        host_path: PathBuf::from(pipes),
        container_path: PathBuf::from(pipes),
        kind: "bind".into(),
        options: options.map(str::to_owned).into(),
    }
}
