//! What keeps native tasks from the GPUs that they were not given.
//!
//! The tasks of an executor that runs native commands have their cgroup in one that is the agent's. Before
//! each launch this says, for that one, which devices all in it may not use: all GPUs but the task's own.
//! A container has a `/dev` of its own, and its executor sees to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_executor::cgroup::devices::{self, DeviceAccess, DeviceKind, DevicePolicy, DeviceRule};
use tepui_gpu::{DriverFiles, GpuError, NodeKind};
use tepui_types::task::reason;
use tepui_types::wire::executor::{ExecutorLaunch, LocalDevices, TaskUpdate, ToExecutor};
use tepui_types::{Reason, TaskState, Workload};

use super::Gpus;

/// Why it is not known what a task is to be kept from.
const NO_NODES: &str = "no device node of theirs is in /dev: load the driver, or restart the agent if they \
                        are gone for good";

/// The guard of an agent with GPUs.
#[derive(Debug)]
pub struct Guard {
    gpus: Arc<Gpus>,
}

impl Guard {
    /// None where there is no GPU, or, with a warning, where the machine keeps nobody from one.
    pub fn new(gpus: &Arc<Gpus>, has_cgroups: bool) -> Option<Self> {
        if gpus.inventory.gpus.is_empty() {
            return None;
        }
        let able = match has_cgroups {
            true => devices::available().map_err(|error| error.to_string()),
            false => Err("they run without cgroups".to_owned()),
        };
        match able {
            Ok(()) => Some(Self { gpus: gpus.clone() }),
            Err(why) => {
                tracing::warn!("native tasks can use GPUs that they were not given: {why}");
                None
            }
        }
    }

    /// Lets a message go to an executor whose tasks' cgroup lies in `outer`: before the launch of a native
    /// task, that cgroup is held to what the task has.
    ///
    /// # Errors
    /// The end of a task that could have GPUs of others: it must not be launched.
    pub async fn admit(
        self: &Arc<Self>,
        outer: &str,
        message: &mut ToExecutor,
    ) -> Result<(), TaskUpdate> {
        let ToExecutor::Launch(launch) = message else {
            return Ok(());
        };
        if !is_native(launch) {
            return Ok(());
        }
        let (this, outer) = (self.clone(), outer.to_owned());
        let own = launch.launch.resources.gpus.clone();
        let held = tokio::task::spawn_blocking(move || {
            let files = DriverFiles::read_nodes().map_err(chain)?;
            this.hold(&outer, &own, &files)
        });
        let held = held.await.unwrap_or_else(|error| Err(error.to_string()));
        let env = held.map_err(|why| refusal(launch, &why))?;
        // One with GPUs was told of them when it was prepared.
        launch.devices.get_or_insert_with(|| {
            Arc::new(LocalDevices {
                env,
                ..LocalDevices::default()
            })
        });
        Ok(())
    }

    /// Keeps all in that cgroup from all devices but these, which are as a task's resources have them;
    /// the answer is the variables that tell a task which it has. Blocks.
    ///
    /// # Errors
    /// Says why that cannot be done.
    pub fn hold(
        &self,
        cgroup: &str,
        own: &BTreeMap<String, u64>,
        files: &DriverFiles,
    ) -> Result<Vec<(String, String)>, String> {
        // What an operator has named by hand is no device.
        let mut own = own.clone();
        own.retain(|id, _| self.gpus.inventory.get(id).is_some());
        let edits = self.gpus.native(&own, files).map_err(chain)?;
        let has_all = own.len() == self.gpus.inventory.gpus.len();
        if edits.rules.is_empty() && !has_all {
            // Rules are of nodes, which may be made at any time.
            return Err(NO_NODES.into());
        }
        let policy = DevicePolicy {
            allow_others: true,
            rules: edits.rules.iter().filter_map(rule).collect(),
        };
        devices::restrict(cgroup, &policy).map_err(|error| error.to_string())?;
        Ok(edits.env)
    }
}

fn chain(error: GpuError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

fn is_native(launch: &ExecutorLaunch) -> bool {
    match &launch.launch.spec.workload {
        Workload::Command(command) => command.container.is_none(),
        Workload::Wasm(_) => false,
    }
}

fn refusal(launch: &ExecutorLaunch, why: &str) -> TaskUpdate {
    let message = format!("it cannot be kept from the GPUs of others: {why}");
    TaskUpdate {
        task: launch.launch.task.clone(),
        // The machine is to blame, and it may run elsewhere.
        state: TaskState::Dropped,
        reason: Some(Reason::new(reason::EXECUTOR_FAILED, message)),
        exit_code: None,
        usage: None,
        members: Vec::new(),
    }
}

/// None of what has no numbers.
fn rule(from: &tepui_gpu::DeviceRule) -> Option<DeviceRule> {
    let kind = match from.kind {
        NodeKind::Char => DeviceKind::Char,
        NodeKind::Block => DeviceKind::Block,
        NodeKind::Fifo => return None,
    };
    let parts = [
        (from.access.read, DeviceAccess::READ),
        (from.access.write, DeviceAccess::WRITE),
        (from.access.mknod, DeviceAccess::MKNOD),
    ];
    let parts = parts.into_iter().filter(|(is_set, _)| *is_set);
    let access = parts.map(|(_, access)| access).reduce(|a, b| a | b)?;
    Some(DeviceRule {
        allow: from.allow,
        kind,
        major: from.major,
        minor: Some(from.minor),
        access,
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tepui_gpu::{Gpu, GpuVendor, Inventory};
    use tepui_types::task::{CommandWorkload, TaskSpec};
    use tepui_types::wire::agent::TaskLaunch;
    use tepui_types::{Bytes, Container, OperationId, Resources, Role};

    use super::*;
    use crate::gpus::GpuConfig;

    fn guard() -> Arc<Guard> {
        let gpu = |index: u32| Gpu {
            id: format!("GPU-{index}"),
            vendor: GpuVendor::Nvidia,
            index,
            model: "NVIDIA".into(),
            memory: Bytes::gib(8),
            pci_bus_id: format!("0000:0{index}:00.0"),
            compute_capability: None,
            minor: index,
            nodes: vec![PathBuf::from(format!("/dev/nvidia{index}"))],
            mig: None,
        };
        let inventory = Inventory {
            gpus: vec![gpu(0), gpu(1)],
            ..Inventory::default()
        };
        let gpus = Arc::new(Gpus::of(inventory, GpuConfig::default()));
        Arc::new(Guard { gpus })
    }

    fn launch(container: Option<Container>) -> ToExecutor {
        let mut command = CommandWorkload::new(vec!["true".into()]);
        command.container = container.map(Box::new);
        let launch = TaskLaunch {
            operation: OperationId {
                index: 1,
                ordinal: 0,
            },
            task: "f1.t.0".parse().unwrap(),
            framework_name: "batch".into(),
            role: Role::default(),
            spec: Arc::new(TaskSpec::new(Workload::Command(command))),
            resources: Resources::default(),
            revocable: Resources::default(),
            volumes: Vec::new(),
            array_index: None,
            after: None,
        };
        ToExecutor::Launch(Box::new(ExecutorLaunch {
            launch,
            sandbox: "/tmp".into(),
            volumes: Vec::new(),
            program: None,
            stdin: None,
            cgroup: None,
            image: None,
            images: BTreeMap::new(),
            secrets: BTreeMap::new(),
            devices: None,
            network: None,
            users: None,
        }))
    }

    #[tokio::test]
    async fn a_task_that_cannot_be_kept_from_gpus_is_not_launched() {
        // No folder has such a name.
        let nowhere = "tepui-\0";
        let refused = guard().admit(nowhere, &mut launch(None)).await.unwrap_err();
        assert_eq!(refused.state, TaskState::Dropped);
        let why = refused.reason.unwrap().message;
        assert!(why.contains("cannot be kept from the GPUs"), "{why}");
        for mut other in [launch(Some(Container::default())), ToExecutor::Retire] {
            let before = other.clone();
            guard().admit(nowhere, &mut other).await.unwrap();
            assert_eq!(other, before);
        }
    }

    #[test]
    fn where_no_node_is_known_nothing_is_taken_for_harmless() {
        let files = DriverFiles::default();
        let why = guard().hold("tepui", &BTreeMap::new(), &files);
        assert_eq!(why, Err(NO_NODES.to_owned()));
    }

    #[test]
    fn without_gpus_or_cgroups_there_is_nothing_to_guard() {
        let none = Arc::new(Gpus::default());
        assert!(Guard::new(&none, true).is_none());
        assert!(Guard::new(&guard().gpus, false).is_none());
    }

    #[test]
    fn rules_of_devices_keep_what_they_say() {
        let denied = tepui_gpu::DeviceRule::deny(NodeKind::Char, 195, 3);
        let expected = DeviceRule {
            allow: false,
            kind: DeviceKind::Char,
            major: 195,
            minor: Some(3),
            access: DeviceAccess::ALL,
        };
        assert_eq!(rule(&denied), Some(expected));
        assert_eq!(
            rule(&tepui_gpu::DeviceRule::deny(NodeKind::Fifo, 0, 0)),
            None
        );
    }
}
