//! What an agent lends of its GPUs, and by which attributes it can be chosen.
//!
//! Attributes promise the least: with devices of different kinds, the smallest memory and the
//! lowest compute capability are told.

use std::collections::{BTreeMap, BTreeSet};

use tepui_types::constraint::Constraints;
use tepui_types::resources::MILLI;

use crate::gpu::Inventory;

impl Inventory {
    /// `gpus` of the agent's resources: each device's thousandths by its id.
    pub fn resources(&self) -> BTreeMap<String, u64> {
        let ids = self.gpus.iter().map(|gpu| gpu.id.clone());
        ids.map(|id| (id, MILLI)).collect()
    }

    /// `gpu_model` (several are separated by `|`), `gpu_memory_mib`, `gpu_compute`, `gpu_driver`
    /// and `gpu_cuda`, as far as they are known; none without a device.
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let mut attributes = BTreeMap::new();
        if self.gpus.is_empty() {
            return attributes;
        }
        let mut set = |name: &str, value: Option<String>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                attributes.insert(name.to_owned(), cut(value));
            }
        };
        let models: BTreeSet<_> = self.gpus.iter().map(|gpu| gpu.model.as_str()).collect();
        let models: Vec<_> = models.into_iter().collect();
        set("gpu_model", Some(models.join("|")));
        let memory = self.gpus.iter().map(|gpu| gpu.memory.0 >> 20).min();
        set("gpu_memory_mib", memory.map(|mib| mib.to_string()));
        let all: Option<Vec<_>> = self.gpus.iter().map(|gpu| gpu.compute_capability).collect();
        let least = all.and_then(|all| all.into_iter().min());
        set("gpu_compute", least.map(|least| least.to_string()));
        let versions = self.nvidia.as_ref();
        set("gpu_driver", versions.map(|v| v.driver.clone()));
        let cuda = versions.and_then(|versions| versions.cuda);
        set(
            "gpu_cuda",
            cuda.map(|(major, minor)| format!("{major}.{minor}")),
        );
        attributes
    }
}

/// As long as what a constraint can ask for.
fn cut(mut value: String) -> String {
    while value.len() > Constraints::MAX_TEXT {
        value.pop();
    }
    value
}
