//! GPUs of this machine: found at the start, lent as resources, brought to the tasks that have them.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;

use serde::Deserialize;
use tepui_gpu::cdi::{self, Registry};
use tepui_gpu::{
    Assigner, ContainerEdits, DriverFiles, GpuError, Inventory, MachineNodes, NativeEdits, NodeKind,
};
use tepui_types::task::reason;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::executor::{DeviceMount, DeviceNode, LocalDevices};
use tepui_types::{Reason, Workload};

pub use guard::Guard;

mod guard;
mod hooks;

/// What an operator says of GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GpuConfig {
    /// Whether they are not looked for.
    pub ignore: bool,
    /// Folders with what vendors say of their devices (CDI); its own when absent.
    pub cdi_folders: Option<Vec<PathBuf>>,
    /// Where the pipes of NVIDIA's Multi-Process Service are, if it runs: tasks with a part of a device
    /// get at most that part of its processors.
    pub mps_pipes: Option<PathBuf>,
}

/// The GPUs, and what is known of them.
#[derive(Debug, Default)]
pub struct Gpus {
    inventory: Inventory,
    config: GpuConfig,
}

impl Gpus {
    /// Looks for them. Blocks; a machine without any is an ordinary one.
    pub fn find(config: GpuConfig) -> Self {
        let inventory = match config.ignore {
            true => Inventory::default(),
            false => tepui_gpu::detect(),
        };
        Self::of(inventory, config)
    }

    /// Those of that inventory.
    pub fn of(inventory: Inventory, config: GpuConfig) -> Self {
        for faulty in &inventory.faulty {
            tracing::warn!(?faulty, "a GPU is not lent");
        }
        Self { inventory, config }
    }

    /// What of them is lent: thousandths by each one's id.
    pub fn resources(&self) -> BTreeMap<String, u64> {
        self.inventory.resources()
    }

    /// What frameworks may choose by.
    pub fn attributes(&self) -> BTreeMap<String, String> {
        self.inventory.attributes()
    }

    /// What a task needs for those that it has. What an operator has named by hand is counted, and
    /// nothing is known of it.
    ///
    /// # Errors
    /// Where that cannot be given to it.
    pub fn devices(&self, launch: &TaskLaunch) -> Result<Option<LocalDevices>, Reason> {
        let gpus = &launch.resources.gpus;
        if gpus.is_empty() || self.inventory.gpus.is_empty() {
            return Ok(None);
        }
        let refused = |message: String| Reason::new(reason::CONTAINER_REFUSED, message);
        let failed =
            |error: GpuError| refused(format!("its GPU: {:#}", anyhow::Error::from(error)));
        let has_container = match &launch.spec.workload {
            Workload::Command(command) => command.container.is_some(),
            Workload::Wasm(_) => {
                let message = "WebAssembly programs have no devices: ask for no GPU";
                return Err(refused(message.into()));
            }
        };
        if !has_container {
            let files = DriverFiles::read_nodes().map_err(failed)?;
            let edits = self.native(gpus, &files);
            return Ok(Some(LocalDevices {
                env: edits.map_err(failed)?.env,
                ..LocalDevices::default()
            }));
        }
        let folders = self.config.cdi_folders.as_ref();
        let registry = match folders {
            Some(folders) => Registry::read(folders),
            None => Registry::read(&cdi::DEFAULT_FOLDERS),
        };
        for problem in registry.problems() {
            let why = problem
                .source()
                .map(ToString::to_string)
                .unwrap_or_default();
            tracing::warn!(why, "a description of devices (CDI) is not used: {problem}");
        }
        let files = DriverFiles::read().map_err(failed)?;
        let assigner = self.assigner(&files, &registry);
        let edits = assigner.container(gpus, &MachineNodes).map_err(failed)?;
        devices_of(edits).map(Some).map_err(refused)
    }

    /// What a native task with these needs, and from which others it is to be kept.
    fn native(
        &self,
        gpus: &BTreeMap<String, u64>,
        files: &DriverFiles,
    ) -> Result<NativeEdits, GpuError> {
        // It needs no vendor's word.
        self.assigner(files, &Registry::default()).native(gpus)
    }

    fn assigner<'a>(&'a self, files: &'a DriverFiles, registry: &'a Registry) -> Assigner<'a> {
        Assigner {
            inventory: &self.inventory,
            files,
            registry,
            mps_pipes: self.config.mps_pipes.as_deref(),
        }
    }
}

fn devices_of(edits: ContainerEdits) -> Result<LocalDevices, String> {
    let hooks = hooks::of(&edits)?;
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let mut env = edits.env;
    for (name, folder) in edits.search {
        env.push((name, text(&folder)));
    }
    Ok(LocalDevices {
        env,
        nodes: edits
            .devices
            .iter()
            .map(|node| DeviceNode {
                path: text(&node.path),
                host_path: text(&node.host_path),
                is_block: node.kind == NodeKind::Block,
                major: i64::from(node.major),
                minor: i64::from(node.minor),
            })
            .collect(),
        mounts: edits
            .mounts
            .iter()
            .map(|mount| DeviceMount {
                host_path: text(&mount.host_path),
                path: text(&mount.container_path),
            })
            .collect(),
        hooks,
    })
}
